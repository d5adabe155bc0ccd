#!/usr/bin/env bash
# What `make bench` needs beside Rust and Python: the load generator, nginx as the ceiling, what bjoern is built with.
# Debian starts nginx when it installs it; the benchmark runs its own and does not need that one.
set -euo pipefail
exec "$(dirname "$0")/apt.sh" build-essential libev-dev nginx-light python3-dev python3-venv wrk
