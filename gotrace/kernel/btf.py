"""Offsets of fields in the running kernel's structs, from its own BTF (/sys/kernel/btf/vmlinux), read through libbpf."""

from __future__ import annotations

import ctypes as ct
from pathlib import Path

from gotrace.common.errors import Refused

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_LIBRARIES = ("libbpf.so.1", "libbpf.so.0")
_STRUCT, _UNION, _FUNCTION = 4, 5, 12
_TRANSPARENT = frozenset((8, 9, 10, 11, 18))  # typedef, volatile, const, restrict, type_tag (include/uapi/linux/btf.h)
_MAX_DEPTH = 16


class Btf:
    """The kernel's types. Use as a context manager.

    Raises:
        Refused: the kernel has no BTF, or libbpf is not installed.
    """

    def __init__(self, path: Path = VMLINUX) -> None:
        self._lib = _library()
        if not path.exists():
            raise Refused(
                f"this kernel does not describe its types: no {path}",
                "gotrace attach --no-kernel goes without system calls, CPU waits, files and sockets",
            )
        self._btf = self._lib.btf__parse(str(path).encode(), None)
        if not self._btf or self._btf > (1 << 64) - 4096:
            raise Refused(f"{path} can't be read", "gotrace attach --no-kernel")

    def __enter__(self) -> Btf:
        return self

    def __exit__(self, *error: object) -> None:
        self._lib.btf__free(self._btf)

    def offset(self, struct: str, *path: str) -> int | None:
        """Byte offset of ``struct.path[0].path[1]...``; searches anonymous members. None if there is no such field."""
        number = self._lib.btf__find_by_name_kind(self._btf, struct.encode(), _STRUCT)
        total = 0
        for name in path:
            found = self._member(number, name, 0) if number > 0 else None
            if found is None:
                return None
            bits, number = found
            if bits % 8:
                return None
            total += bits // 8
        return total

    def function(self, name: str) -> int | None:
        """The number of the kernel's function `name`, None if it is not described."""
        number = self._lib.btf__find_by_name_kind(self._btf, name.encode(), _FUNCTION)
        return number if number > 0 else None

    def _type(self, number: int) -> tuple[int, int, int, int] | None:
        """(name offset, info, size or type, address) of a type, with typedefs and qualifiers resolved."""
        for _ in range(_MAX_DEPTH):
            address = self._lib.btf__type_by_id(self._btf, number)
            if not address:
                return None
            name, info, size = (ct.c_uint32 * 3).from_address(address)
            if (info >> 24) & 0x1F not in _TRANSPARENT:
                return name, info, size, address
            number = size
        return None

    def _member(self, number: int, wanted: str, depth: int) -> tuple[int, int] | None:
        found = self._type(number)
        if found is None or depth > _MAX_DEPTH:
            return None
        _, info, _, address = found
        if (info >> 24) & 0x1F not in (_STRUCT, _UNION):
            return None
        bitfields, count = info >> 31, info & 0xFFFF
        for index in range(count):
            name, kind, offset = (ct.c_uint32 * 3).from_address(address + 12 + 12 * index)
            bits = offset & 0xFFFFFF if bitfields else offset
            text = self._lib.btf__name_by_offset(self._btf, name)
            if text == wanted.encode():
                return bits, kind
            if not text:
                inner = self._member(kind, wanted, depth + 1)
                if inner is not None:
                    return bits + inner[0], inner[1]
        return None


def _library() -> ct.CDLL:
    for name in _LIBRARIES:
        try:
            lib = ct.CDLL(name)
        except OSError:
            continue
        lib.btf__parse.restype, lib.btf__parse.argtypes = ct.c_void_p, [ct.c_char_p, ct.c_void_p]
        lib.btf__free.restype, lib.btf__free.argtypes = None, [ct.c_void_p]
        lib.btf__find_by_name_kind.restype = ct.c_int32
        lib.btf__find_by_name_kind.argtypes = [ct.c_void_p, ct.c_char_p, ct.c_uint32]
        lib.btf__type_by_id.restype, lib.btf__type_by_id.argtypes = ct.c_void_p, [ct.c_void_p, ct.c_uint32]
        lib.btf__name_by_offset.restype, lib.btf__name_by_offset.argtypes = ct.c_char_p, [ct.c_void_p, ct.c_uint32]
        return lib
    raise Refused("libbpf is not installed", "sudo apt-get install python3-bpfcc, or gotrace attach --no-kernel")
