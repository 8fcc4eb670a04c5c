#!/usr/bin/env bash
# The descriptors that /proc/PID/fdinfo shows for an epoll instance may be other files by now.
#
# What an epoll instance watches is an open file; the line "tfd: N" tells by which number it was added. If that descriptor is closed while
# a copy of it is open (dup, a child), the file is still watched, still under N, and N may have been given to another file, which the
# process can't remove from the instance. To look N up in /proc/PID/fd tells the wrong file; the line's ino and sdev tell the right one.
# Seen on Linux 6.18: "tfd: 3 ... ino:X" where descriptor 3 is /etc/hostname and X is the inode of a pipe, whose events arrive.
set -euo pipefail

python3 - <<'PY'
import os
import re
import select

reader, writer = os.pipe()
copy = os.dup(reader)
epoll = select.epoll()
epoll.register(reader, select.EPOLLIN)
os.close(reader)
other = os.open("/etc/hostname", os.O_RDONLY)
with open(f"/proc/self/fdinfo/{epoll.fileno()}") as file:
    number, inode = re.search(r"tfd: +(\d+) .* ino:([0-9a-f]+) ", file.read()).groups()
os.write(writer, b"x")
events = epoll.poll(1)
print(f"watched: descriptor {number}, inode {int(inode, 16)}; descriptor {number} is {os.readlink(f'/proc/self/fd/{number}')}, "
      f"inode {os.fstat(other).st_ino}; the pipe, of inode {os.fstat(copy).st_ino}, gives {events}")
raise SystemExit(not (int(number) == other and int(inode, 16) == os.fstat(copy).st_ino and events == [(other, select.EPOLLIN)]))
PY
