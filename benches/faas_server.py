"""The release server under test: built, started on its own state, and given its functions through the API."""

import json
import subprocess
import tempfile
from pathlib import Path

from client import Connection
from process import Process, free_port
from target import KEY, Target

CODE = 'def handle(request):\n    return {"message": "Hello, World!", "data": request.get_json()}\n'


class FaasError(Exception):
    """The server could not be built, or refused what the benchmark asked of it."""


def build(root):
    """`cargo build --release`, its output shown; returns the binary."""
    done = subprocess.run(["cargo", "build", "--release"], cwd=root, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise FaasError("cargo build --release failed")
    return root / "target" / "release" / "faas"


class FaasServer:
    def __init__(self, binary, interpreter, work_dir):
        self.port = free_port()
        state = tempfile.mkdtemp(prefix="state-", dir=work_dir)
        # The interpreter is given, so that the functions and the peers run on the very same one.
        settings = {
            "system": {
                "host": "127.0.0.1",
                "api_gateway_port": self.port,
                "function_storage_path": state,
                "logging_level": "WARNING",
                "process_isolation_level": "strict",
                "python": str(interpreter),
            }
        }
        config = Path(work_dir) / "faas_config.yaml"
        # JSON is YAML, so that no YAML writer is needed.
        config.write_text(json.dumps(settings, indent=2))
        self.process = Process("faas", [binary, config], Path(work_dir) / "faas.log")
        try:
            self.process.wait_until_listening(self.port)
            self._expect("GET", "/health", None, 200)
        except BaseException:
            self.process.stop()
            raise

    def connect(self):
        return Connection(self.port, KEY)

    def register(self, name, code=CODE, **config):
        """Post a function; the server checks its code and makes it durable before it answers."""
        config = {"execution_mode": "process", "timeout": 30, "memory": "128Mi", **config}
        self._expect("POST", "/functions", {"name": name, "code": code, "config": config}, 201)

    def delete(self, name):
        self._expect("DELETE", f"/functions/{name}", None, 204)

    def target(self, name, **config):
        """A function of its own, as something to load."""
        self.register(name, **config)
        return Target(name, self.process, self.port, f"/invoke/{name}")

    def _expect(self, method, path, body, status):
        with self.connect() as connection:
            answer = connection.request(method, path, body)
        if answer.status != status:
            raise FaasError(f"{method} {path} answered {answer.status}, not {status}: {answer.body[:500]!r}")
