#!/bin/bash
# Runs all tests: cargo-nextest where it is installed (a process for each test), else `cargo test`.
# With --soak the long ones too, that CI leaves out. Other arguments go to the runner.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

soak=
if [ "${1:-}" = --soak ]; then
    soak=1
    shift
fi

# The tests start these as programs of their own.
$cargo build --workspace --bins --locked

if [ -n "$soak" ]; then
    # The crash matrix with more random crashes and histories; it reads LITEFS_SOAK.
    $cargo test -p litefs-store --locked --test crash
fi

if $cargo nextest --version >/dev/null 2>&1; then
    if [ -n "$soak" ]; then
        exec $cargo nextest run -p litefs-tests --locked --profile soak --run-ignored all --test-threads 1 -E 'binary(soak) or binary(/^fuzz_/) or test(random_damage)' "$@"
    fi
    exec $cargo nextest run --workspace --locked "$@"
fi
if [ -n "$soak" ]; then
    exec $cargo test -p litefs-tests --locked --test soak --test fuzz_parsers --test fuzz_storage --test fuzz_port "$@" -- --include-ignored --test-threads 1
fi
exec $cargo test --workspace --locked --no-fail-fast "$@"
