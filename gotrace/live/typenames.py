"""Names of Go types by the addresses of their descriptors (internal/abi/type.go: Type, Name), read from a process's memory."""

from __future__ import annotations

from gotrace.common.errors import BadBinary
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.moduledata import TYPES
from gotrace.live.pages import Pages, word_at

_TYPE_SIZE, _TFLAG, _NAME = 48, 20, 40
_EXTRA_STAR = 2
_LONGEST = 512


class TypeNames:
    """The types of the executable's own module, whose names are relative to `base`. Names of others (plugins, reflection) are ""."""

    def __init__(self, pages: Pages, binary: GoBinary, bias: int) -> None:
        self._pages = pages
        self._known: dict[int, str] = {}
        try:
            self.base = binary.image.pointer(binary.table.moduledata + TYPES[binary.table.magic]) + bias
        except (BadBinary, KeyError):
            self.base = 0

    def name(self, address: int, size: int) -> str:
        """The name of the type at `address`, as ``%T`` prints it; "" if it can't be read, or its size is not `size`."""
        if address not in self._known:
            if len(self._known) > 4096:
                self._known.clear()
            self._known[address] = self._read(address, size)
        return self._known[address]

    def _read(self, address: int, size: int) -> str:
        raw = self._pages.read(address, _TYPE_SIZE) if self.base and address > self.base else None
        if raw is None or word_at(raw, 0) != size:
            return ""
        offset = int.from_bytes(raw[_NAME : _NAME + 4], "little", signed=True)
        head = self._pages.read(self.base + offset, 3) if offset > 0 else None
        if head is None:
            return ""
        length, start = head[1] & 0x7F, 2
        if head[1] & 0x80:
            length, start = length | (head[2] & 0x7F) << 7, 3
        text = self._pages.read(self.base + offset + start, min(length, _LONGEST)) if length else b""
        name = (text or b"").decode("utf-8", "replace")
        return name.removeprefix("*") if raw[_TFLAG] & _EXTRA_STAR else name
