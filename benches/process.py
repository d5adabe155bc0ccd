"""A server process of the benchmark: started in a session of its own, ended by pid, whatever happens between.

Invariant: when `stop` returns, neither the process nor any other of its process group is alive.
"""

import os
import signal
import socket
import subprocess
import time

READY_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15
LOG_TAIL_BYTES = 4000


class ProcessError(Exception):
    """A server did not start, or ended by itself."""


def free_port():
    """A port that nobody listens on. Somebody else may take it before it is used; then the server says so and ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    def __init__(self, name, command, log_path, cwd=None):
        self.name = name
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
            )

    def ensure_alive(self):
        """Raise, with the end of its log, if the process has ended."""
        if self._has_ended():
            raise ProcessError(f"{self.name} ended by itself; its log ends with:\n{self._log_tail()}")

    def wait_until_listening(self, port):
        # A foreign server has no other sign of readiness than that it accepts a connection.
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while True:
            self.ensure_alive()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if time.monotonic() > give_up_at:
                    raise ProcessError(
                        f"{self.name} does not listen on port {port} after {READY_TIMEOUT_S} s; its log ends with:\n"
                        f"{self._log_tail()}"
                    ) from None
                time.sleep(0.02)

    def stop(self):
        """Ask it to end, insist after a while, and end what is left of its group. May be called twice."""
        if self.child.returncode is not None:
            return
        give_up_at = time.monotonic() + STOP_TIMEOUT_S
        if not self._has_ended():
            os.kill(self.child.pid, signal.SIGTERM)
        while not self._has_ended() and time.monotonic() < give_up_at:
            time.sleep(0.02)
        # The process, dead or alive, is not reaped before this line, so its pid still names its own group.
        os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def _has_ended(self):
        if self.child.returncode is not None:
            return True
        # WNOWAIT leaves the zombie, and with it the pid, in place: see `stop`.
        return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _log_tail(self):
        with open(self.log_path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").rstrip() or "(nothing)"
