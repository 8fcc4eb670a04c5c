#!/usr/bin/env bash
# renice changes the main thread of a process and no other.
#
# POSIX has a nice value for a process, Linux for each thread: setpriority(PRIO_PROCESS, PID) and renice -p PID set that of the thread
# with that id, the main thread, and ps -o ni shows that one. Threads that exist already keep theirs; those that the main thread starts
# later inherit it. A Go program, whose goroutines run on whatever thread there is, is slowed or favoured in part and by chance. To reach
# all: every id in /proc/PID/task. Seen on Linux 6.18: nice values 5, 0, 0, 0 of a process with four threads, of which ps says 5.
set -euo pipefail

python3 - <<'PY'
import os
import subprocess
import threading

end = threading.Event()
threads = [threading.Thread(target=end.wait) for _ in range(3)]
for thread in threads:
    thread.start()
before = os.getpriority(os.PRIO_PROCESS, 0)
subprocess.run(["renice", "-n", str(before + 5), "-p", str(os.getpid())], check=True, stdout=subprocess.DEVNULL)
values = [os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in sorted(os.listdir("/proc/self/task"), key=int)]
shown = int(subprocess.run(["ps", "-o", "ni=", "-p", str(os.getpid())], check=True, capture_output=True, text=True).stdout)
end.set()
print(f"after renice -n {before + 5} -p PID: ps shows {shown}, the threads have {values}")
raise SystemExit(not (shown == before + 5 and values == [before + 5, before, before, before]))
PY
