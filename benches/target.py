"""A target is something wrk can be pointed at: a name, a port, a path, and the process behind it.

This is also the only place where the request and its right answer are written.
"""

import json

from client import Connection

KEY = "demo-key"
BODY = {"name": "AITest", "test": True}
BODY_TEXT = json.dumps(BODY, separators=(",", ":"))
ANSWER = {"message": "Hello, World!", "data": BODY}


class WrongAnswer(Exception):
    """A target answered, but not what it has to."""


class Target:
    def __init__(self, name, process, port, path="/"):
        self.name = name
        self.process = process
        self.port = port
        self.path = path

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}{self.path}"

    def check(self):
        """One call, its answer compared: a fast server with a wrong answer must not win."""
        self.process.ensure_alive()
        with Connection(self.port, KEY) as connection:
            answer = connection.request("POST", self.path, BODY_TEXT.encode())
        if answer.status != 200 or answer.json() != ANSWER:
            raise WrongAnswer(f"{self.name} answered {answer.status} {answer.body[:300]!r}")
