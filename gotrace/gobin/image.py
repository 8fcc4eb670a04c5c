"""An ELF file as the loader sees it: segments, relocated pointers, the few sections that help. Pure: bytes in, values out.

Every read is bounds-checked: the file is the target's and may be hostile or truncated.
"""

from __future__ import annotations

import os
import stat
import struct
from array import array
from dataclasses import dataclass
from functools import cached_property

from gotrace.errors import BadBinary

_MAX_FILE = 1 << 30
_R_X86_64_RELATIVE = 8
_MAX_RELOCATIONS = 8_000_000
_MAX_SEGMENTS = 256
_MAX_SECTIONS = 4096
_MAX_ALIGN = 1 << 16
_PF_X, _PF_W = 1, 2


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
        """Mapped with PROT_WRITE (also what RELRO later protects)."""
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

    def __init__(self, data: bytes, name: str = "<bytes>") -> None:
        self.data = data
        self.name = name
        if len(data) < 64 or data[:4] != b"\x7fELF":
            raise BadBinary(f"{name} is not an ELF executable")
        if data[4] != 2 or data[5] != 1:
            raise BadBinary(f"{name} is not a 64-bit little-endian ELF file", "gotrace traces linux/amd64 processes")
        e_type, machine = struct.unpack_from("<HH", data, 16)
        if machine != 62:
            raise BadBinary(
                f"{name} is built for {_MACHINES.get(machine, f'ELF machine {machine}')}, not for amd64",
                "gotrace traces linux/amd64 processes",
            )
        if e_type not in (2, 3):
            raise BadBinary(f"{name} is not an executable (ELF type {e_type})")
        self.pie = e_type == 3
        self.segments = self._read_segments()

    def _read_segments(self) -> list[Segment]:
        phoff, = struct.unpack_from("<Q", self.data, 32)
        phentsize, phnum = struct.unpack_from("<HH", self.data, 54)
        if phentsize != 56 or not 0 < phnum <= _MAX_SEGMENTS or phoff + phnum * 56 > len(self.data):
            raise BadBinary(f"{self.name}: program headers are missing or out of the file")
        segments = []
        self.tls_size = 0
        for index in range(phnum):
            p_type, flags, offset, vaddr, _, filesz, memsz, align = struct.unpack_from(
                "<IIQQQQQQ", self.data, phoff + index * 56
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
        """Section headers by name; empty where there are none or they are damaged: nothing depends on them alone."""
        data = self.data
        shoff, = struct.unpack_from("<Q", data, 40)
        shentsize, shnum, shstrndx = struct.unpack_from("<HHH", data, 58)
        if shentsize != 64 or not 0 < shnum <= _MAX_SECTIONS or shoff + shnum * 64 > len(data) or shstrndx >= shnum:
            return {}
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + i * 64) for i in range(shnum)]
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
        return {o: a for o, i, a in zip(offsets, infos, addends) if i == _R_X86_64_RELATIVE}

    def file_offset(self, address: int) -> int | None:
        """Where `address` lies in the file; None if it does not (bss, unmapped)."""
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
            size, = struct.unpack_from("<I", self.data, section.offset + 4)
            raw = self.data[section.offset + 16 : section.offset + 16 + min(size, section.size - 16)]
            return raw.decode("ascii", "replace")
        return ""


_MACHINES = {3: "386", 40: "arm", 183: "arm64", 243: "riscv64", 21: "ppc64", 22: "s390x", 258: "loong64", 8: "mips"}


def read_file(fd: int, name: str) -> Image:
    """Reads the open file `fd` whole and returns its Image; raises BadBinary if it is no ELF file or over 1 GiB.

    Read, not mapped: a mapped file that its owner truncates would end gotrace with SIGBUS.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BadBinary(f"{name} is not a regular file")
    if status.st_size > _MAX_FILE:
        raise BadBinary(f"{name} has {status.st_size} bytes, more than the {_MAX_FILE} that gotrace reads")
    chunks, position = [], 0
    while position < status.st_size:
        chunk = os.pread(fd, min(status.st_size - position, 1 << 26), position)
        if not chunk:
            break
        chunks.append(chunk)
        position += len(chunk)
    return Image(chunks[0] if len(chunks) == 1 else b"".join(chunks), name)
