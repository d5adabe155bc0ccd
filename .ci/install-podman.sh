#!/usr/bin/env bash
# What `make test-podman` needs beside the tests of container mode: Podman, with the runtime that Debian's own brings by
# default (where Docker's is installed already, apt would leave it at that). Each test program starts a service of its own
# (`tests/common/engine/keeper.py`).
set -euo pipefail
cd "$(dirname "$0")"
export PATH=$PATH:/usr/sbin:/sbin

packages=()
command -v podman >/dev/null || packages+=(podman)
command -v crun >/dev/null || packages+=(crun)
[[ ${#packages[@]} -gt 0 ]] || exit 0
./apt.sh "${packages[@]}"
