"""What the figures depend on: the machine, the interpreter, the versions; and the peers' virtual environment."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path


class MachineError(Exception):
    """Something the benchmark needs is missing; the text says how to get it."""


def real_interpreter():
    """The interpreter itself, not the wrapper script of a version manager nor the link of an environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def require(tools):
    """Fail early, with the mend, if a program is missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    missing = [tool for tool in tools if shutil.which(tool, path=path) is None]
    if missing:
        raise MachineError(f"missing: {', '.join(missing)}; on Debian .ci/install-bench.sh installs them")


def ensure_venv(interpreter, requirements, cache_dir):
    """Install the pinned peers once per interpreter and requirements file; returns the environment's directory."""
    facts = requirements.read_bytes() + interpreter.encode() + sys.version.encode()
    venv = cache_dir / f"venv-{hashlib.sha256(facts).hexdigest()[:12]}"
    complete = venv / ".complete"
    if complete.exists():
        return venv
    print("installing the peers from benches/requirements.txt (once)", file=sys.stderr)
    cache_dir.mkdir(parents=True, exist_ok=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    commands = [
        [interpreter, "-m", "venv", "--clear", str(venv)],
        [str(venv / "bin" / "python"), *install, "--requirement", str(requirements)],
    ]
    for command in commands:
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
            raise MachineError(
                f"`{' '.join(command)}` failed; bjoern needs a C compiler and libev's headers: "
                "on Debian .ci/install-bench.sh installs them"
            )
    complete.touch()
    return venv


def facts(interpreter, root):
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1024 * 1024),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "interpreter": interpreter,
        "commit": _first_line(["git", "-C", str(root), "describe", "--always", "--dirty"]),
        "versions": {
            "wrk": _first_line(["wrk", "-v"]),
            "nginx": _first_line([shutil.which("nginx") or "/usr/sbin/nginx", "-v"]),
            **_pinned(root / "benches" / "requirements.txt"),
        },
    }


def _pinned(requirements):
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", requirements.read_text(), re.MULTILINE))


def _cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _first_line(command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError:
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else None
