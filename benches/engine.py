"""A Docker engine of the benchmark's own: faas speaks to it, and so does the peer that makes containers by hand.

It is kept by the tests' keeper (`tests/common/engine/keeper.py`), which ends and removes all that came of it when this
process ends, in whatever way. Its data is in memory, and it has no bridge. Nobody else's engine is asked for anything.
"""

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

FIXTURE = Path(__file__).resolve().parent.parent / "tests" / "common" / "engine"
IMAGE = "faas-base:bench"
# Of every container that a server of ours has made.
LABEL = "faas.managed"
END_TIMEOUT_S = 60
# Far less than the minutes after which the engine closes a connection that nobody uses.
IDLE_S = 30
# A Python that has started, as a container's only process: what is between the call and a function's first line.
PYTHON = ["python3", "-S", "-c", "pass"]


class EngineError(Exception):
    """The engine could not be had, or refused what was asked of it."""


def lacking():
    """Why there can be no engine here, or nothing."""
    missing = [tool for tool in ("dockerd", "debootstrap", "unshare") if shutil.which(tool) is None]
    return f"{', '.join(missing)} not installed (.ci/install-docker.sh installs them on Debian)" if missing else None


class Engine:
    def __init__(self):
        archive = self._output([sys.executable, FIXTURE / "image.py"])
        command = ["unshare", "--mount", "--propagation", "slave", sys.executable, str(FIXTURE / "keeper.py"), "docker"]
        self.keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.directory = Path(self.keeper.stdout.readline().strip())
            self.socket = self.directory / "engine.sock"
            self._tell("start")
            self.connection = _Connection(str(self.socket))
            repository, _, tag = IMAGE.partition(":")
            with open(archive, "rb") as file:
                self._ask("POST", f"/images/create?fromSrc=-&repo={repository}&tag={tag}", file, "application/x-tar")
            self.pid = int((self.directory / "pid").read_text())
            self.version = self.call("GET", "/version")["Version"]
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """May be called twice."""
        self.keeper.stdin.close()
        try:
            self.keeper.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.keeper.kill()
            self.keeper.wait()

    def call(self, method, path, body=None):
        """Ask the engine's API; the JSON of its answer, or nothing."""
        return self._ask(method, path, json.dumps(body) if body is not None else None, "application/json")

    def containers(self):
        """The containers of faas's servers, in whatever state."""
        return self.call("GET", "/containers/json?all=1&filters=" + quote(json.dumps({"label": [LABEL]})))

    def run_by_hand(self, spec=None):
        """A container made and started: milliseconds until the engine has started it, and until its Python has ended.

        `spec` is what it is made of: as little as can be, if nothing is said. Its removal is not in the times.
        """
        spec = spec or {"Image": IMAGE, "Cmd": PYTHON, "HostConfig": {"NetworkMode": "none"}}
        begun = time.perf_counter()
        made = self.call("POST", "/containers/create", spec)["Id"]
        self.call("POST", f"/containers/{made}/start")
        started = time.perf_counter()
        self.call("POST", f"/containers/{made}/wait")
        ended = time.perf_counter()
        self.call("DELETE", f"/containers/{made}?force=1&v=1")
        return (started - begun) * 1000, (ended - begun) * 1000

    def processes(self):
        """What descends from the keeper, as {pid: name}."""
        names, waiting = {}, [self.keeper.pid]
        children = _children()
        while waiting:
            for pid, name in children.get(waiting.pop(), []):
                names[pid] = name
                waiting.append(pid)
        return names

    def _tell(self, order):
        self.keeper.stdin.write(order + "\n")
        self.keeper.stdin.flush()
        answer = self.keeper.stdout.readline().strip()
        if answer != "ok":
            raise EngineError(f"the engine, told to {order}: {answer or 'no answer'}")

    def _ask(self, method, path, body, kind):
        self.connection.close_if_old()
        self.connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
        answer = self.connection.getresponse()
        text = answer.read()
        # An import answers 200, and tells in its progress that it has failed.
        if not 200 <= answer.status < 300 or b"errorDetail" in text:
            raise EngineError(f"{method} {path} answered {answer.status}: {text[:500]!r}")
        return json.loads(text) if text.startswith((b"{", b"[")) and text.count(b"\n") <= 1 else None

    @staticmethod
    def _output(command):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise EngineError(f"no image: {done.stderr.strip()}")
        return done.stdout.strip()


def _children():
    """Who has which children: {pid: [(pid, name)]}."""
    children = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                head, _, rest = (directory / "stat").read_text().rpartition(")")
            except OSError:
                continue
            children.setdefault(int(rest.split()[1]), []).append((int(directory.name), head.partition("(")[2]))
    return children


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, kept open while calls come: the engine closes a connection that is idle."""

    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path
        self.used = time.monotonic()

    def close_if_old(self):
        if time.monotonic() - self.used > IDLE_S:
            self.close()
        self.used = time.monotonic()

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
