#!/usr/bin/env bash
# A thread that was stopped and continued in a sleep is in another system call afterwards.
#
# After SIGSTOP and SIGCONT, or after a debugger has looked in, the kernel goes on with a call that had a timeout by making the call
# restart_syscall (219 on x86-64) in the thread's name: nanosleep, poll, futex with a timeout. The program sees nothing of it. But
# /proc/PID/syscall, the tracepoint sys_enter and ptrace now show 219 where 230 (clock_nanosleep) was, with the old arguments, and the
# wait looks like two. Who counts waits by call, or reads a descriptor or a futex from the arguments by number, must remember the call
# before. Seen on Linux 6.18, x86-64: 230 before, 219 after. Needs root, or leave to read the process's /proc/PID/syscall.
set -euo pipefail

call() { cut -d' ' -f1 "/proc/$sleeper/syscall"; }
state() { sed 's/.*) //; s/ .*//' "/proc/$sleeper/stat"; }
await() { # STATE
    for _ in $(seq 100); do
        [ "$(state)" != "$1" ] || return 0
        sleep 0.1
    done
    return 1
}
sleep 60 &
sleeper=$!
trap 'kill "$sleeper"' EXIT
until [ "$(call)" = 230 ]; do sleep 0.1; done
kill -STOP "$sleeper"
await T
stopped=$(call)
kill -CONT "$sleeper"
await S
after=$(call)
echo "sleep 60 is in system call 230; while it is stopped, in $stopped; when it has been continued, in $after"
[ "$after" = 219 ]
