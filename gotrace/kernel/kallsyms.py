"""Names of kernel addresses, from /proc/kallsyms."""

from __future__ import annotations

import sys
import threading
import time
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

KALLSYMS = Path("/proc/kallsyms")
_CODE = frozenset((b"t", b"T", b"w", b"W"))
_FARTHEST = 1 << 20
_AT_ONCE = 1 << 19
_REMEMBERED = 1 << 14
_RENEWED_S = 600.0


@dataclass(frozen=True)
class KernelFunction:
    """A function of the kernel; `module` is "" for the kernel proper."""

    name: str
    module: str = ""


class KernelSymbols:
    """The kernel's symbols; reads the table at the first request. `restricted`: the kernel hides its addresses (kernel.kptr_restrict), so
    nothing has a name."""

    def __init__(self, path: Path = KALLSYMS) -> None:
        self._path = path
        self._loaded = False
        self._loading = threading.Lock()
        # Packed: as Python objects, some 200,000 symbols would be 40 MB.
        self._addresses = array("Q")
        self._starts = array("I")
        self._text = b""
        self._found: dict[str, int | None] = {}

    @property
    def restricted(self) -> bool:
        """Whether no address could be read."""
        self.load()
        return not self._addresses

    def function(self, address: int) -> KernelFunction | None:
        """The function that contains `address`, None if it is not known."""
        self.load()
        index = bisect_right(self._addresses, address) - 1
        if index < 0 or address - self._addresses[index] > _FARTHEST:
            return None
        name, _, module = self._name(index).partition("\t")
        return KernelFunction(name, module.strip("[]"))

    def address(self, name: str) -> int | None:
        """The address of the function `name`, None if it is not known."""
        if name not in self._found and len(self._found) < _REMEMBERED:
            self._found[name] = self._find(name)
        return self._found[name] if name in self._found else self._find(name)

    def _find(self, name: str) -> int | None:
        self.load()
        at = self._text.find(b"\n" + name.encode() + b"\n")
        if at < 0:
            at = self._text.find(b"\n" + name.encode() + b"\t")
        if at < 0:
            return None
        return next((a for a, start in zip(self._addresses, self._starts, strict=True) if start == at + 1), None)

    def _name(self, index: int) -> str:
        start = self._starts[index]
        return self._text[start : self._text.index(b"\n", start)].decode("utf-8", "replace")

    def load(self) -> None:
        """Reads the table now: takes almost a quarter of a second, on a busy host more."""
        with self._loading:
            if not self._loaded:
                self._load()

    def _load(self) -> None:
        addresses, lengths, text = array("Q"), array("I"), bytearray(b"\n")
        try:
            # A few lines at a time: all at once would be 40 MB of objects, for a moment; one by one takes four times as long.
            with self._path.open("rb") as table:
                while some := table.readlines(_AT_ONCE):
                    # "ffffffff81000000 T _text", for a module "... t name\t[module]".
                    lines = [line.rstrip(b"\n") for line in some if line[17:18] in _CODE]
                    addresses.frombytes(bytes.fromhex(b"".join(line[:16] for line in lines).decode("ascii")))
                    names = [line[19:] for line in lines]
                    lengths.extend(map(len, names))
                    text += b"".join(name + b"\n" for name in names)
        except (OSError, ValueError):
            addresses = array("Q")
        if sys.byteorder == "little":
            addresses.byteswap()
        if len(addresses) != len(lengths) or not any(addresses):
            addresses, lengths, text = array("Q"), array("I"), bytearray(b"\n")
        starts = array("I", accumulate((length + 1 for length in lengths), initial=1))
        order = sorted(range(len(addresses)), key=addresses.__getitem__)
        first = next((at for at, index in enumerate(order) if addresses[index]), 0)  # those without an address come before it
        self._addresses = array("Q", (addresses[index] for index in order[first:]))
        self._starts = array("I", (starts[index] for index in order[first:]))
        self._text = bytes(text)
        self._loaded = True


class _Shared:
    """The table that all traces of this process use."""

    symbols: KernelSymbols | None = None
    since_s = 0.0


def kernel_symbols() -> KernelSymbols:
    """The kernel's symbols as of now or ten minutes ago: one table for all who ask, as it takes 5 MB. Modules come and go seldom."""
    now = time.monotonic()
    if _Shared.symbols is None or now - _Shared.since_s > _RENEWED_S:
        _Shared.symbols, _Shared.since_s = KernelSymbols(), now
    return _Shared.symbols
