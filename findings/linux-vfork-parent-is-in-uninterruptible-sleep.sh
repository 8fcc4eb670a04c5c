#!/usr/bin/env bash
# A thread that starts a process by vfork waits in state D.
#
# Until the child has called exec the parent sleeps uninterruptibly but for fatal signals: ps shows D, which is mostly read as "disk", and
# it counts into the load average. Go's os/exec, Python's subprocess and posix_spawn all start processes in that way (CLONE_VFORK), and
# where exec is slow (an executable on a slow file system, a large one that must be read) the starting thread is in D for as long, in a
# system call (vfork, clone or clone3) that reads nothing. Seen on Linux 6.18: state D, kernel stack in kernel_clone. Needs gcc.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/main.c" <<'C'
#include <unistd.h>

int main(void)
{
	if (vfork() == 0) {
		sleep(5);
		_exit(0);
	}
	return 0;
}
C
gcc -o "$folder/main" "$folder/main.c" 2>/dev/null
"$folder/main" &
pid=$!
until pgrep -P "$pid" >/dev/null; do sleep 0.1; done
sleep 0.5
state=$(sed 's/.*) //; s/ .*//' "/proc/$pid/stat")
call=$(cut -d' ' -f1 "/proc/$pid/syscall")
echo "the parent of a child that has not called exec: state $state, system call $call (58 is vfork), in $(cat "/proc/$pid/wchan")"
wait "$pid"
[ "$state" = D ]
