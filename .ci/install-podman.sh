#!/usr/bin/env bash
# What `make test-podman` needs beside the tests of container mode: Podman, with the runtime that Debian's own brings by
# default (where Docker's is installed already, apt would leave it at that). Each test program starts a service of its own
# (`tests/common/engine/keeper.py`). Nothing here uses the one that Debian may start when it installs it, so it is not
# started: while this installs, policy-rc.d says no, unless the host has one that says what it likes.
set -euo pipefail
cd "$(dirname "$0")"
export PATH=$PATH:/usr/sbin:/sbin

packages=()
command -v podman >/dev/null || packages+=(podman)
command -v crun >/dev/null || packages+=(crun)
[[ ${#packages[@]} -gt 0 ]] || exit 0

as_root=()
[[ $(id -u) -eq 0 ]] || as_root=(sudo)
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install --mode=755 /dev/stdin "$policy"
fi
./apt.sh "${packages[@]}"
