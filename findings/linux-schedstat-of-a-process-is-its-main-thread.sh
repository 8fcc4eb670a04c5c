#!/usr/bin/env bash
# /proc/PID/schedstat is not of the process but of its main thread.
#
# In the folder of a process some files tell the sum of all threads (stat, io), others the main thread alone, without a word on it:
# schedstat, the context switches in status, wchan, syscall, stack. A Go program's main thread is one of many and often idle, so the time
# on the CPU and the time in the run queue that schedstat shows may be next to nothing for a process that keeps all CPUs busy. The sum has
# to be made over /proc/PID/task/*/schedstat, which lacks the threads that have ended. Seen on Linux 6.18: 1,000 ms by stat, under 100 ms
# by schedstat.
set -euo pipefail

python3 - <<'PY'
import os
import threading
import time


def burn() -> None:
    while time.thread_time() < 1:
        pass


thread = threading.Thread(target=burn)
thread.start()
thread.join()
with open("/proc/self/stat") as file:
    fields = file.read().rpartition(")")[2].split()
process = (int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK")
with open("/proc/self/schedstat") as file:
    schedstat = int(file.read().split()[0]) // 1_000_000
print(f"a thread has used 1,000 ms of CPU: {process} ms by /proc/PID/stat, {schedstat} ms by /proc/PID/schedstat")
raise SystemExit(not (process > 1000 and schedstat < process - 900))
PY
