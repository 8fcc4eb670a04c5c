"""Version, layout, wait reasons and globals: what is found without symbols equals what symbols and DWARF say."""

from __future__ import annotations

import struct

import pytest
from gobuild import PARSED_VERSIONS, VARIANTS, build, parsed_builds

from gotrace.common.errors import BadBinary
from gotrace.gobin import layout as layouts
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.buildinfo import parse_version
from gotrace.gobin.derive import find_allgs
from gotrace.gobin.dwarf import RuntimeTypes
from gotrace.gobin.image import Image

every_build = pytest.mark.parametrize(("version", "variant"), parsed_builds(*VARIANTS))
every_go = pytest.mark.parametrize("version", PARSED_VERSIONS)


def data_of(version: str, variant: str, program: str = "selftimed") -> bytes:
    return build(program, version, variant).read_bytes()


def binary_of(version: str, variant: str) -> GoBinary:
    return GoBinary(Image(data_of(version, variant), "selftimed"))


@every_build
def test_facts(version: str, variant: str) -> None:
    binary = binary_of(version, variant)
    assert str(binary.version).startswith(f"go{version}")
    assert binary.version_source == "build info"
    assert binary.stripped == (variant in ("stripped", "pie"))
    assert binary.pie == (variant == "pie")
    assert binary.cgo == (variant == "cgo")
    assert binary.wait_reasons[1:3] == ("GC assist marking", "IO wait")
    for reason in ("sleep", "chan receive", "chan send", "select", "sync.Cond.Wait", "semacquire"):
        assert binary.wait_reasons.count(reason) == 1


@every_go
def test_all_sources_of_the_layout_agree(version: str) -> None:
    plain = binary_of(version, "plain")
    dwarf = layouts.from_dwarf(RuntimeTypes(plain.image))
    table = layouts.from_table(plain.version)
    code = layouts.from_code(plain.code_facts)
    assert dwarf is not None and table is not None and code is not None
    assert {**vars(dwarf), "source": ""} == {**vars(table), "source": ""}
    assert not dwarf.contradictions(plain.code_facts)
    for field in ("g_sched_sp", "g_sched_pc", "g_sched_g", "g_sched_bp", "g_atomicstatus", "g_goid", "g_waitreason", "m_waitlock", "pd_self"):
        assert getattr(code, field) == getattr(dwarf, field), field


@every_build
def test_the_code_tells_the_layout_in_every_variant(version: str, variant: str) -> None:
    binary = binary_of(version, variant)
    code = layouts.from_code(binary.code_facts)
    table = layouts.from_table(binary.version)
    assert code is not None and table is not None and not table.contradictions(binary.code_facts)
    assert binary.layout.source.startswith("table" if variant in ("stripped", "pie") else "DWARF")


@every_go
def test_a_release_between_those_of_the_table(version: str) -> None:
    """Within a minor release runtime.m and pollDesc have moved: the code tells which of the listed layouts it is."""
    data = data_of(version, "stripped")
    listed = GoBinary(Image(data)).version
    other = f"go1.{listed.minor}.{'7' * len(str(listed.patch))}"
    binary = GoBinary(Image(data.replace(str(listed).encode(), other.encode()), "other"))
    assert str(binary.version) == other != str(listed)
    assert binary.layout.source.startswith("table") and other in binary.layout.source
    assert {**vars(binary.layout), "source": ""} == {**vars(layouts.from_dwarf(RuntimeTypes(binary_of(version, "plain").image))), "source": ""}


def test_what_the_releases_of_the_table_do_not_share_is_not_known() -> None:
    first, last, between = (layouts.from_table(parse_version(text)) for text in ("go1.24.3", "go1.24.11", "go1.24.7"))
    assert first.m_vdsoSP != last.m_vdsoSP and between.m_vdsoSP is None
    assert between.g_waitsince == first.g_waitsince == last.g_waitsince
    assert layouts.from_table(parse_version("go1.99.1")) is None


@pytest.mark.parametrize(("version", "variant"), parsed_builds("plain", "cgo"))
def test_allgs_by_code_is_the_symbol(version: str, variant: str) -> None:
    binary = binary_of(version, variant)
    assert find_allgs(binary.image, binary.table) == binary.symbols.address("runtime.allgs")


@every_build
def test_garbled_build_info(version: str, variant: str) -> None:
    data = bytearray(data_of(version, variant))
    true = GoBinary(Image(bytes(data))).version
    position = data.index(b"\xff Go buildinf:")
    data[position : position + 64] = b"\0" * 64
    binary = GoBinary(Image(bytes(data), "garbled"))
    assert binary.version_source == "runtime.buildVersion"
    assert binary.version == true


@every_go
def test_an_unknown_version_is_read_from_the_code(version: str) -> None:
    data = data_of(version, "stripped")
    text = str(GoBinary(Image(data)).version).encode()
    binary = GoBinary(Image(data.replace(text, b"go1.99.9"[: len(text)].ljust(len(text), b"9")), "future"))
    assert binary.layout.source == "machine code"


def test_an_old_version_is_refused() -> None:
    data = data_of("1.19", "stripped")
    text = str(GoBinary(Image(data)).version).encode()
    with pytest.raises(BadBinary, match="go1.18"):
        GoBinary(Image(data.replace(text, b"go1.18.8"), "old"))


def test_a_layout_that_the_code_contradicts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    binary = binary_of("1.27.3", "stripped")
    other = layouts.from_table(binary_of("1.24.11", "stripped").version)
    assert other is not None
    assert any("g.goid" in text for text in other.contradictions(binary.code_facts))
    monkeypatch.setattr(layouts, "from_table", lambda *_: other)
    monkeypatch.setattr(layouts, "from_code", lambda *_: None)
    with pytest.raises(BadBinary, match="goid"):
        _ = binary.layout


@pytest.mark.parametrize("keep", [0, 10, 63, 64, 200, 4096, 100_000, 700_000])
def test_truncated_files_are_refused(keep: int) -> None:
    with pytest.raises(BadBinary):
        binary = GoBinary(Image(data_of("1.27.3", "stripped")[:keep], "truncated"))
        _ = binary.layout, binary.allgs, binary.wait_reasons


def test_other_machines_are_refused() -> None:
    data = bytearray(data_of("1.27.3", "stripped"))
    struct.pack_into("<H", data, 18, 183)
    with pytest.raises(BadBinary, match="arm64"):
        GoBinary(Image(bytes(data), "arm"))


def test_a_c_program_is_no_go_binary() -> None:
    with open("/bin/true", "rb") as file, pytest.raises(BadBinary, match="not a Go binary"):
        GoBinary(Image(file.read(), "/bin/true"))
