"""The fuzzer's seeds and all that it ever found, once more: each reader answers or refuses, in little time and memory."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from fuzz.targets import CORPUS, TARGETS

INPUTS = sorted(path for path in CORPUS.rglob("*") if path.parent != CORPUS)


def test_every_target_has_seeds() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 1 << 20


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_replay(path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    TARGETS[path.parent.name](path.read_bytes())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_the_seeds_are_read_to_their_ends() -> None:
    """A seed that is refused at its first byte would lead the fuzzer nowhere."""
    from fuzz.targets import HostileMemory

    from gotrace.common.errors import BadBinary
    from gotrace.gobin.binary import GoBinary
    from gotrace.gobin.buildinfo import GoVersion
    from gotrace.gobin.image import Image
    from gotrace.live.goroutines import GoroutineReader
    from gotrace.live.labels import read_labels, wanted_values
    from gotrace.plan.makeplan import make_plan

    GoBinary(Image((CORPUS / "binary" / "go-1.24.11-pie").read_bytes())).check()
    with pytest.raises(BadBinary, match="gofunc"):  # the seed is without what names inlined calls
        GoBinary(Image((CORPUS / "binary" / "go-1.27.3-stripped").read_bytes())).check()
    for path in CORPUS.glob("binary/go-*"):
        binary = GoBinary(Image(path.read_bytes(), path.name))
        assert len(make_plan(binary).probes) >= 10
        assert binary.layout and binary.allgs and len(binary.wait_reasons) > 16
    binary = GoBinary(Image((CORPUS / "binary" / "go-1.27.3-stripped").read_bytes()))
    reader = GoroutineReader(HostileMemory((CORPUS / "goroutines" / "parked").read_bytes(), binary.allgs), binary, 0)
    assert sum(len(reader.stack(goroutine) or ()) for goroutine in reader.read()) == 9
    reader.check_layout()
    for name, version in (("list", 24), ("map", 23)):
        memory = HostileMemory((CORPUS / "labels" / name).read_bytes(), 0)
        assert read_labels(memory, 0xC000000000, GoVersion(version)) == {"tenant": "acme", "shard": "7"}
        values = wanted_values(memory, 0xC000000000, version >= 24, (b"shard", b"zone", b"tenant"), 3)
        assert values == ((b"7", 1), None, (b"acm", 4))
