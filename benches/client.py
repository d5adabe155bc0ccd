"""A small HTTP/1.1 client on one kept-alive connection: enough to time a call without timing a library.

It knows answers with a Content-Length and nothing else, and raises on everything it does not know.
"""

import json
import socket
import time


class HttpError(Exception):
    """The server answered something this client does not understand, or not at all."""


class Answer:
    """One answer: `headers` have lower-case names, `elapsed_ns` runs from the first byte out to the last byte in."""

    def __init__(self, status, headers, body, elapsed_ns):
        self.status = status
        self.headers = headers
        self.body = body
        self.elapsed_ns = elapsed_ns

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise HttpError(f"the answer is not JSON: {self.body[:200]!r}") from error


class Connection:
    def __init__(self, port, key, timeout_s=60):
        self.port = port
        self.key = key
        self.timeout_s = timeout_s
        self.socket = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def request(self, method, path, body=None):
        """Send one request; `body` is bytes, or anything that `json` can write."""
        if body is None:
            body = b""
        elif not isinstance(body, bytes):
            body = json.dumps(body).encode()
        message = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), self.timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            begun_ns = time.perf_counter_ns()
            self.socket.sendall(message)
            status, headers, answer = self._receive()
            elapsed_ns = time.perf_counter_ns() - begun_ns
        except (OSError, ValueError) as error:
            self.close()
            raise HttpError(f"{method} {path}: {error}") from error
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, answer, elapsed_ns)

    def _receive(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive_some()
        head, _, body = data.partition(b"\r\n\r\n")
        status_line, *fields = head.decode("latin-1").split("\r\n")
        headers = {}
        for field in fields:
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        status = int(status_line.split(" ", 2)[1])
        if "content-length" not in headers and status != 204:
            raise ValueError(f"status {status} without a content-length")
        length = int(headers.get("content-length", "0"))
        while len(body) < length:
            body += self._receive_some()
        if len(body) > length:
            raise ValueError("bytes after the end of the answer")
        return status, headers, body

    def _receive_some(self):
        data = self.socket.recv(65536)
        if not data:
            raise ValueError("the server closed the connection before its answer was complete")
        return data
