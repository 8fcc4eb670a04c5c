"""Heads in few bytes are what was put there, and fields that make no sense are lacking."""

from __future__ import annotations

import struct

from gotrace.live.fieldsstruct import FieldsStruct
from gotrace.live.gstruct import Head, Heads, Status

HEAD = Head(7, Status.WAITING, 255, 2**64 - 1, 2**63, 1, 0x1000, 0x2000, 5, 255)


def test_heads_come_back_as_they_were_put() -> None:
    heads = Heads()
    heads.grow(3)
    assert heads.put(1, HEAD) and not heads.put(1, HEAD) and heads[1] == HEAD and len(heads) == 3
    lacking = HEAD._replace(status=2**32 - 1 - 0x1000, tick=-1, m=0)
    heads[2] = lacking
    assert list(heads)[1:] == [HEAD, lacking] and heads[0].goid == 0 and heads[0].status not in set(Status)
    assert list(heads.in_states(frozenset((Status.WAITING,)))) == [1]
    assert heads.stops(1) == (HEAD.status, HEAD.reason, HEAD.pc, HEAD.sp, HEAD.lo, HEAD.hi)


def test_fields_of_a_struct() -> None:
    fields = FieldsStruct([(8, "Q"), (None, "Q"), (0, "I"), (4, "I"), (1 << 40, "Q"), (10, "H"), (8, "Q")])
    raw = struct.pack("<IIQ", 1, 2, 3)
    assert fields.size == 16 and fields.parse(raw) == (3, 0, 1, 2, 0, 0, 3) and fields.parse(b"xx" + raw, 2) == (3, 0, 1, 2, 0, 0, 3)
