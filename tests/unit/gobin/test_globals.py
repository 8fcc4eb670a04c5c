"""The scheduler's variables are found by the code of the functions that use them: where symbols say."""

from __future__ import annotations

import pytest
from gobuild import PARSED_VERSIONS, build, parsed_builds

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.buildinfo import GoVersion
from gotrace.gobin.dwarf import RuntimeTypes
from gotrace.gobin.globals import Globals
from gotrace.gobin.image import Image
from gotrace.gobin.schedlayout import SchedLayout, of_release, sched_layout


def opened(version: str, variant: str) -> tuple[GoBinary, SchedLayout]:
    binary = GoBinary(Image(build("selftimed", version, variant).read_bytes()))
    return binary, sched_layout(binary.version, RuntimeTypes(binary.image))


def found(binary: GoBinary, layout: SchedLayout) -> list[int | None]:
    places = Globals(binary, layout)
    collector = places.collector
    return [places.sched, places.allp, places.allm, collector.phase, collector.numgc, collector.pause_total_ns]


@pytest.mark.parametrize(("version", "variant"), parsed_builds("plain", "cgo"))
def test_code_and_symbols_agree(version: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    binary, layout = opened(version, variant)
    symbols = {name: binary.symbols.address(f"runtime.{name}") for name in ("sched", "allp", "allm", "gcphase", "memstats")}
    assert None not in symbols.values() and layout.source == "DWARF"
    stats = symbols["memstats"]
    by_symbol = [symbols["sched"], symbols["allp"], symbols["allm"], symbols["gcphase"], stats + layout.stats_numgc,
                 stats + layout.stats_pause_total_ns]
    assert found(binary, layout) == by_symbol
    monkeypatch.setattr(binary.symbols, "address", lambda name: None)
    assert found(binary, layout) == by_symbol
    assert Globals(binary, layout).alllink == layout.m_alllink


@pytest.mark.parametrize(("version", "variant"), parsed_builds("stripped", "pie"))
def test_stripped(version: str, variant: str) -> None:
    binary, layout = opened(version, variant)
    assert layout.source == "table" and binary.symbols.address("runtime.sched") is None
    places = found(binary, layout)
    assert None not in places and len(set(places)) == len(places)
    assert Globals(binary, layout).alllink == layout.m_alllink


@pytest.mark.parametrize("version", PARSED_VERSIONS)
def test_the_table_is_what_dwarf_says(version: str) -> None:
    binary, layout = opened(version, "plain")
    known = vars(of_release(binary.version))
    assert {name: value for name, value in vars(layout).items() if known[name] != value} == {"source": "DWARF"}
    missing = {name for name, value in known.items() if value is None}
    assert missing == set()


@pytest.mark.parametrize("release", [GoVersion(23, 1, "go1.23.1"), GoVersion(24, 3, "go1.24.3"), GoVersion(24, 99)], ids=str)
def test_a_release_that_the_table_has_not_whole(release: GoVersion) -> None:
    """What all entries of its minor version share; a release without an entry lacks what has moved between them."""
    layout = of_release(release)
    assert layout.schedt_mnext == 48 and layout.p_runqhead == 392 and layout.p_timers_when is not None and layout.timers_have_when
    assert (layout.m_alllink is None) == (release.patch == 99)
    assert of_release(GoVersion(99)).source == ""


def test_every_offset_is_that_of_its_struct() -> None:
    """A queue's length stands beside it up to Go 1.24 and in it from Go 1.25 on."""
    assert of_release(GoVersion(22, 10, "go1.22.10")).schedt_runqsize == 120
    assert of_release(GoVersion(25, 5, "go1.25.5")).schedt_runqsize == 128
