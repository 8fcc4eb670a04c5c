#!/usr/bin/env bash
# A process may be alive and look dead: its main thread has ended.
#
# If the main thread calls pthread_exit the others go on for as long as they like. ps says "defunct", /proc/PID/maps is empty,
# /proc/PID/exe and /proc/PID/fd lead nowhere, because all of these are of the main thread, which has given up its memory and its files.
# /proc/PID/task/TID of any thread that lives has them all. Who takes a zombie for dead loses a running program. Seen on Linux 6.18: state
# Z and no maps by PID, state S and all maps by the other thread's TID. Needs gcc.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/main.c" <<'C'
#include <pthread.h>
#include <unistd.h>

static void *work(void *unused)
{
	sleep(30);
	return unused;
}

int main(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, work, NULL);
	pthread_exit(NULL);
}
C
gcc -pthread -o "$folder/main" "$folder/main.c"
"$folder/main" &
pid=$!
trap 'kill "$pid"; rm -rf "$folder"' EXIT
state() { sed 's/.*) //; s/ .*//' "$1/stat"; }
until [ "$(state "/proc/$pid")" = Z ]; do sleep 0.1; done
other=$(find "/proc/$pid/task" -mindepth 1 -maxdepth 1 -not -name "$pid")
by_pid=$(wc -l <"/proc/$pid/maps")
by_thread=$(wc -l <"$other/maps")
echo "by PID: state $(state "/proc/$pid"), $by_pid mappings, executable \"$(readlink "/proc/$pid/exe" || true)\";" \
    "by the other thread: state $(state "$other"), $by_thread mappings, executable $(basename "$(readlink "$other/exe")")"
[ "$by_pid" -eq 0 ] && [ "$by_thread" -gt 5 ] && [ "$(state "$other")" = S ]
