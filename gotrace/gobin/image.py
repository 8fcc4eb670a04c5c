"""An ELF file as the loader sees it: segments, relocated pointers, the few sections that help. Pure: bytes in, values out.

Every read is bounds-checked: the file is the target's and may be hostile or truncated.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gotrace.common.errors import BadBinary

_WHOLE = 96 << 20
"""A file up to this size is read whole: most are, and nothing is faster."""
_KEPT, _MOST_KEPT, _FEW_KEPT, _PORTION = 1 << 20, 48, 2, 1 << 22
"""Bytes of a larger file that are kept as one portion, how many portions, how few, and how much is read at once in a search."""
_R_X86_64_RELATIVE = 8
_MAX_RELOCATIONS = 8_000_000
_MAX_SEGMENTS = 256
_MAX_SECTIONS = 4096
_MAX_ALIGN = 1 << 16
_PF_X, _PF_W = 1, 2


class FileBytes:
    """The bytes of an open file, with the most recently used parts in memory. Has the methods of `bytes` that are used here. Read, not
    mapped: a mapped file that its owner truncates would end gotrace with SIGBUS.

    All raise BadBinary if the file can't be read up to its original size.
    """

    def __init__(self, fd: int, size: int, most_kept: int = _MOST_KEPT) -> None:
        self._fd = os.dup(fd)
        self._size, self._most_kept = size, most_kept
        self._kept: dict[int, bytes] = {}

    def __del__(self) -> None:
        os.close(self._fd)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, int):
            return self[key : key + 1][0]
        start, end, _ = key.indices(self._size)
        number = start // _KEPT
        if end <= (number + 1) * _KEPT:
            at = number * _KEPT
            return self._portion(number)[start - at : max(start, end) - at]
        return self._read(start, end - start)

    def _portion(self, number: int) -> bytes:
        kept = self._kept.pop(number, None)
        if kept is None:
            kept = self._read(number * _KEPT, min(_KEPT, self._size - number * _KEPT))
            if len(self._kept) >= self._most_kept:
                del self._kept[next(iter(self._kept))]
        self._kept[number] = kept  # it is now the most recently used
        return kept

    def _read(self, position: int, size: int) -> bytes:
        found = b""
        try:
            while len(found) < size and (more := os.pread(self._fd, size - len(found), position + len(found))):
                found += more
        except OSError as error:
            raise BadBinary(f"the executable can't be read: {error.strerror}") from None
        if len(found) < size:
            raise BadBinary("the executable was truncated while it was read")
        return found

    def find(self, pattern: bytes, start: int = 0, end: int | None = None) -> int:
        """Like `bytes.find`, with indexes that are not negative."""
        start, end = max(0, start), self._size if end is None else min(end, self._size)
        while start + len(pattern) <= end:
            number = start // _KEPT
            if end <= (number + 1) * _KEPT:  # almost always when a table is read
                at, block = number * _KEPT, self._portion(number)
                position = block.find(pattern, start - at, end - at)
                return at + position if position >= 0 else -1
            block = self._read(start, min(_PORTION + len(pattern) - 1, end - start))
            position = block.find(pattern)
            if position >= 0:
                return start + position
            start += _PORTION
        return -1


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD program header."""

    address: int
    offset: int
    file_size: int
    memory_size: int
    flags: int

    @property
    def executable(self) -> bool:
        """Mapped with PROT_EXEC."""
        return bool(self.flags & _PF_X)

    @property
    def writable(self) -> bool:
        """Mapped with PROT_WRITE (including what RELRO later protects)."""
        return bool(self.flags & _PF_W)


@dataclass(frozen=True)
class Section:
    """A section header with its name."""

    name: str
    address: int
    offset: int
    size: int
    entry_size: int


class Image:
    """A linux/amd64 ELF executable.

    Addresses are link-time virtual addresses; `bias` (the load address of a PIE) is the process's business.

    Raises:
        BadBinary: not an ELF file, not for linux/amd64, or truncated where it matters.
    """

    def __init__(self, data: bytes | FileBytes, name: str = "<bytes>") -> None:
        self.data = data
        self.name = name
        if len(data) < 64 or data[:4] != b"\x7fELF":
            raise BadBinary(f"{name} is not an ELF executable")
        if data[4] != 2 or data[5] != 1:
            raise BadBinary(f"{name} is not a 64-bit little-endian ELF file", "gotrace traces linux/amd64 processes")
        e_type, machine = struct.unpack("<HH", data[16:20])
        if machine != 62:
            raise BadBinary(
                f"{name} is built for {_MACHINES.get(machine, f'ELF machine {machine}')}, not for amd64",
                "gotrace traces linux/amd64 processes",
            )
        if e_type not in (2, 3):
            raise BadBinary(f"{name} is not an executable (ELF type {e_type})")
        self.pie: bool = e_type == 3
        self.segments = self._read_segments()

    def leave_in_file(self, fd: int) -> None:
        """Frees most of the memory: what is still needed is read from the file `fd`, of which these are the bytes. For traces without end:
        they seldom meet new code.

        Raises:
            BadBinary: the file has another size now.
        """
        if os.fstat(fd).st_size != len(self.data):
            raise BadBinary(f"{self.name} has another size than before")
        self.data = FileBytes(fd, len(self.data), _FEW_KEPT)

    def _read_segments(self) -> list[Segment]:
        phoff, = struct.unpack("<Q", self.data[32:40])
        phentsize, phnum = struct.unpack("<HH", self.data[54:58])
        if phentsize != 56 or not 0 < phnum <= _MAX_SEGMENTS or phoff + phnum * 56 > len(self.data):
            raise BadBinary(f"{self.name}: program headers are missing or out of the file")
        segments = []
        self.tls_size = 0
        for index in range(phnum):
            p_type, flags, offset, vaddr, _, filesz, memsz, align = struct.unpack(
                "<IIQQQQQQ", self.data[phoff + index * 56 : phoff + index * 56 + 56]
            )
            if p_type == 7:
                # The thread-local block ends at the FS base (ELF's variant II), at which it is aligned.
                align = align if 0 < align <= _MAX_ALIGN else 1
                self.tls_size = -(-memsz // align) * align
            if p_type != 1:
                continue
            if offset > len(self.data) or vaddr >= 1 << 47:
                raise BadBinary(f"{self.name}: a loadable segment lies outside the file (truncated?)")
            segments.append(Segment(vaddr, offset, min(filesz, len(self.data) - offset), memsz, flags))
        if not segments:
            raise BadBinary(f"{self.name}: no loadable segment")
        return segments

    @cached_property
    def sections(self) -> dict[str, Section]:
        """Section headers by name; empty if there are none or they are damaged: nothing depends on them alone."""
        data = self.data
        shoff, = struct.unpack("<Q", data[40:48])
        shentsize, shnum, shstrndx = struct.unpack("<HHH", data[58:64])
        if shentsize != 64 or not 0 < shnum <= _MAX_SECTIONS or shoff + shnum * 64 > len(data) or shstrndx >= shnum:
            return {}
        headers = list(struct.iter_unpack("<IIQQQQIIQQ", data[shoff : shoff + 64 * shnum]))
        names_offset, names_size = headers[shstrndx][4:6]
        found: dict[str, Section] = {}
        for header in headers:
            name_offset, sh_type, address, offset, size, entsize = (header[i] for i in (0, 1, 3, 4, 5, 9))
            if name_offset >= names_size or sh_type == 8 or offset + size > len(data):
                continue
            start = names_offset + name_offset
            end = data.find(b"\0", start, min(start + 128, len(data)))
            if end > start:
                name = data[start:end].decode("utf-8", "replace")
                found.setdefault(name, Section(name, address, offset, size, entsize))
        return found

    @cached_property
    def relocations(self) -> dict[int, int]:
        """R_X86_64_RELATIVE: address -> addend. Empty for a fixed-address executable."""
        section = self.sections.get(".rela.dyn") or self.sections.get(".rela")
        if not self.pie or section is None:
            return {}
        count = min(section.size // 24, _MAX_RELOCATIONS)
        words = array("Q")
        words.frombytes(self.data[section.offset : section.offset + count * 24])
        offsets, infos, addends = words[0::3], words[1::3], words[2::3]
        return {o: a for o, i, a in zip(offsets, infos, addends, strict=False) if i == _R_X86_64_RELATIVE}

    def file_offset(self, address: int) -> int | None:
        """The file offset of `address`; None if it is not in the file (bss, unmapped)."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.file_size:
                return segment.offset + address - segment.address
        return None

    def address_of(self, offset: int) -> int | None:
        """The address at which file offset `offset` is mapped, or None."""
        for segment in self.segments:
            if segment.offset <= offset < segment.offset + segment.file_size:
                return segment.address + offset - segment.offset
        return None

    def segment_at(self, address: int) -> Segment | None:
        """The segment that maps `address`, zero-filled part included."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.memory_size:
                return segment
        return None

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes of the file image at `address` (not relocated); raises BadBinary if not all there."""
        for segment in self.segments:
            end = segment.address + segment.file_size
            if segment.address <= address < end:
                if size < 0 or address + size > end:
                    break
                start = segment.offset + address - segment.address
                return self.data[start : start + size]
        raise BadBinary(f"{self.name}: {size} bytes at {address:#x} are not in the file")

    def read_up_to(self, address: int, size: int) -> bytes:
        """At most `size` bytes at `address`, fewer at a segment's end, none outside."""
        for segment in self.segments:
            end = segment.address + segment.file_size
            if segment.address <= address < end:
                start = segment.offset + address - segment.address
                return self.data[start : start + min(size, end - address)]
        return b""

    @cached_property
    def _by_likelihood(self) -> list[Segment]:
        # Searches rarely succeed in the segments with most of a large file's bytes.
        return sorted(self.segments, key=lambda segment: (not segment.writable, segment.file_size))

    def find_all(self, pattern: bytes, writable: bool | None = None, executable: bool | None = None) -> Iterator[int]:
        """The addresses of `pattern` in the segments, or only in those that are, or are not, `writable` or `executable`: the writable and
        the small ones first."""
        for segment in self._by_likelihood:
            if writable not in (None, segment.writable) or executable not in (None, segment.executable):
                continue
            position, end = segment.offset - 1, segment.offset + segment.file_size
            while (position := self.data.find(pattern, position + 1, end)) >= 0:
                yield segment.address + position - segment.offset

    def search(self, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
        """Addresses and texts that match `pattern`, of at most 64 bytes each."""
        for segment in self._by_likelihood:
            end = segment.offset + segment.file_size
            for start in range(segment.offset, end, _PORTION):
                block = self.data[start : min(start + _PORTION + 64, end)]
                for match in pattern.finditer(block):
                    if match.start() < _PORTION:
                        yield segment.address + start + match.start() - segment.offset, match.group(0)

    def u32(self, address: int) -> int:
        """Little-endian unsigned 32-bit word at `address`."""
        return int.from_bytes(self.read(address, 4), "little")

    def pointer(self, address: int) -> int:
        """The 64-bit word at `address` as the loader leaves it (relocation applied, bias 0)."""
        if self.pie and address in self.relocations:
            return self.relocations[address]
        return int.from_bytes(self.read(address, 8), "little")

    @cached_property
    def build_id(self) -> str:
        """GNU build id in hex, else Go's own build id, else ""."""
        section = self.sections.get(".note.gnu.build-id")
        if section and 16 < section.size <= 256:
            return self.data[section.offset + 16 : section.offset + section.size].hex()
        section = self.sections.get(".note.go.buildid")
        if section and 16 < section.size <= 512:
            size, = struct.unpack("<I", self.data[section.offset + 4 : section.offset + 8])
            raw = self.data[section.offset + 16 : section.offset + 16 + min(size, section.size - 16)]
            return raw.decode("ascii", "replace")
        return ""


_MACHINES = {3: "386", 40: "arm", 183: "arm64", 243: "riscv64", 21: "ppc64", 22: "s390x", 258: "loong64", 8: "mips"}


def read_file(fd: int, name: str) -> Image:
    """The Image of the open file `fd`, which keeps in memory only what it needs; raises BadBinary if it is not an ELF file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BadBinary(f"{name} is not a regular file")
    if status.st_size > _WHOLE:
        return Image(FileBytes(fd, status.st_size), name)
    chunks, position = [], 0
    while position < status.st_size:
        chunk = os.pread(fd, min(status.st_size - position, 1 << 26), position)
        if not chunk:
            break
        chunks.append(chunk)
        position += len(chunk)
    return Image(chunks[0] if len(chunks) == 1 else b"".join(chunks), name)
