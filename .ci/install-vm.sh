#!/usr/bin/env bash
# What `make test-vm` needs beside Rust and Python: QEMU, a kernel for the machine (it is not this system's to boot), and
# the programs of its file system, beside what `install-docker.sh` brings. It is for x86_64 alone.
set -euo pipefail
[[ $(uname -m) == x86_64 ]] || exit 0
exec "$(dirname "$0")/apt.sh" apparmor binutils busybox-static linux-image-cloud-amd64 qemu-system-x86
