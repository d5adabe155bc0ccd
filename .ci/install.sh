#!/usr/bin/env bash
# What CI needs on a Debian machine that has Rust: a C compiler (for the bundled SQLite), Python, numpy for the test
# that its generators do not repeat, curl for the quick start, iproute2 for the tests of the network, strace for disks
# and other things that fail, systemd for a look at the unit file, the benchmark's tools, and what the scripts beside
# this one bring. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")"

packages=(build-essential curl iproute2 python3 python3-dev python3-numpy python3-venv strace systemd)
packages+=(libev-dev nginx-light wrk)
./apt.sh "${packages[@]}"
./install-vm.sh
./install-fuzz.sh
./install-docker.sh
./install-podman.sh

command -v cargo >/dev/null || {
    echo "Rust is missing; rust-version in Cargo.toml says which is needed" >&2
    exit 1
}
# A minimal toolchain lacks these two.
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done
