#!/usr/bin/env bash
# What the tests of container mode need beside Rust and Python: dockerd, of which each test program starts one for itself
# (`tests/common/engine/keeper.py`), and debootstrap for the image (`tests/common/engine/image.py`).
set -euo pipefail
cd "$(dirname "$0")"
export PATH=$PATH:/usr/sbin:/sbin

packages=()
# A Docker that came from elsewhere conflicts with Debian's.
command -v dockerd >/dev/null || packages+=(docker.io)
command -v debootstrap >/dev/null || packages+=(debootstrap)
# Where the kernel has AppArmor, dockerd loads a profile with this.
[[ ! -e /sys/module/apparmor ]] || command -v apparmor_parser >/dev/null || packages+=(apparmor)
[[ ${#packages[@]} -gt 0 ]] || exit 0
./apt.sh "${packages[@]}"
