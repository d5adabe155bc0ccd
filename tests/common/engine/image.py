#!/usr/bin/env python3
"""Makes the image that the tests run containers from, and prints the path of its tar archive.

It is a small Debian with Python, made by `debootstrap` from its default mirror, without what no function needs. It
takes a minute, and is kept in `target/test-image/` under a digest of the recipe, which is this file. So it is made once
in a clone, and again when the recipe changes. Several may ask at once: one makes it, the others wait.
"""

import fcntl
import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

SUITE = "bookworm"
# The minimal Python lacks json, which the shim needs.
PACKAGES = ["python3"]
# Patterns below the root, of what is not for a function to use or to read.
NOT_NEEDED = [
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "usr/share/bash-completion",
    "usr/share/lintian",
    "usr/share/perl5",
    "usr/bin/perl*",
    "usr/lib/*/perl*",
    "usr/lib/apt",
    "usr/lib/*/libapt-*",
    "usr/bin/apt*",
    "var/cache/*",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/log/*",
]
CACHE = Path(__file__).resolve().parents[3] / "target" / "test-image"


def recipe():
    """What an archive is made of, as a name."""
    with open(__file__, "rb") as recipe_file:
        return hashlib.sha256(recipe_file.read() + platform.machine().encode()).hexdigest()[:16]


def run(*command):
    with open(CACHE / "log", "ab") as log:
        # With mounts of its own: what debootstrap mounts is gone when it is, also when it is killed.
        result = subprocess.run(["unshare", "--mount", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    if result.returncode:
        words = (CACHE / "log").read_text(errors="replace").strip().splitlines()
        sys.exit("%s failed (%s): %s" % (command[0], CACHE / "log", words[-1] if words else "without a word"))


def make(archive):
    root = CACHE / "root"
    shutil.rmtree(root, ignore_errors=True)
    (CACHE / "log").write_text("")
    run("debootstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES), SUITE, str(root))
    for pattern in NOT_NEEDED:
        for path in glob.glob(str(root / pattern)):
            (shutil.rmtree if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)
    unfinished = archive.with_suffix(".unfinished")
    run("tar", "--create", "--numeric-owner", "--exclude=./dev/*", "--file", str(unfinished), "--directory", str(root), ".")
    shutil.rmtree(root)
    for old in CACHE.glob("*.tar"):
        old.unlink()
    unfinished.rename(archive)


def main():
    archive = CACHE / (recipe() + ".tar")
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            if not shutil.which("debootstrap"):
                sys.exit("debootstrap is not installed (.ci/install-docker.sh installs it on Debian)")
            make(archive)
    print(archive)


if __name__ == "__main__":
    main()
