#!/usr/bin/env bash
# What `make fuzz` needs beside Rust: a C++ compiler for libFuzzer, which the crate libfuzzer-sys brings as source.
set -euo pipefail
exec "$(dirname "$0")/apt.sh" g++
