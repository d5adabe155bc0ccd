"""The release server under test: built, started on its own state, and given its functions through the API."""

import json
import subprocess
import tempfile
from pathlib import Path

from client import Connection
from process import Process, free_port
from target import KEY, Target

ADMIN_KEY = "admin-key"
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
    def __init__(self, binary, interpreter, work_dir, **system):
        """`system` is what its configuration says besides."""
        self.port = free_port()
        state = tempfile.mkdtemp(prefix="state-", dir=work_dir)
        # The interpreter is given, so that the functions and the peers run on the very same one.
        self.settings = {
            "system": {
                "host": "127.0.0.1",
                "api_gateway_port": self.port,
                "function_storage_path": state,
                "logging_level": "WARNING",
                "process_isolation_level": "strict",
                "python": str(interpreter),
                **system,
            }
        }
        self.state = Path(state)
        self.config = Path(work_dir) / "faas_config.yaml"
        self._write_config()
        self.process = Process("faas", [binary, self.config], Path(work_dir) / "faas.log")
        try:
            self.process.wait_until_listening(self.port)
            self._expect("GET", "/health", None, 200)
        except BaseException:
            self.process.stop()
            raise

    def connect(self):
        return Connection(self.port, KEY)

    def get(self, path):
        return self._expect("GET", path, None, 200).json()

    def reload(self, **system):
        """Change what its configuration says, and have it read again."""
        self.settings["system"].update(system)
        self._write_config()
        self._expect("POST", "/admin/reload", None, 200, ADMIN_KEY)

    def _write_config(self):
        # JSON is YAML, so that no YAML writer is needed.
        self.config.write_text(json.dumps(self.settings, indent=2))

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

    def _expect(self, method, path, body, status, key=KEY):
        with Connection(self.port, key) as connection:
            answer = connection.request(method, path, body)
        if answer.status != status:
            raise FaasError(f"{method} {path} answered {answer.status}, not {status}: {answer.body[:500]!r}")
        return answer
