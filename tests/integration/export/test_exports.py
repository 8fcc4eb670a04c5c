"""The exports of a real trace, read back by the tools that they are for, against the summary of the same trace."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build, go_command, go_environment
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb
from traceprocessor import complaints, queried, rows
from workload import Workload

from gotrace.common.vocabulary import Loss, Stage, State
from gotrace.export.perfetto import render_perfetto
from gotrace.kernel.compilation import Compilation
from gotrace.kernel.offsets import kernel_offsets
from gotrace.kernel.program import Options
from gotrace.profile.types import GovernorReport, GovernorStep, Profile, TimelineInterval, Window
from gotrace.run import outputs as outputs_module
from gotrace.run.options import AttachOptions
from gotrace.run.session import Session
from gotrace.watch.probed import ProbedProcess

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

GO = "1.27.3"


@pytest.fixture
def service():
    with Workload(build("service", GO, "stripped"), "-stdin-ends") as workload:
        yield workload


def slices_ns(path: Path) -> int:
    """Sum of the lengths of all slices on the goroutines' tracks."""
    total, opened, parents, goroutines = 0, {}, set(), set()
    for packet in pb.Trace.FromString(path.read_bytes()).packet:
        described = packet.track_descriptor
        if described.name == "goroutines":
            parents.add(described.uuid)
        if described.name.startswith("goroutine ") and described.parent_uuid in parents:
            goroutines.add(described.uuid)
        event = packet.track_event
        if event.track_uuid in goroutines and event.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
            opened[event.track_uuid] = packet.timestamp
        elif event.track_uuid in goroutines and event.type == pb.TrackEvent.TYPE_SLICE_END:
            total += packet.timestamp - opened.pop(event.track_uuid)
    assert not opened
    return total


@pytest.mark.full
def test_every_format_has_the_total_of_the_summary(service: Workload, tmp_path: Path, gotrace) -> None:
    names = ("x.gotrace", "x.pb.gz", "x.speedscope.json", "x.pftrace", "x.svg", "x.folded", "x.html", "x.json")
    outputs = [argument for name in names for argument in ("-o", tmp_path / name)]
    # Single intervals that the governor samples away are in the totals alone.
    result = gotrace("attach", service.pid, "-d", "1s", "--max-overhead", "0", "--per-goroutine", "--json", *outputs)
    assert result.returncode == 0, result.stderr
    totals = json.loads(result.stdout)["totals"]
    off_cpu_ns = totals["off_cpu_ns"]

    raw = subprocess.run(
        [go_command(GO), "tool", "pprof", "-raw", tmp_path / "x.pb.gz"], capture_output=True, text=True, timeout=120,
        check=True, env=go_environment() | {"PPROF_TMPDIR": str(tmp_path)},
    ).stdout  # fmt: skip
    rows = re.findall(r"^ +(\d+) +(\d+): ", raw.split("delay/nanoseconds\n", 1)[1].split("Locations\n")[0], re.MULTILINE)
    assert sum(int(delay) for _, delay in rows) == off_cpu_ns
    assert sum(int(count) for count, _ in rows) == totals["intervals"]

    speedscope = json.loads((tmp_path / "x.speedscope.json").read_text())
    assert {part["name"].partition(" · ")[0]: part["endValue"] for part in speedscope["profiles"]} == {
        state: weights["total_ns"] for state, weights in totals["by_state"].items()
    }
    folded = (tmp_path / "x.folded").read_text().splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in folded) == off_cpu_ns
    assert ET.parse(tmp_path / "x.svg").getroot().tag.endswith("svg")
    # Each goroutine's last wait is in progress: only where it can be told from what else is missing it is drawn.
    assert 0.95 * off_cpu_ns <= slices_ns(tmp_path / "x.pftrace") <= off_cpu_ns
    # A capture is recorded once and rendered again, to the same bytes.
    for name in ("x.pb.gz", "x.speedscope.json", "x.pftrace", "x.svg"):
        again = gotrace("report", tmp_path / "x.gotrace", "-o", tmp_path / f"again-{name}")
        assert again.returncode == 0, again.stderr
        assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_perfetto_output_records_single_intervals_unasked(service: Workload, tmp_path: Path, gotrace) -> None:
    trace, capture = tmp_path / "x.pftrace", tmp_path / "x.gotrace"
    result = gotrace("attach", service.pid, "-d", "1s", "-o", trace, "-o", capture)
    assert result.returncode == 0, result.stderr
    assert gotrace("report", capture, "-o", tmp_path / "again.pftrace").returncode == 0
    with sqlite3.connect(capture) as db:
        recorded_ns, goids = db.execute("SELECT SUM(duration_ns), COUNT(goid) FROM interval").fetchone()
        assert db.execute("SELECT COUNT(goid) FROM stack").fetchone() == (0,)  # goroutines are not kept apart for it
    assert goids > 100
    assert slices_ns(trace) == slices_ns(tmp_path / "again.pftrace") == recorded_ns


def test_without_single_intervals_there_is_no_perfetto_trace(service: Workload, tmp_path: Path, gotrace) -> None:
    capture = tmp_path / "x.gotrace"
    assert gotrace("attach", service.pid, "-d", "500ms", "--requests", "off", "-o", capture).returncode == 0
    result = gotrace("report", capture, "-o", tmp_path / "x.html", "-o", tmp_path / "x.pftrace")
    assert result.returncode == 1 and not (tmp_path / "x.html").exists()
    assert result.stderr.startswith("error: the capture has no single intervals") and "--per-goroutine" in result.stderr


@pytest.mark.full
def test_intervals_beyond_what_is_kept_are_counted(
    service: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs_module, "_TIMELINE_LIMIT", 50)
    outputs = (str(tmp_path / "x.pftrace"), str(tmp_path / "x.gotrace"))
    with Session(AttachOptions((service.pid,), 1_000_000_000, outputs)) as session:
        session.prepare()
        profile = session.run()
    with sqlite3.connect(tmp_path / "x.gotrace") as db:
        recorded, = db.execute("SELECT COUNT(*) FROM interval").fetchone()
        meta = json.loads(db.execute("SELECT value FROM meta WHERE key = 'losses'").fetchone()[0])
    assert len(profile.timeline) == 50
    assert profile.losses[Loss.TIMELINE_FULL] == recorded - 50 == meta["timeline_full"] > 0


def test_a_perfetto_trace_of_a_real_process_is_read_without_complaint(service: Workload, tmp_path: Path, gotrace) -> None:
    trace, capture = tmp_path / "x.pftrace", tmp_path / "x.gotrace"
    assert gotrace("attach", service.pid, "-d", "1s", "-o", trace, "-o", capture).returncode == 0
    with sqlite3.connect(capture) as db:
        recorded_ns, = db.execute("SELECT SUM(duration_ns) FROM interval").fetchone()
    with queried(trace) as processor:
        assert not complaints(processor)
        on_goroutines = "FROM slice JOIN track ON slice.track_id = track.id WHERE track.name GLOB 'goroutine *'"
        assert rows(processor, f"SELECT SUM(slice.dur) {on_goroutines}") == [(recorded_ns,)]
        (arrows,), = rows(processor, "SELECT COUNT(*) FROM flow")
        (woken,), = rows(processor, f"SELECT COUNT(*) {on_goroutines} AND slice.name GLOB 'wakes goroutine *'")
    assert arrows == woken > 100


# ---- beside Go's own block profile -----------------------------------------------------------------------------------

BLOCKED = {
    ("sync.(*Mutex).Lock", "main.lock"), ("sync.(*RWMutex).RLock", "main.readLock"), ("sync.(*RWMutex).Lock", "main.writeLock"),
    ("sync.(*WaitGroup).Wait", "main.gather"), ("sync.(*Cond).Wait", "main.await"), ("runtime.selectgo", "main.choose"),
    ("runtime.chanrecv1", "main.receive"), ("runtime.chansend1", "main.send"), ("runtime.chansend1", "main.produce"),
    ("sync.(*Mutex).Lock", "sync.(*Once).doSlow", "sync.(*Once).Do", "main.initialize"),
    ("sync.(*Mutex).Lock", "sync.(*RWMutex).Lock", "main.writeTwice"),
    ("reflect.chanrecv", "reflect.Value.recv", "reflect.Value.Recv", "main.receiveAny"),
    ("runtime.selectgo", "reflect.rselect", "main.selectAny"),
    ("runtime.selectgo", "io.(*pipe).read", "io.(*PipeReader).Read", "io.ReadAll", "main.readThrough"),
}  # fmt: skip
"""The waits of program contended: the operation, what called it, and the program's function that did."""


def pprof(version: str, tmp_path: Path, *arguments: str | Path) -> str:
    result = subprocess.run(
        [go_command(version), "tool", "pprof", *arguments], capture_output=True, text=True, timeout=120,
        env=go_environment() | {"PPROF_TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def raw_stacks(raw: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Contentions and delay of each stack of functions, leaf first, as ``-raw`` lists them."""
    samples, rest = raw.split("delay/nanoseconds", 1)[1].split("Locations\n")
    functions: dict[str, list[str]] = {}
    number = ""
    for line in rest.split("Mappings\n")[0].splitlines():
        found = re.match(r" +(?:(\d+): 0x\w+ (?:M=\d+ )?)?(.+?) \S*:\d+(?::\d+)? s=\d+$", line)
        assert found, line
        number = found[1] or number
        functions.setdefault(number, []).append(found[2])
    stacks: dict[tuple[str, ...], tuple[int, int]] = {}
    for count, delay, ids in re.findall(r"^ +(\d+) +(\d+): ([\d ]+)$", samples, re.MULTILINE):
        stack = tuple(name for number in ids.split() for name in functions[number])
        counts, delays = stacks.get(stack, (0, 0))
        stacks[stack] = counts + int(count), delays + int(delay)
    return stacks


def top_rows(report: str) -> dict[str, str]:
    """Flat time by function, as ``-top -unit=ns`` prints it; a function that has several rows is an error."""
    rows = re.findall(r"^ *(-?[\d.]+(?:ns)?) +\S+ +\S+ +\S+ +\S+  (.+?)(?: \(inline\))?$", report, re.MULTILINE)
    assert len({name for _, name in rows}) == len(rows) > 0, report
    return {name: flat for flat, name in rows}


@contextlib.contextmanager
def flame_graph(tmp_path: Path, *files: Path) -> Iterator[dict]:
    """What the flame graph of ``go tool pprof -http`` is drawn from."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [go_command(GO), "tool", "pprof", "-no_browser", f"-http={address}", *files], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=go_environment() | {"PPROF_TMPDIR": str(tmp_path)}, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(200):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                page = urllib.request.urlopen(f"http://{address}/ui/flamegraph", timeout=180).read().decode()
                break
            time.sleep(0.1)
        yield json.loads(re.search(r"stackViewer\((\{.*\}), ", page)[1])  # type: ignore[index]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.parametrize("version", ["1.21.13", GO])
def test_merged_with_gos_own_block_profile_each_wait_is_one(version: str, tmp_path: Path) -> None:
    before, block, ours = tmp_path / "before.pb.gz", tmp_path / "block.pb.gz", tmp_path / "ours.pb.gz"
    with Workload(build("contended", version, "plain")) as workload:
        workload.send(str(before))
        workload.read_line(20)
        with Attached(workload.pid, "-d", "1s", "--per-goroutine", "--json", "-o", ours) as attached:
            attached.result_json()
        workload.send(str(block))
        workload.read_line(20)
    their = raw_stacks(pprof(version, tmp_path, "-raw", block))
    own = raw_stacks(pprof(version, tmp_path, "-raw", ours))
    # Go's stacks are among ours, function for function from the operation to the goroutine's first function.
    for wait in BLOCKED:
        found, = [stack for stack in their if stack[: len(wait) - 1] == wait[:-1] and wait[-1] in stack]
        assert own[found][0] > 0 and own[found][1] > 0, wait
    awaited = ("sync.(*Cond).Wait", "main.await", "main.main.func1")
    counted_before = raw_stacks(pprof(version, tmp_path, "-raw", before)).get(awaited, (0, 0))[0]
    assert own[awaited][0] <= their[awaited][0] - counted_before + 1  # one may end later than the second profile
    names = {name for stack in own for name in stack}
    assert not {name for name in names if re.search(r"gopark|\.lockSlow|internal/sync|runtime_|semacquire1|runtime\.chanrecv$|goexit$", name)}

    tops = []
    for number, files in enumerate(((block, ours), (ours, block))):
        merged = tmp_path / f"merged-{number}.pb.gz"
        pprof(version, tmp_path, "-proto", f"-output={merged}", *files)
        both = raw_stacks(pprof(version, tmp_path, "-raw", merged))
        assert both == {
            stack: tuple(a + b for a, b in zip(their.get(stack, (0, 0)), own.get(stack, (0, 0)))) for stack in {*their, *own}
        }
        tops.append(top_rows(pprof(version, tmp_path, "-top", "-unit=ns", "-nodefraction=0", *files)))
        assert tops[-1] == top_rows(pprof(version, tmp_path, "-top", "-unit=ns", "-nodefraction=0", merged))
    assert tops[0] == tops[1]
    for operation in {wait[0] for wait in BLOCKED}:
        waited = sum(delay for stacks in (their, own) for stack, (_, delay) in stacks.items() if stack[0] == operation)
        assert float(tops[0][operation].removesuffix("ns")) == pytest.approx(waited, rel=1e-6)
    for files in ((f"-diff_base={block}", ours), (f"-diff_base={ours}", block)):
        grown = top_rows(pprof(version, tmp_path, "-top", "-unit=ns", "-nodefraction=0", *files))
        assert not {name for name in grown if re.search(r"gopark|\.lockSlow|internal/sync|goexit$", name)}
    with flame_graph(tmp_path, block, ours) as drawn:
        paths: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
        for stack in drawn["Stacks"]:
            functions = tuple(drawn["Sources"][number]["FullName"] for number in reversed(stack["Sources"]))
            paths.setdefault(functions[:-1], set()).add(tuple(stack["Sources"]))  # without the root of all
        for stack in their:
            assert len(paths[stack]) == 1, stack


def test_labels_of_a_real_trace_can_be_asked_for(tmp_path: Path) -> None:
    ours = tmp_path / "ours.pb.gz"
    with Workload(build("contended", GO, "plain")) as workload:
        with Attached(workload.pid, "-d", "1s", "--per-goroutine", "--json", "-o", ours) as attached:
            summary = attached.result_json()
    goids = {stack["goid"] for stack in summary["stacks"] if any(frame["name"] == "main.await" for frame in stack["frames"])}
    goid, = goids
    for focus in (f"goroutine={goid}", f"goroutine={goid}:{goid}"):
        focused = pprof(GO, tmp_path, "-top", "-cum", "-nodefraction=0", f"-tagfocus={focus}", ours)
        assert "main.await" in focused and "main.gather" not in focused
    # The compiler put produce's code into a wrapper, which is left out: it is no longer inlined into anything.
    roots = [frame for stack in summary["stacks"] for frame in stack["frames"] if frame["name"] == "main.produce"]
    assert roots and not any(frame["inlined"] for frame in roots)
    # Who woke is a leaf of its own, beside the time in which the function itself waited.
    leaves = top_rows(pprof(GO, tmp_path, "-top", "-unit=ns", "-nodefraction=0", "-tagleaf=waker", ours))
    assert "by main.provide" in leaves and "main.provide" in leaves
    functions = {name for stack in raw_stacks(pprof(GO, tmp_path, "-raw", ours)) for name in stack}
    assert not functions & {stack["reason"] for stack in summary["stacks"]}


# ---- under a cap on the cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given_up", "off"), [(Stage.WAKERS, "wakers_off_ns"), (Stage.KERNEL, "kernel_off_ns")])
def test_what_is_in_progress_is_drawn_where_a_stage_was_given_up(given_up: Stage, off: str) -> None:
    """Of the runtime's goroutines most wait throughout: there is no single interval of them."""
    with Workload(build("contended", GO, "plain")) as workload:
        process = ProbedProcess.prepare(workload.pid)
        try:
            process.load(Options(per_goroutine=True, stream_ns=0, governed=True), Compilation().result(), kernel_offsets())
            process.attach()
            process.begin()
            time.sleep(0.3)
            process.steering.leave_out(frozenset((given_up,)))
            left = time.monotonic_ns()
            time.sleep(0.5)
            stacks, intervals = process.finish()
            length_ns = process.end_ns - process.start_ns
            by_key = {stack.key: stack for stack in stacks}
            profile = Profile(
                "0", [process.describe()], Window("2026-01-01T00:00:00Z", length_ns, "exact", length_ns), stacks, {},
                timeline=[TimelineInterval(i.goid, i.start_ns, i.duration_ns, by_key[i.stack_key]) for i in intervals],
                governor=GovernorReport(0.1, steps=(GovernorStep(left, workload.pid, "x", 0.2),), **{off: process.end_ns - left}),
            )
        finally:
            process.close()
    trace = pb.Trace.FromString(render_perfetto(profile))
    names = {packet.track_descriptor.name for packet in trace.packet}
    for start in ("runtime.forcegchelper", "runtime.bgsweep", "runtime.bgscavenge", "main.readPipe"):
        assert [name for name in names if re.fullmatch(rf"goroutine \d+ {re.escape(start)}", name)], start
    drawn_ns: dict[int, int] = {}
    opened, goroutines = {}, {}
    for packet in trace.packet:
        found = re.match(r"goroutine (\d+)", packet.track_descriptor.name)
        if found:
            goroutines[packet.track_descriptor.uuid] = int(found[1])
        goid = goroutines.get(packet.track_event.track_uuid)
        if goid is not None and packet.track_event.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
            opened[goid] = packet.timestamp
        elif goid is not None and packet.track_event.type == pb.TrackEvent.TYPE_SLICE_END:
            drawn_ns[goid] = drawn_ns.get(goid, 0) + packet.timestamp - opened.pop(goid)
    sums_ns: dict[int, int] = {}
    for stack in stacks:
        if stack.state not in (State.SYSCALL, State.RUNQUEUE):
            sums_ns[stack.goid] = sums_ns.get(stack.goid, 0) + stack.distribution.total_ns
    # Never more than was summed up, and of goroutines that only wait all of it.
    assert all(ns <= length_ns for ns in drawn_ns.values())
    whole = {goid for goid, ns in sums_ns.items() if ns >= 0.999 * length_ns}
    assert len(whole) >= 3 and all(drawn_ns[goid] >= sums_ns[goid] for goid in whole)
