#!/bin/bash
# Installs what tests (or, with the word `demo`, the demo) need and is missing. Says nothing if all is there.
set -euo pipefail

need=(cc:gcc fusermount3:fuse3 sqlite3:sqlite3 mountpoint:util-linux)
if [ "${1:-}" != demo ]; then
    need+=(ip:iproute2 strace:strace nsenter:util-linux curl:curl stdbuf:coreutils fallocate:util-linux)
fi

missing=()
for pair in "${need[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "missing: ${missing[*]} (install these packages, or run this as root on Debian)" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    echo "installing: ${missing[*]}" >&2
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >&2
fi

if [ ! -e /dev/fuse ]; then
    modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || { echo "/dev/fuse is missing: this kernel or container has no FUSE" >&2; exit 1; }
fi
if [ "$(id -u)" != 0 ]; then
    echo "this mounts file systems: run it as root" >&2
    exit 1
fi
