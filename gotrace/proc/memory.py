"""Reads the target's memory without stopping it: process_vm_readv(2)."""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PF_EXITING = 4
_IOV_MAX = WORDS_AT_ONCE = 1024
_WORD = 0xFFFFFFFFFFFFFFFF


class Memory:
    """The address space of `pid`. Reads may be torn: the process keeps running."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._thread = pid
        self._readv = ct.CDLL(None, use_errno=True).process_vm_readv
        self._readv.restype = ct.c_ssize_t
        self._readv.argtypes = [ct.c_int, ct.c_void_p, ct.c_ulong, ct.c_void_p, ct.c_ulong, ct.c_ulong]

    def read(self, address: int, size: int) -> bytes | None:
        """Exactly `size` bytes, or None if they can't all be read.

        Raises:
            ProcessLookupError: the process is gone.
            PermissionError: we may not read it.
        """
        return self.read_many([(address, size)])[0]

    def u64(self, address: int) -> int | None:
        """The 64-bit word at `address`, or None."""
        raw = self.read(address, 8)
        return None if raw is None else int.from_bytes(raw, "little")

    def read_many(self, ranges: list[tuple[int, int]]) -> list[bytes | None]:
        """Each (address, size) of `ranges`, None if it can't be read whole; 1024 of them cost one system call."""
        results: list[bytes | None] = [None] * len(ranges)
        for start in range(0, len(ranges), _IOV_MAX):
            self._read_part(ranges[start : start + _IOV_MAX], results, start)
        return results

    def read_u32s(self, addresses: list[int]) -> array[int] | None:
        """The 32-bit words at up to `WORDS_AT_ONCE` addresses, with one system call; None if one of them can't be read.

        Raises: as `read`.
        """
        remote = array("Q", bytes(16 * len(addresses)))
        remote[0::2] = array("Q", [address & _WORD for address in addresses])
        remote[1::2] = array("Q", [4]) * len(addresses)
        buffer = bytearray(4 * len(addresses) or 1)
        got = self.read_into(buffer, 4 * len(addresses), remote)
        return array("I", bytes(buffer[:got])) if got == 4 * len(addresses) else None

    def fixed(self, ranges: list[tuple[int, int]], buffer: bytearray) -> FixedRanges:
        """For ranges that are read repeatedly: the arguments of the system call are made once. `buffer` has room for all."""
        return FixedRanges(self, ranges, buffer)

    def read_into(self, buffer: bytearray, total: int, remote: array[int]) -> int:
        """One system call: reads up to 1024 ranges, one after another, into `buffer`; returns the number of bytes read. `remote` are the
        address and the size of each range (struct iovec), `total` is the sum of the sizes, for which `buffer` has room.

        Raises: as `read`.
        """
        if total > len(buffer):
            raise ValueError(f"{total} bytes do not fit into {len(buffer)}")
        local = array("Q", (ct.addressof(ct.c_char.from_buffer(buffer)), total))
        got: int = self._readv(self._thread, local.buffer_info()[0], 1, remote.buffer_info()[0], len(remote) // 2, 0)
        if got < 0:
            number = ct.get_errno()
            if number == errno.ESRCH and (thread := living_thread(self.pid)) not in (0, self._thread):
                # A thread that has ended, even the main one, has no memory any more; the others still have it.
                self._thread = thread
                return self.read_into(buffer, total, remote)
            if number == errno.ESRCH:
                raise ProcessLookupError(number, os.strerror(number))
            if number == errno.EPERM:
                raise PermissionError(number, os.strerror(number))
            return 0
        return got

    def _read_part(self, part: list[tuple[int, int]], results: list[bytes | None], first: int) -> None:
        remote, total = _iovecs(part), sum(size for _, size in part)
        buffer = bytearray(max(total, 1))
        index = 0
        while index < len(part):
            got = self.read_into(buffer, total, remote[2 * index :])
            position = 0
            while index < len(part) and position + part[index][1] <= got:
                end = position + part[index][1]
                results[first + index] = bytes(memoryview(buffer)[position:end])
                position = end
                total -= part[index][1]
                index += 1
            if index < len(part):
                # The kernel stops at the first range that it can't read: that one stays None, the rest is read next.
                total -= part[index][1]
                index += 1


def _iovecs(ranges: list[tuple[int, int]]) -> array[int]:
    return array("Q", [word for address, size in ranges for word in (address & _WORD, size)])


def anonymous_memory(pid: int) -> int:
    """Bytes of the process's memory that belong to no file, in memory or swapped; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
        if "RssAnon:" not in text and (thread := living_thread(pid)):  # the main thread has ended
            text = Path(f"/proc/{pid}/task/{thread}/status").read_text(errors="replace")
    except OSError:
        return 0
    # In kB; a thread group whose memory is gone has neither line.
    lines = (line.split() for line in text.splitlines() if line.startswith(("RssAnon:", "VmSwap:")))
    return 1024 * sum(int(words[1]) for words in lines)


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps. `inode` is 0 for memory that belongs to no file."""

    start: int
    end: int
    flags: str
    offset: int
    device: str
    inode: int
    path: str


def mappings(pid: int) -> Iterator[Mapping]:
    """The mappings of a process, read through one of its living threads; none if it has ended. At most 65,536 of them."""
    for thread in _threads_of(pid):
        found = False
        with contextlib.suppress(OSError), open(f"/proc/{thread}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file):
                if number >= 65_536:
                    return
                words = line.rstrip("\n").split(" ", 5)
                start, _, end = words[0].partition("-")
                found = True
                yield Mapping(
                    int(start, 16), int(end, 16), words[1], int(words[2], 16), words[3], int(words[4].split()[0]),
                    words[5].lstrip() if len(words) > 5 else "",
                )
        if found:
            return


def living_thread(pid: int) -> int:
    """A thread of the process that has not ended, the main one if it lives. 0 if there is none, or if /proc does not tell."""
    for thread in _threads_of(pid):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
            stat = file.read(4096)
            if not has_ended(stat[stat.rindex(b")") + 2 :].split()):
                return thread
    return 0


def has_ended(fields: list[bytes]) -> bool:
    """Whether a thread with these fields of /proc/PID/task/TID/stat, from its state on, has ended, or is about to (PF_EXITING in
    include/linux/sched.h): its memory, descriptors and namespaces may be gone before it is a zombie."""
    return not fields or fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _PF_EXITING)


def mapping_at(pid: int, address: int) -> Mapping | None:
    """The mapping that contains an address."""
    return next((mapping for mapping in mappings(pid) if mapping.start <= address < mapping.end), None)


def _threads_of(pid: int) -> Iterator[int]:
    """The main thread first; the others are listed when they are requested."""
    yield pid
    with contextlib.suppress(OSError):
        yield from map(int, os.listdir(f"/proc/{pid}/task"))


class FixedRanges:
    """The bytes of up to 1024 (address, size) ranges, read with one system call each time."""

    def __init__(self, memory: Memory, ranges: list[tuple[int, int]], buffer: bytearray) -> None:
        self._memory = memory
        self._ranges = ranges
        self._total = sum(size for _, size in ranges)
        if len(ranges) > _IOV_MAX or self._total > len(buffer):
            raise ValueError(f"{len(ranges)} ranges of {self._total} bytes are too many for one call")
        self._buffer = buffer
        self._remote = _iovecs(ranges)

    def read(self) -> bytes | None:
        """All ranges, one after another; None if one of them can't be read.

        Raises: as `Memory.read`.
        """
        got = self._memory.read_into(self._buffer, self._total, self._remote)
        return bytes(memoryview(self._buffer)[: self._total]) if got == self._total else None

    def read_each(self) -> list[bytes | None]:
        """Each range by itself, for when `read` failed."""
        return self._memory.read_many(self._ranges)
