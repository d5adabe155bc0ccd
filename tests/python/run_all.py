#!/usr/bin/env python3
"""Runs the shim's tests on every Python from 3.8 on that this machine has: `python3.N` on PATH and pyenv's versions.

Prints a line for each, and the oldest and the newest. Exits 1 when one fails or none is found.
"""

import glob
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
OLDEST = (3, 8)
PROBE = "import sys; print(sys.executable); print(*sys.version_info[:3]); print('t' in sys.abiflags)"


def candidates():
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        for path in glob.glob(os.path.join(directory, "python3*")):
            if re.fullmatch(r"python3(\.\d+)?", os.path.basename(path)):
                yield path
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    yield from glob.glob(os.path.join(root, "versions", "*", "bin", "python3"))


def interpreters():
    """`{version: executable}`, one for each version; free-threaded builds are not served."""
    found = {}
    for path in candidates():
        try:
            probe = subprocess.run([path, "-I", "-S", "-c", PROBE], stdout=-1, stderr=-1, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            # A version manager's wrapper for a version that is not installed.
            continue
        executable, version, free_threaded = probe.stdout.decode().splitlines()
        version = tuple(map(int, version.split()))
        if version >= OLDEST and free_threaded == "False":
            found.setdefault(version, executable)
    return dict(sorted(found.items()))


def main():
    found = interpreters()
    failed = []
    for version, executable in found.items():
        name = "%d.%d.%d" % version
        command = [executable, "-B", "-m", "unittest", "discover", "-s", HERE, *sys.argv[1:]]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        verdict = "ok" if result.returncode == 0 else "FAILED"
        print("%-8s %-6s %s" % (name, verdict, executable), flush=True)
        if result.returncode:
            failed.append(name)
            print(result.stdout.decode(errors="replace"))
    if not found:
        print("no python3 of at least 3.8 found")
        return 1
    names = ["%d.%d.%d" % version for version in found]
    print("oldest %s, newest %s: %s" % (names[0], names[-1], "failed on " + ", ".join(failed) if failed else "all ok"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
