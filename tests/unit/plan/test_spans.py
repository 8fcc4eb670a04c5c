"""Where calls of functions are seen to begin and to end: against other disassemblers, and against the program itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from conftest import unavailable
from gobuild import EXTENT, PARSED_VERSIONS, build, go_command, go_environment, parsed_builds
from spanned import follow

from gotrace.cli.parameters import BAND
from gotrace.common.errors import BadBinary, UsageError
from gotrace.common.vocabulary import Mode
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image
from gotrace.gobin.passages import returns
from gotrace.gobin.references import references
from gotrace.plan.makeplan import make_plan
from gotrace.plan.probes import SpanFunction, SpanKind
from gotrace.plan.spans import MOST_SPANS, Spans, find_spans
from gotrace.run.options import AttachOptions, check_mode

VERSIONS = [version for version in PARSED_VERSIONS if version.startswith(("1.19", "1.21", "1.24", "1.27"))]
NEWEST = VERSIONS[-1]
HTTP = "net/http.serverHandler.ServeHTTP"
RPC = "net/rpc.(*service).call"
NAMED = ("main.direct", "main.describe", "main.first", "main.fast.work", "main.hooked", "main.quits")
every_go = pytest.mark.parametrize("version", VERSIONS)
every_build = pytest.mark.parametrize(
    ("version", "variant"), [
        (version, variant) for version, variant in parsed_builds("plain", "stripped", "pie")
        if version in VERSIONS and (variant != "pie" or EXTENT == "every" or version == NEWEST)
    ]
)


def open_binary(path: Path) -> GoBinary:
    return GoBinary(Image(path.read_bytes(), str(path)))


def spanned(version: str, variant: str = "plain") -> GoBinary:
    return open_binary(build("spanned", version, variant))


def by_name(spans: Spans) -> dict[str, SpanFunction]:
    return {span.name: span for span in spans.functions}


@every_build
def test_servers_are_found(version: str, variant: str) -> None:
    binary = spanned(version, variant)
    spans = find_spans(binary, servers=True)
    found = by_name(spans)
    assert list(found) == [HTTP, RPC] and [span.number for span in spans.functions] == [0, 1]
    # What a request of HTTP/1 costs: where the kernel emulates both instructions, two traps.
    cheap = [end for end in found[HTTP].ends if end.probe.symbol == "net/http.(*conn).serve"]
    assert len(cheap) == 1 and cheap[0].probe.traps_per_hit == 1 and found[HTTP].traps == (2, 3)
    assert "net/http.initALPNRequest.ServeHTTP" in {end.probe.symbol for end in found[HTTP].ends}
    # The request is in the fourth register (server, writer's type, writer, request).
    assert "rdi" in found[HTTP].intact
    assert {site.kind for site in spans.unwinds} == {SpanKind.GOEXIT, SpanKind.RECOVERY}
    assert {left.symbol.split("/")[0] for left in spans.left_out} == {"google.golang.org", "golang.org"}
    assert all("not linked in" in left.reason and not left.stage for left in spans.left_out)


@every_go
@pytest.mark.parametrize("variant", ["plain", "stripped"])
def test_calls_are_followed_from_their_beginning_to_their_end(version: str, variant: str, tmp_path: Path) -> None:
    path = build("spanned", version, variant)
    binary = open_binary(path)
    spans = find_spans(binary, servers=True, named=NAMED)
    calls, unwinds, counts = follow(binary, path, spans, tmp_path)
    assert {name: call.begun for name, call in calls.items()} == {name: counts[name] for name in calls}
    assert not [wrong for call in calls.values() for wrong in call.wrong]
    # What returned was seen to: all but a request whose handler panicked, and what was left on purpose.
    left = {name: call.outermost - call.ended for name, call in calls.items() if call.outermost != call.ended}
    assert left.pop("main.quits") == 2 and calls["main.quits"].gone == 1
    assert left.pop(HTTP) == unwinds["runtime.recovery"] - 1
    assert not left
    assert unwinds["runtime.Goexit"] == 1 and calls["main.describe"].outermost < calls["main.describe"].begun


@every_go
def test_without_spans_a_plan_has_none(version: str) -> None:
    binary = spanned(version)
    plan, without = make_plan(binary, requests=True, spans=NAMED[:1]), make_plan(binary)
    assert not without.spans and not without.span_sites and not without.has("span begin")
    assert [probe for probe in plan.probes if not probe.role.startswith("span")] == list(without.probes)
    assert [site.probe for site in plan.span_sites] == [probe for probe in plan.probes if probe.program == "at_span"]
    addresses = [site.probe.site.address for site in plan.span_sites]
    assert len(set(addresses)) == len(addresses)
    assert not AttachOptions(pids=(1,)).spans and AttachOptions(pids=(1,)).requests


@every_build
def test_the_plan_has_the_bytes_of_the_file(version: str, variant: str) -> None:
    binary = spanned(version, variant)
    for site in make_plan(binary, requests=True, spans=NAMED).span_sites:
        at = site.probe.site
        code = binary.image.data[site.probe.file_offset :][: at.length]
        assert at.prologue.endswith(code) and binary.image.read(at.checked, len(at.prologue)) == at.prologue
        depth = binary.table.stack_delta(at.address)
        if site.kind is SpanKind.BEGIN:
            assert site.sp_above == depth
            if binary.version.minor >= 21:
                assert at.kind == "push" and depth == 0


def instructions_by_go(version: str, path: Path, pattern: str) -> dict[str, list[tuple[int, str]]]:
    """Address and text of every instruction of the functions that match, by function."""
    text = subprocess.run(
        [go_command(version), "tool", "objdump", "-s", pattern, path], check=True, capture_output=True, text=True, env=go_environment(),
    ).stdout
    found: dict[str, list[tuple[int, str]]] = {}
    for line in text.splitlines():
        if header := re.match(r"TEXT (\S.*)\(SB\)", line):
            own = found.setdefault(header.group(1), [])
        elif match := re.match(r"\s+\S+:-?\d+\s+0x([0-9a-f]+)\s+[0-9a-f]+\s+(\S.*)", line):
            own.append((int(match.group(1), 16), match.group(2).strip()))
    return found


@pytest.mark.full("1.27.3")
@every_go
def test_returns_are_those_of_go_tool_objdump(version: str) -> None:
    path = build("spanned", version, "plain")
    binary = open_binary(path)
    checked = by_jump = 0
    for name, insns in instructions_by_go(version, path, r"^(main|net/http|net/rpc|text/template|encoding/gob)\.").items():
        functions = binary.table.functions_named(name)
        if len(functions) != 1 or not insns or functions[0].entry != insns[0][0]:
            continue
        try:
            found = [passage.site.address for passage in returns(binary.image, binary.table, functions[0])]
        except BadBinary as error:
            assert "jump" in str(error), error
            assert any(text.startswith("JMP") for _, text in insns), name
            by_jump += 1
            continue
        assert found == [address for address, text in insns if text.split()[0] == "RET"], name
        checked += 1
    assert checked > 1000 and by_jump < checked / 20


@pytest.mark.full("1.27.3")
@every_go
def test_calls_are_those_of_go_tool_objdump(version: str) -> None:
    path = build("spanned", version, "plain")
    binary = open_binary(path)
    code = instructions_by_go(version, path, "")
    for name in (HTTP, RPC, *NAMED, "main.last", "net/http.(*conn).hijacked", "fmt.Fprintln", "runtime.gopark"):
        function, _ = binary.function(name)
        by_go = {
            address for caller, insns in code.items() for address, text in insns
            if caller != name and text.startswith("CALL") and text.split(None, 1)[1] == f"{name}(SB)"
        }
        assert {address for _, address in references(binary.image, binary.table, function).calls} == by_go, name
        assert by_go or name == "main.hooked"


@pytest.mark.parametrize("name, how", [
    ("main.direct", "behind its"), ("main.quits", "behind its"), ("main.fast.work", "as a method of its type"),
    ("main.hooked", "by its address in data"), ("main.describe", "behind its"),
])
@every_build
def test_what_else_leads_to_a_function_decides(version: str, variant: str, name: str, how: str) -> None:
    span, = find_spans(spanned(version, variant), servers=False, named=[name]).functions
    assert how in span.how, span.how
    behind = "behind" in how
    assert all((end.probe.symbol != name) == behind for end in span.ends)
    assert behind or all(end.probe.site.text.startswith("ret") and end.sp_above == 0 for end in span.ends)


@pytest.mark.parametrize("name, why, hint", [
    ("main.small", "inlined wherever it is called", "main.main"),
    ("main.sometimes", "some of its calls are inlined", "main.main"),
    ("main.forever", "it never returns", ""),
    ("main.descrbe", "no function of the program has that name", "main.describe"),
    ("describe", "no function of the program has that name", "main.describe"),
    ("serverHandler.ServeHTTP", "no function of the program has that name", HTTP),
    ("net/http.serverhandler.servehttp", "no function of the program has that name", HTTP),
    ("main.each", "no function of the program has that name", "main.each["),
    ("runtime.memmove", "assembly", ""),
    ("", "no function of the program has that name", ""),
    ("\0", "no function of the program has that name", ""),
    ("no such function, nor anything near it", "no function of the program has that name", ""),
])
def test_what_can_t_be_a_span_is_refused(name: str, why: str, hint: str) -> None:
    binary = spanned(NEWEST)
    with pytest.raises(UsageError) as refused:
        make_plan(binary, spans=[name])
    assert why in str(refused.value) and f"--span {name}" in str(refused.value) and "\n" not in str(refused.value)
    assert hint in (refused.value.hint or "")


@every_build
def test_inlined_copies_are_known_in_every_build(version: str, variant: str) -> None:
    table = spanned(version, variant).table
    copies = {name: [copy.name for copy in table.inlined_anywhere(f"main.{name}")] for name in ("small", "sometimes", "direct", "main")}
    assert copies == {"small": ["main.main"], "sometimes": ["main.main"], "direct": [], "main": []}
    # What package runtime alone can have inlined is found by both ways.
    for name in ("runtime.acquirem", "runtime.execute", "runtime.gopark"):
        assert {copy.entry for copy in table.inlined_into(name)} <= {copy.entry for copy in table.inlined_anywhere(name, 1000)}, name
    assert len(table.inlined_into("runtime.acquirem")) > 3 and len(table.inlined_anywhere("runtime.acquirem", 2)) == 2


@pytest.mark.parametrize("version", [VERSIONS[0]])
def test_an_ambiguous_name_is_refused(version: str) -> None:
    """Up to Go 1.20 the instances of a generic function have one name."""
    with pytest.raises(UsageError, match="2 functions of that name"):
        make_plan(spanned(version), spans=["main.each[...]"])


def test_too_many_are_refused() -> None:
    binary = spanned(NEWEST)
    names = [*NAMED, "main.last", "main.recovers", "main.lock"]
    with pytest.raises(UsageError, match=f"at most {MOST_SPANS}"):
        make_plan(binary, spans=names)
    assert len(make_plan(binary, spans=[*names[:MOST_SPANS], names[0]]).spans) == MOST_SPANS
    assert [span.name for span in make_plan(binary, requests=True, spans=[RPC]).spans] == [RPC, HTTP]


def test_the_command_shows_them(gotrace: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    path = build("spanned", NEWEST, "plain")
    shown = gotrace("probes", path, "--span", "main.direct", "--json")
    spans = {span["function"]: span for span in json.loads(shown.stdout)["spans"]}
    assert list(spans) == ["main.direct", HTTP, RPC]
    assert spans[HTTP]["traps_per_call"] == [2, 3] and spans[HTTP]["begin"]["symbol"] == HTTP and spans[HTTP]["begin"]["sp_above"] == 0
    assert {end["symbol"] for end in spans["main.direct"]["ends"]} == {"main.first", "main.main"}
    assert json.loads(gotrace("probes", path, "--requests", "off", "--json").stdout)["spans"] == []
    text = gotrace("probes", path).stdout
    assert f"span {HTTP}: 2 to 3 traps a call, which is seen to end behind its" in text
    address = f"{spans[HTTP]['begin']['address']:#x}"
    assert f"begins {address}  push rbp  (1 trap, {HTTP}+10)" in text
    refused = gotrace("probes", path, "--span", "main.small")
    assert refused.returncode == 2 and not refused.stdout
    assert refused.stderr.splitlines()[0] == "error: --span main.small: it is inlined wherever it is called (in main.main)"
    assert refused.stderr.splitlines()[1].startswith("hint: --span main.main, or")


@pytest.mark.bpf
def test_the_plan_of_a_process(gotrace: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    path = build("spanned", NEWEST, "pie")
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            shown = json.loads(gotrace("probes", process.pid, "--span", "main.direct", "--json").stdout)
        finally:
            process.kill()
    assert shown["verified_live"] and [span["function"] for span in shown["spans"]] == ["main.direct", HTTP, RPC]


@pytest.mark.parametrize("text, band", [
    ("p99", (0.99, 1.0)), ("p50..p90", (0.5, 0.9)), ("p0", (0.0, 1.0)), ("p99.5..p99.9", (0.995, 0.999)),
])
def test_bands(text: str, band: tuple[float, float]) -> None:
    assert BAND.convert(text, None, None) == pytest.approx(band)


@pytest.mark.parametrize("text", ["", "99", "p", "p90..p50", "p50..p50", "p101", "p100", "p-1", "p50..", "p50-p90", "p50..p90 x"])
def test_what_is_no_band_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="no band of percentiles"):
        BAND.convert(text, None, None)


def test_spans_need_probes() -> None:
    with pytest.raises(UsageError, match="--span is for probes"):
        check_mode(AttachOptions(pids=(1,), mode=Mode.SAMPLE, spans=("main.main",)))
    check_mode(AttachOptions(pids=(1,), mode=Mode.SAMPLE))


def package(name: str, program: str, tmp_path: Path) -> Path:
    """An executable of a package of this distribution, which is not installed for that."""
    installed = shutil.which(program)
    if installed is not None:
        return Path(installed)
    for command in (["apt-get", "download", "-qq", name], ["sh", "-c", "dpkg-deb --extract *.deb ."]):
        if subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120).returncode:
            unavailable(f"needs Debian's {name} (remedy: apt-get install {name})")
    return tmp_path / "usr/bin" / program


def returns_by_binutils(path: Path, low: int, high: int) -> list[int]:
    if shutil.which("objdump") is None:
        unavailable("needs objdump (remedy: apt-get install binutils)")
    text = subprocess.run(
        ["objdump", "-d", f"--start-address={low:#x}", f"--stop-address={high:#x}", path], check=True, capture_output=True, text=True,
    ).stdout
    return [int(match.group(1), 16) for match in re.finditer(r"^\s*([0-9a-f]+):\t[0-9a-f ]+\tret", text, re.M)]


@pytest.mark.parametrize("name, program, expected", [
    ("etcd-server", "etcd", [HTTP, *(f"google.golang.org/grpc.(*Server).process{kind}RPC" for kind in ("Unary", "Streaming"))]),
    ("prometheus", "prometheus", [HTTP]),
])
def test_programs_that_are_not_ours(name: str, program: str, expected: list[str], tmp_path: Path) -> None:
    path = package(name, program, tmp_path)
    binary = open_binary(path)
    spans = find_spans(binary, servers=True)
    assert [span.name for span in spans.functions] == expected
    for span in spans.functions:
        function, _ = binary.function(span.name)
        ends = [passage.site.address for passage in returns(binary.image, binary.table, function)]
        assert ends == returns_by_binutils(path, function.entry, function.end)
        assert span.traps[0] <= 3
        if span.name != HTTP:
            assert {end.probe.symbol for end in span.ends} == {"google.golang.org/grpc.(*Server).handleStream"}
    assert by_name(spans)[HTTP].traps[0] == 2
