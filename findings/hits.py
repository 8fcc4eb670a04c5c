"""Counts how often instructions of a program are executed: uprobes as plain perf events, so neither BPF nor tracefs is needed.

usage: hits.py SYMBOL[+OFFSET]... -- PROGRAM [ARGUMENT...]

The program has to wait for a line on its standard input: it gets one when all probes are there. Prints one line for each probe with
the number of hits. Counts every process that runs the same file. Used by the scripts of this folder.
"""

import ctypes
import os
import struct
import subprocess
import sys

PERF_EVENT_OPEN = 298  # x86-64


def symbol_address(path: str, symbol: str) -> int:
    for line in subprocess.run(["readelf", "-sW", path], check=True, capture_output=True, text=True).stdout.splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[7] == symbol and fields[3] == "FUNC":
            return int(fields[1], 16)
    raise SystemExit(f"{path} has no function {symbol}")


def file_offset(path: str, address: int) -> int:
    for line in subprocess.run(["readelf", "-lW", path], check=True, capture_output=True, text=True).stdout.splitlines():
        fields = line.split()
        if fields and fields[0] == "LOAD":
            offset, start, _, size = (int(field, 16) for field in fields[1:5])
            if start <= address < start + size:
                return address - start + offset
    raise SystemExit(f"{path} has nothing at {address:#x}")


def open_uprobe(path: str, offset: int, cpu: int) -> int:
    """A perf event that counts the hits of an instruction on one CPU, whoever executes it."""
    with open("/sys/bus/event_source/devices/uprobe/type") as file:
        kind = int(file.read())
    name = ctypes.create_string_buffer(os.fsencode(path))
    attributes = struct.pack("IIQQQQQIIQQ", kind, 112, 0, 0, 0, 0, 0, 0, 0, ctypes.addressof(name), offset).ljust(112, b"\0")
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(PERF_EVENT_OPEN, attributes, -1, cpu, -1, 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return descriptor


def main() -> None:
    split = sys.argv.index("--")
    places, command = sys.argv[1:split], sys.argv[split + 1:]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr)
    probes = []
    for place in places:
        symbol, _, behind = place.partition("+")
        offset = file_offset(command[0], symbol_address(command[0], symbol) + int(behind or "0"))
        probes.append([open_uprobe(command[0], offset, cpu) for cpu in sorted(os.sched_getaffinity(0))])
    program.communicate(b"\n")
    for place, descriptors in zip(places, probes):
        print(place, sum(struct.unpack("Q", os.read(descriptor, 8))[0] for descriptor in descriptors))
    if program.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {program.returncode}")


if __name__ == "__main__":
    main()
