"""The pprof file, as `go tool pprof` itself reads it."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from anyprofile import any_profile
from gobuild import build, go_command, go_environment
from hypothesis import given
from hypothesis import strategies as st
from profiles import (
    GOEXIT,
    GOPARK,
    HOSTILE,
    MS,
    go,
    hostile_profile,
    profile,
    runtime,
    shop_profile,
    stat,
    two_processes,
)
from wire import each, fields, packed

from gotrace.common.vocabulary import CONTINUED, READY, FrameKind, Loss, State
from gotrace.export.pprof import render_pprof
from gotrace.export.protobuf import integer, text
from gotrace.export.protobuf import packed as write_packed
from gotrace.profile.types import Frame, Profile

GO = "1.27.3"
Tool = Callable[..., str]


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """Runs ``go tool pprof`` with some flags on profiles, or on files, and returns what it prints."""
    go_program = go_command(GO)

    def run(*arguments: str | Path | Profile) -> str:
        command: list[str | Path] = [go_program, "tool", "pprof"]
        for number, argument in enumerate(arguments):
            if isinstance(argument, Profile):
                path = tmp_path / f"{number}.pb.gz"
                path.write_bytes(render_pprof(argument))
                argument = path
            command.append(argument)
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=go_environment() | {"PPROF_TMPDIR": str(tmp_path)}
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def raw_sums(raw: str) -> tuple[int, int]:
    """Sums of both values over the samples that ``-raw`` lists."""
    body = raw.split("delay/nanoseconds\n", 1)[1].split("Locations\n")[0]
    rows = [(int(count), int(delay)) for count, delay in re.findall(r"^ +(-?\d+) +(-?\d+): ", body, re.MULTILINE)]
    return sum(count for count, _ in rows), sum(delay for _, delay in rows)


def seconds(ns: int) -> float:
    return ns / 1e9


def total_of(report: str) -> float:
    """Seconds of the whole, as the header of a report with ``-unit=s`` says."""
    return float(re.search(r"Total samples = ([\d.]+)s", report)[1])  # type: ignore[index]


def test_golden(tool: Tool, golden: Callable[[str, str], None]) -> None:
    golden("shop.pprof.txt", tool("-raw", shop_profile(losses={Loss.MISSED_HITS: 3})))


@pytest.mark.parametrize("make", [shop_profile, two_processes, hostile_profile])
def test_totals_are_the_profiles(tool: Tool, make: Callable[[], Profile]) -> None:
    made = make()
    assert raw_sums(tool("-raw", made)) == (made.intervals, made.total().total_ns)
    assert total_of(tool("-top", "-unit=s", made)) == pytest.approx(seconds(made.total().total_ns), abs=0.01)


def test_delay_is_what_is_shown_first(tool: Tool) -> None:
    assert "Type: delay" in tool("-top", shop_profile())


def test_tags_split_the_total(tool: Tool) -> None:
    made = shop_profile()
    for state, distribution in made.by_state().items():
        report = tool("-top", "-unit=s", "-nodefraction=0", f"-tagfocus=state=^{state.value}$", made)
        assert re.search(rf"accounting for {seconds(distribution.total_ns):.2f}s", report), report
    roots = tool("-top", "-cum", "-unit=s", "-nodefraction=0", "-tagroot=state", made)
    for state, distribution in made.by_state().items():
        assert re.search(rf"{seconds(distribution.total_ns):.2f}s +\S+%  {state.value}$", roots, re.MULTILINE), roots


def test_a_profile_against_itself_is_nothing(tool: Tool) -> None:
    made = shop_profile()
    report = tool("-top", "-diff_base", made, made)
    assert "Showing nodes accounting for 0, 0% of" in report


def test_diff_shows_what_grew(tool: Tool) -> None:
    before = profile([stat([GOPARK, runtime("chanrecv"), go("main.f"), GOEXIT], [5 * MS], reason="chan receive")])
    after = profile([stat([GOPARK, runtime("chanrecv"), go("main.f"), GOEXIT], [7 * MS], reason="chan receive")])
    assert re.search(r"^ +2ms .* main\.f$", tool("-top", "-unit=ms", "-diff_base", before, after), re.MULTILINE)


def test_merges_with_gos_own_block_profile(tool: Tool, tmp_path: Path) -> None:
    block = tmp_path / "block.pb.gz"
    subprocess.run([build("blocked", GO, "plain"), block], check=True, timeout=180)
    receiving = [runtime("chanrecv", "chan.go", 664), runtime("chanrecv1", "chan.go", 509), go("main.receive")]
    ours = profile([stat([GOPARK, *receiving, GOEXIT], [40 * MS, 2 * MS], reason="chan receive")])
    merged = tmp_path / "merged.pb.gz"
    tool("-proto", f"-output={merged}", ours, block)
    contentions, delay = raw_sums(tool("-raw", merged))
    their_contentions, their_delay = raw_sums(tool("-raw", block))
    assert their_contentions >= 3
    assert (contentions, delay) == (their_contentions + 2, their_delay + 42 * MS)
    # One line for the operation that both call the leaf: the runtime's way on into the scheduler is hidden.
    lines = re.findall(r"^ +([\d.]+)ms.* runtime\.chanrecv1$", tool("-top", "-unit=ms", merged), re.MULTILINE)
    assert len(lines) == 1 and float(lines[0]) > 42
    assert "gopark" not in tool("-top", merged)


def functions_of(raw: str) -> list[str]:
    """The functions of the locations that ``-raw`` lists, in their order."""
    return re.findall(r"^ +(?:\d+: 0x0 (?:M=\d+ )?)?(.+?) \S*:\d+:0 s=0$", raw.split("Locations\n")[1], re.MULTILINE)


SYNC = Frame("sync.runtime_SemacquireMutex", "/go/src/runtime/sema.go", 77)
RWSYNC = Frame("sync.runtime_SemacquireRWMutex", "/go/src/runtime/sema.go", 87)


@pytest.mark.parametrize(("frames", "kept"), [
    # Go up to 1.23, and from 1.24 on.
    ([GOPARK, runtime("goparkunlock"), runtime("semacquire1"), SYNC, go("sync.(*Mutex).lockSlow"), go("sync.(*Mutex).Lock", inlined=True),
      go("main.f"), GOEXIT], ["sync.(*Mutex).Lock", "main.f"]),
    ([GOPARK, runtime("semacquire1"), go("internal/sync.runtime_SemacquireMutex"), go("internal/sync.(*Mutex).lockSlow"),
      go("internal/sync.(*Mutex).Lock", inlined=True), go("sync.(*Mutex).Lock", inlined=True), go("main.f"), GOEXIT],
     ["sync.(*Mutex).Lock", "main.f"]),
    ([GOPARK, runtime("semacquire1"), RWSYNC, go("sync.(*RWMutex).Lock"), go("main.f"), GOEXIT], ["sync.(*RWMutex).Lock", "main.f"]),
    ([GOPARK, go("sync.runtime_notifyListWait"), go("sync.(*Cond).Wait"), go("main.f"), GOEXIT], ["sync.(*Cond).Wait", "main.f"]),
    ([GOPARK, runtime("chansend"), runtime("chansend1"), go("main.f"), GOEXIT], ["runtime.chansend1", "main.f"]),
    ([GOPARK, runtime("selectgo"), go("main.f"), GOEXIT], ["runtime.selectgo", "main.f"]),
    ([runtime("goyield"), runtime("semrelease1"), go("internal/sync.runtime_Semrelease"), go("internal/sync.(*Mutex).unlockSlow"),
      go("internal/sync.(*Mutex).Unlock", inlined=True), go("sync.(*Mutex).Unlock", inlined=True), go("main.f"), GOEXIT],
     ["sync.(*Mutex).Unlock", "main.f"]),
    # The mutex is the map's own; its Range calls the program's function.
    ([GOPARK, runtime("semacquire1"), go("internal/sync.runtime_SemacquireMutex"), go("internal/sync.(*Mutex).lockSlow"),
      go("internal/sync.(*Mutex).Lock", inlined=True), go("internal/sync.(*HashTrieMap[...]).Swap"), go("sync.(*Map).Store"), GOEXIT],
     ["internal/sync.(*HashTrieMap[...]).Swap", "sync.(*Map).Store"]),
    ([GOPARK, runtime("chanrecv"), runtime("chanrecv1"), go("main.each"), go("internal/sync.(*HashTrieMap[...]).Range"), GOEXIT],
     ["runtime.chanrecv1", "main.each", "internal/sync.(*HashTrieMap[...]).Range"]),
    # What a thread slept for stays.
    ([Frame("futex_wait", kind=FrameKind.KERNEL), Frame("futex", kind=FrameKind.SYSCALL), runtime("futex"), runtime("lock2"),
      runtime("chansend"), runtime("chansend1"), go("main.f"), GOEXIT],
     ["futex_wait", "futex (system call)", "runtime.chansend1", "main.f"]),
    # Nothing else would be left.
    ([GOPARK, GOEXIT], ["runtime.gopark", "runtime.goexit"]),
    # The root is missing, and what is missing is said.
    ([GOPARK, runtime("chanrecv"), runtime("chanrecv1"), Frame("[stack deeper than the walk]", kind=FrameKind.LOST)],
     ["runtime.chanrecv1", "[stack deeper than the walk]"]),
    # A program's own packages may be called like the library's.
    ([go("example.org/internal/sync.(*Mutex).Lock"), go("example.org/sync.runtime_Semacquire"), GOEXIT],
     ["example.org/internal/sync.(*Mutex).Lock", "example.org/sync.runtime_Semacquire"]),
])  # fmt: skip
def test_stacks_begin_and_end_as_gos_own_do(tool: Tool, frames: list[Frame], kept: list[str]) -> None:
    assert functions_of(tool("-raw", profile([stat(frames, [MS], reason="x")]))) == kept


def test_a_first_function_that_was_inlined_into_a_wrapper_stands_alone(tool: Tool) -> None:
    # As captures have it in which the wrapper was left out and the mark was not.
    made = profile([stat([GOPARK, runtime("chanrecv"), runtime("chanrecv1"), go("main.produce", "/f.go", 3, inlined=True), GOEXIT], [MS])])
    assert "(inline)" not in tool("-traces", made)


def test_the_duration_is_the_time_that_was_watched(tool: Tool) -> None:
    made = shop_profile()
    made.window = replace(made.window, attached_ns=2_500 * MS)
    assert "Duration: 2.50s" in tool("-top", made)
    made.window = replace(made.window, attached_ns=made.window.duration_ns * 3)  # a capture says what it likes
    assert "Duration: 10s" in tool("-top", made)


@pytest.mark.parametrize(("boundary", "frame", "syscall"), [
    ("read(fd 7 → pipe)", "read (system call)", "read"),
    ("clone(vfork)", "clone(vfork) (system call)", "clone"),
    ("page fault", "page fault (kernel)", None),
    ("stopped", "stopped (kernel)", None),
    ("[kernel]", "[kernel]", None),
])  # fmt: skip
def test_no_frame_is_called_like_a_reason(tool: Tool, boundary: str, frame: str, syscall: str | None) -> None:
    reason = boundary.partition("(")[0]
    frames = [Frame("main.f", kind=FrameKind.WAKER), Frame(boundary, kind=FrameKind.SYSCALL), go("main.f"), GOEXIT]
    made = profile([stat(frames, [MS], State.SYSCALL, reason)])
    raw = tool("-raw", made)
    assert functions_of(raw) == [frame, "main.f"]
    found = re.search(r"\bsyscall:\[(.*?)\]", raw)
    assert (found and found[1]) == syscall
    # Both are there, and neither has the other's time: "read" is the root, what is under it another node.
    rows = tool("-top", "-cum", "-unit=ms", "-nodefraction=0", "-tagroot=reason", "-tagleaf=waker", made)
    flat = {name: value for value, name in re.findall(r"^ +(\d\S*) +\S+ +\S+ +\S+ +\S+  (.+)$", rows, re.MULTILINE)}
    assert flat["by main.f"] == "1ms" and flat["main.f"] == "0" and flat[frame] == "0"


def test_goroutines_are_numbers(tool: Tool) -> None:
    stacks = []
    for goid in (7, 24, 245, 2450):
        stacks.append(stat([GOPARK, runtime("chanrecv1"), go(f"main.f{goid}"), GOEXIT], [goid * MS], reason="chan receive"))
        stacks[-1].goid = goid
    made = profile(stacks)
    for focus, found in (("245", {"main.f245"}), ("240:250", {"main.f245"}), ("7:24", {"main.f7", "main.f24"})):
        top = tool("-top", "-cum", "-nodefraction=0", f"-tagfocus=goroutine={focus}", made)
        assert set(re.findall(r"main\.f\d+", top)) == found
    assert re.search(r"245\S*$", tool("-top", "-nodefraction=0", "-tagroot=goroutine", made), re.MULTILINE)


def test_inlined_calls_are_lines_of_one_location(tool: Tool) -> None:
    made = profile([stat([go("main.leaf", "/f.go", 3, inlined=True), go("main.outer", "/f.go", 9), GOEXIT], [MS])])
    raw = tool("-raw", made)
    assert re.search(r"1: 0x0 M=1 main\.leaf /f\.go:3:0 s=0\n +main\.outer /f\.go:9:0 s=0\n", raw), raw


def test_below_the_go_stack(tool: Tool) -> None:
    frames = [
        Frame("main.feed", kind=FrameKind.WAKER), Frame("anon_pipe_read", kind=FrameKind.KERNEL),
        Frame("read(fd 7 → pipe)", kind=FrameKind.SYSCALL), go("main.main"), GOEXIT,
    ]  # fmt: skip
    made = profile([stat(frames, [MS], State.SYSCALL, "read")])
    raw = tool("-raw", made)
    # The waker is a label: its functions did not wait.
    assert "waker:[by main.feed]" in raw and "main.feed" not in raw.split("Locations\n")[1]
    assert "syscall:[read]" in raw and "peer:[pipe]" in raw
    assert re.search(r"1: 0x0 M=2 anon_pipe_read", raw) and re.search(r"2: 0x0 M=2 read \(system call\) :0", raw)
    assert re.search(r"2: 0x0/0x0/0x0 \[kernel\]", raw)
    assert re.search(r"100%  anon_pipe_read$", tool("-top", made), re.MULTILINE)


@pytest.mark.parametrize(("boundary", "syscall", "peer"), [
    ("netpoll(fd 8 → tcp 10.0.0.1:40312→10.0.0.2:6379)", None, "tcp 10.0.0.2:6379"),
    ("write(fd 3 → /var/log/a (b).log)", "write", "/var/log/a (b).log"),
    ("accept4(fd 5 → tcp listening on 0.0.0.0:80)", "accept4", "tcp listening on 0.0.0.0:80"),
    ("futex", "futex", None),
    ("read(fd 9)", "read", None),
])  # fmt: skip
def test_syscall_and_peer(tool: Tool, boundary: str, syscall: str | None, peer: str | None) -> None:
    raw = tool("-raw", profile([stat([Frame(boundary, kind=FrameKind.SYSCALL), go("main.main")], [MS], reason="x")]))
    for label, value in (("syscall", syscall), ("peer", peer)):
        found = re.search(rf"\b{label}:\[(.*?)\](?: |$)", raw, re.MULTILINE)
        assert (found and found[1]) == value


def test_goroutines_and_processes_are_labels_where_kept_apart(tool: Tool) -> None:
    stack = stat([go("main.main")], [MS], reason="sleep")
    stack.goid = 57
    assert "goroutine:[57]" in tool("-raw", profile([stack]))
    assert "process:[cart (4300)]" in tool("-raw", two_processes())
    assert not re.search("goroutine:|process:", tool("-raw", shop_profile()))


def test_comments_tell_window_filters_and_losses(tool: Tool) -> None:
    made = shop_profile(losses={Loss.RING_FULL: 1234}, filters=["state waiting"], complete=False)
    for text_ in ("window: 2026-03-01T03:14:15.926Z, 10.0 s, mode exact", "only a part was recorded: state waiting",
                  "LOSS ring_full: 1,234 single events", "INCOMPLETE"):  # fmt: skip
        assert f"{text_}" in tool("-top", made)
    assert "losses: none" in tool("-top", shop_profile())


def test_no_name_acts_on_a_terminal(tool: Tool) -> None:
    for flag in ("-raw", "-top", "-traces", "-tags"):
        assert tool(flag, hostile_profile()).replace("\n", "").replace("\t", "").isprintable()
    assert "main.a;b c 17" in tool("-raw", hostile_profile())
    assert HOSTILE["markup"] in tool("-raw", hostile_profile())


@given(any_profile)
def test_values_add_up(made: Profile) -> None:
    data = gzip.decompress(render_pprof(made))
    values = [packed(each(sample, 2)[0]) for sample in each(data, 2)]
    assert sum(delay for _, delay in values) == made.total().total_ns
    assert sum(count for count, _ in values) == made.intervals
    strings = [value.decode() for value in each(data, 6)]  # type: ignore[union-attr]
    assert strings[0] == "" and len(set(strings)) == len(strings)
    assert all(string.isprintable() for string in strings)
    numbers = {number: [each(part, 1)[0] for part in each(data, number)] for number in (3, 4, 5)}
    assert all(ids == list(range(1, len(ids) + 1)) for ids in numbers.values())
    for sample in each(data, 2):
        assert set(packed(each(sample, 1)[0])) <= set(numbers[4])
    for location in each(data, 4):
        assert set(each(location, 2)) <= set(numbers[3])
        assert {each(line, 1)[0] for line in each(location, 4)} <= set(numbers[5])


@given(any_profile)
def test_same_bytes_every_time(made: Profile) -> None:
    assert render_pprof(made) == render_pprof(made)


def test_later_parts_are_no_intervals_of_their_own() -> None:
    sleeps = stat([go("main.f")], [MS, MS], reason="sleep")
    ready = stat([go("main.f")], [MS, MS], State.RUNNABLE, READY)
    made = profile([sleeps, ready])
    data = gzip.decompress(render_pprof(made))
    assert READY in CONTINUED
    assert sorted(packed(each(sample, 2)[0]) for sample in each(data, 2)) == [[0, 2 * MS], [2, 2 * MS]]


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_on_the_wire(value: int) -> None:
    (number, read), = fields(integer(5, value))
    assert number == 5 and read == value % 2**64


@given(st.lists(st.integers(0, 2**64 - 1)), st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_lists_and_texts_on_the_wire(values: list[int], string: str) -> None:
    data = write_packed(1, values) + text(2, string)
    assert packed(each(data, 1)[0]) == values and each(data, 2) == [string.encode()]
