#!/bin/bash
# A primary and a replica in a scratch directory. Writes on one mount with the sqlite3 command, reads on
# the other, shows the status, and stays until Ctrl-C. With --once it checks the same and ends (0 or 1).
# Whatever happens, nothing is left: no process, no mount, no file.
set -euo pipefail

once=
[ "${1:-}" = --once ] && once=1
bin=$(cd "${BIN_DIR:-target/debug}" && pwd)
dir=$(mktemp -d /var/tmp/litefs-demo.XXXXXX)
pids=()

cleanup() {
    status=$?
    trap - EXIT INT TERM
    # The replica first: it would only complain about the primary.
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill "${pids[$i]}" 2>/dev/null || true
        for _ in $(seq 100); do
            kill -0 "${pids[$i]}" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "${pids[$i]}" 2>/dev/null || true
    done
    for m in "$dir/primary/mnt" "$dir/replica/mnt"; do
        if mountpoint -q "$m" 2>/dev/null || ! stat "$m" >/dev/null 2>&1; then
            umount -l "$m" 2>/dev/null || true
        fi
    done
    if [ "$status" -ne 0 ] && [ "$status" -ne 130 ]; then
        for n in primary replica; do
            echo "--- log of the $n" >&2
            tail -n 30 "$dir/$n/log" >&2 2>/dev/null || true
        done
    fi
    if ! grep -q " $dir/" /proc/self/mounts; then
        rm -rf "$dir"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; }

free_port() {
    local port
    for _ in $(seq 100); do
        port=$((21000 + RANDOM % 10000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    echo "no free port" >&2
    return 1
}

start() { # NAME CANDIDATE PORT
    local name=$1 candidate=$2 port=$3
    mkdir -p "$dir/$name/data"
    cat >"$dir/$name/litefs.yml" <<YML
fuse:
  dir: "$dir/$name/mnt"
data:
  dir: "$dir/$name/data"
http:
  addr: "127.0.0.1:$port"
api:
  socket: "$dir/$name/api.sock"
lease:
  type: static
  candidate: $candidate
  hostname: primary
  advertise-url: "http://127.0.0.1:$primary_port"
YML
    # A session of its own: Ctrl-C is for this script, which then stops the daemons in order.
    setsid "$bin/litefsd" --config "$dir/$name/litefs.yml" </dev/null >"$dir/$name/log" 2>&1 &
    pids+=($!)
    for _ in $(seq 200); do
        mountpoint -q "$dir/$name/mnt" 2>/dev/null && return 0
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "the $name did not start" >&2
    return 1
}

primary_port=$(free_port)
replica_port=$(free_port)
while [ "$replica_port" = "$primary_port" ]; do replica_port=$(free_port); done

say "Starting a primary and a replica in $dir"
start primary true "$primary_port"
start replica false "$replica_port"
P=$dir/primary/mnt
R=$dir/replica/mnt
echo "primary: $P"
echo "replica: $R"

say "Writing on the primary"
sql="PRAGMA journal_mode=wal;
CREATE TABLE greeting(id INTEGER PRIMARY KEY, text TEXT);
INSERT INTO greeting(text) VALUES ('written on the primary'), ('read on the replica');"
show "sqlite3 $P/demo.db \"$sql\""
sqlite3 "$P/demo.db" "$sql"

say "Reading on the replica"
query="SELECT id, text FROM greeting"
show "sqlite3 $R/demo.db \"$query\""
read_rows=
for _ in $(seq 100); do
    if [ -e "$R/demo.db" ] && read_rows=$(sqlite3 -cmd '.timeout 2000' "$R/demo.db" "$query" 2>/dev/null) && [ -n "$read_rows" ]; then
        break
    fi
    sleep 0.1
done
echo "$read_rows"
want=$(sqlite3 "$P/demo.db" "$query")
if [ "$read_rows" != "$want" ]; then
    echo "the replica does not show what was written" >&2
    exit 1
fi

say "A write on the replica is refused; the primary is named in .primary"
show "sqlite3 $R/demo.db \"INSERT INTO greeting(text) VALUES ('no')\""
if sqlite3 "$R/demo.db" "INSERT INTO greeting(text) VALUES ('no')"; then
    echo "the replica accepted a write" >&2
    exit 1
fi
show "cat $R/.primary"
cat "$R/.primary"

say "Status"
for n in primary replica; do
    show "litefsctl --socket $dir/$n/api.sock status"
    "$bin/litefsctl" --socket "$dir/$n/api.sock" status
done

if [ -n "$once" ]; then
    say "All as it should be."
    exit 0
fi
say "Both run until Ctrl-C. Try in another terminal:"
echo "  sqlite3 $P/demo.db \"INSERT INTO greeting(text) VALUES ('hello')\""
echo "  sqlite3 $R/demo.db \"SELECT * FROM greeting\""
echo "  $bin/litefsctl --socket $dir/replica/api.sock status --watch"
while kill -0 "${pids[0]}" 2>/dev/null && kill -0 "${pids[1]}" 2>/dev/null; do
    sleep 1 &
    wait $! || true
done
echo "a daemon has ended" >&2
exit 1
