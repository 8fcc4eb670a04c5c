"""Which executables Go has made, each examined once: of a file only its headers and the build info are read."""

from __future__ import annotations

import os
from functools import cached_property
from typing import NamedTuple

from gotrace.common.errors import BadBinary, Refused
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.buildinfo import read_buildinfo
from gotrace.gobin.image import FileBytes, Image
from gotrace.gobin.layout import of_table
from gotrace.proc.descriptors import file_key
from gotrace.proc.memory import living_thread
from gotrace.proc.process import open_executable
from gotrace.proc.programs import loaded_program

_MAGIC = b"\xff Go buildinf:"
_SEARCHED = 8 << 20
_SILENT_S = 0.5
"""How long a file system may be silent here: there are many processes to examine."""
_SMALLEST = 64
_HANGS = "file system hangs"


class Places(NamedTuple):
    """Link-time addresses and offsets: the entry point, runtime.allgs, the state in runtime.g, runtime.allp (None if it is not known)."""

    entry: int
    allgs: int
    status: int
    allp: int | None


class Executable:
    """One file that processes run. `go` says whether Go made it; `problem` in at most three words why gotrace can't trace it, "" if nothing
    speaks against it. `image` is None if it is not an ELF file for linux/amd64; it is given up when `places` are known."""

    def __init__(self, name: str, image: Image | None, go: bool, problem: str = "") -> None:
        self.name = name
        self.go = go
        self.problem = problem
        self.version, self.version_source = "unknown", "unknown"
        self._image = image
        info = read_buildinfo(image) if image is not None else None
        if info is not None:
            self.version, self.version_source = str(info.version), "build info"

    @cached_property
    def places(self) -> Places | None:
        """Where its processes have their goroutines. None if gotrace can't tell: then `problem` says why."""
        image, self._image = self._image, None
        if image is None or self.problem:
            return None
        try:
            binary = GoBinary(image)
            if binary.version_source != "unknown":
                self.version, self.version_source = str(binary.version), binary.version_source
            entry = int.from_bytes(image.data[24:32], "little")
            return Places(entry, binary.allgs, _status_offset(binary), binary.globals.allp)
        except BadBinary as error:
            self.problem = "Go too old" if "does not support" in str(error) else "layout not known"
            return None


def _status_offset(binary: GoBinary) -> int:
    """Where runtime.g has its state: by the code, else by the table, else by DWARF, which takes long to unpack."""
    if (known := binary.code_facts.g_atomicstatus) is not None:
        return known
    table = of_table(binary.version)
    return table.g_atomicstatus if table is not None else binary.layout.g_atomicstatus


class Executables:
    """What has been examined, by mount and inode. `refused` are the processes whose executable we may not read."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Executable] = {}
        self._hung: set[int] = set()
        self.refused: set[int] = set()

    def of(self, pid: int) -> Executable | None:
        """What the process runs. None if it has ended, is a kernel thread, or may not be read."""
        thread = pid
        try:
            link = os.readlink(f"/proc/{pid}/exe")
        except PermissionError:
            self.refused.add(pid)
            return None
        except OSError:
            thread = living_thread(pid)
            if thread in (0, pid):
                return None
            try:
                link = os.readlink(f"/proc/{thread}/exe")
            except OSError:
                return None
        name = link.removesuffix(" (deleted)")
        key = self._key(thread)
        known = self._known.get(key) if key is not None else None
        if key is not None and key[0] in self._hung and known is None:
            self.refused.add(pid)
            return None
        known = known or self._examine(thread, name)
        if known is None:
            return None
        if key is not None:
            self._known[key] = known
            self._hung |= {key[0]} if known.problem == _HANGS else set()
        if known.problem == _HANGS:
            self.refused.add(pid)
            return None
        if not known.go and os.path.basename(name).startswith(("ld-", "ld.so")):
            return self._behind_loader(pid) or known
        return known

    def _key(self, pid: int) -> tuple[int, int] | None:
        try:
            fd = os.open(f"/proc/{pid}/exe", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return file_key(fd)
        except OSError:
            return None
        finally:
            os.close(fd)

    def _examine(self, pid: int, name: str) -> Executable | None:
        try:
            fd, path_fd = open_executable(pid, name, _SILENT_S)
        except Refused:
            return Executable(name, None, False, _HANGS)
        except OSError:
            return None
        try:
            return examined(fd, name)
        finally:
            for each in (fd, path_fd):
                if each >= 0:
                    os.close(each)

    def _behind_loader(self, pid: int) -> Executable | None:
        try:
            own = os.open(f"/proc/{pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            found = loaded_program(pid, own)
        finally:
            os.close(own)
        if found is None:
            return None
        try:
            return examined(found[0], found[1])
        finally:
            os.close(found[0])


def examined(fd: int, name: str) -> Executable:
    """The executable behind an open file."""
    size = os.fstat(fd).st_size
    if size < _SMALLEST or os.pread(fd, 4, 0) != b"\x7fELF":
        return Executable(name, None, False)
    try:
        data = FileBytes(fd, size)
        image = Image(data, name)
    except BadBinary as error:
        # Go programs for other machines run here, too (linux/386, qemu-user).
        other = "amd64" in f"{error} {error.hint or ''}" and os.pread(fd, min(size, _SEARCHED), 0).find(_MAGIC) >= 0
        return Executable(name, None, other, "not for amd64" if other else "")
    try:
        return Executable(name, image, True) if _is_go(image) else Executable(name, None, False)
    except BadBinary:
        return Executable(name, None, False)


def _is_go(image: Image) -> bool:
    """Whether it has what Go's linker writes. Without section headers, which `strip` leaves, the build info is searched for."""
    if image.sections:
        return any(name in image.sections for name in (".go.buildinfo", ".gopclntab", ".data.rel.ro.gopclntab"))
    return read_buildinfo(image) is not None
