"""A dump in pprof's format."""

from __future__ import annotations

import gzip

from profiles import target
from wire import each, fields

from gotrace.dump.pprof import dump_pprof
from gotrace.dump.types import Dump, GoroutineState, Situation
from gotrace.profile.types import Frame

STRINGS, SAMPLES, LABELS = 6, 2, 3


def labels_of(data: bytes) -> list[dict[str, str]]:
    """Of each sample; no key twice."""
    strings = [text.decode() for text in each(data, STRINGS)]
    found = []
    for sample in each(data, SAMPLES):
        pairs = [dict(fields(label)) for label in each(sample, LABELS)]
        found.append({strings[pair[1]]: strings[pair[2]] for pair in pairs})
        assert len(found[-1]) == len(pairs)
    return found


def test_labels_of_the_program_do_not_override_those_of_the_dump() -> None:
    labels = {"state": "running", "reason": "none", "age": "over 9000h", "object": "<b>", "tenant": "acme"}
    one = GoroutineState(7, Situation("waiting", "chan receive", "", "", "main.f", False, labels, (Frame("main.f"),)), 5, 1)
    assert labels_of(gzip.decompress(dump_pprof(Dump("1", target(), [one])))) == [{
        "state": "waiting", "reason": "chan receive", "age": "under 1s", "tenant": "acme", "label state": "running", "label reason": "none",
        "label age": "over 9000h", "label object": "<b>",
    }]
