#!/usr/bin/env bash
# Install those of the named Debian packages that are not installed yet. Asks nothing; does nothing when all are there.
# Debian starts services when it installs them. Tests start their own, so meanwhile policy-rc.d says no, unless the host
# has one that says what it likes.
set -euo pipefail

missing=()
for package in "$@"; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $status == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
[[ $(id -u) -eq 0 ]] || as_root=(sudo)
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install --mode=755 /dev/stdin "$policy"
fi
echo "installing ${missing[*]}"
"${as_root[@]}" apt-get update --quiet --option Acquire::Retries=3
# Through env, because sudo passes no variable on.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --quiet --yes --no-install-recommends --option Acquire::Retries=3 "${missing[@]}"
