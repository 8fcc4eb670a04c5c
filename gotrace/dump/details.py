"""The fields of a g that only a dump needs."""

from __future__ import annotations

from typing import NamedTuple

from gotrace.gobin.layout import Layout
from gotrace.gobin.waitlayout import WaitLayout
from gotrace.live.fieldsstruct import FieldsStruct

_WAITS = ("waiting", "timer")
_CODES = {"atomicstatus": "I", "waitreason": "B"}


class Details(NamedTuple):
    """Fields by the runtime's names; 0 where the layout lacks one. The status has its scan bit."""

    goid: int = 0
    waitsince: int = 0
    parentGoid: int = 0
    sleepWhen: int = 0
    waiting: int = 0
    timer: int = 0
    atomicstatus: int = 0
    waitreason: int = 0
    gopc: int = 0
    startpc: int = 0
    lockedm: int = 0
    labels: int = 0


OWN_FIELDS = 6
"""So many fields, the first ones, differ between goroutines at one place."""


class DetailsStruct:
    """Parses the first `size` bytes of a g."""

    def __init__(self, layout: Layout, more: WaitLayout) -> None:
        offsets = {name: getattr(more if name in _WAITS else layout, f"g_{name}") for name in Details._fields}
        self._fields = FieldsStruct([(offset, _CODES.get(name, "Q")) for name, offset in offsets.items()])
        self.size = self._fields.size
        self.parse = self._fields.parse
        """The fields in the order of `Details`, from bytes."""
