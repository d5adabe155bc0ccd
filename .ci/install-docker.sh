#!/usr/bin/env bash
# What the tests of container mode need beside Rust and Python: dockerd, of which each test program starts one for itself
# (`tests/common/engine/keeper.py`), and debootstrap for the image (`tests/common/engine/image.py`). Debian starts Docker when it
# installs it. Nothing here uses that one, so it is not started: while this installs, policy-rc.d says no, unless the
# host has one that says what it likes.
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

as_root=()
[[ $(id -u) -eq 0 ]] || as_root=(sudo)
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install --mode=755 /dev/stdin "$policy"
fi
./apt.sh "${packages[@]}"
