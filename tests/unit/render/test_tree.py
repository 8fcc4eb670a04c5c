"""The text tree and the list of hot spots: what they show, what they leave out, and that they fit and are safe."""

from __future__ import annotations

import io
import re

import pytest
from anyprofile import any_profile
from hypothesis import given
from profiles import (
    GOEXIT,
    GOPARK,
    MS,
    S,
    go,
    hostile_profile,
    many_stacks,
    profile,
    runtime,
    shop_profile,
    stat,
    two_processes,
)
from rich.console import Console

from gotrace.common.vocabulary import FrameKind, State
from gotrace.export import render
from gotrace.profile.filters import without_runtime
from gotrace.profile.hotspots import Thresholds, find_hotspots
from gotrace.profile.types import Frame, Profile
from gotrace.render.summary import print_summary
from gotrace.render.tree import RUNTIME_GOROUTINES, print_tree


def tree(made: Profile, width: int = 80, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_tree(made, console, **options)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def summary(made: Profile, width: int = 80, **options: object) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_summary(made, console, **options)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


BASE = [go("main.handle", "/src/a.go", 7), go("main.serve", "/src/a.go", 9), GOEXIT]
MADE = [
    stat([GOPARK, go("main.lock", "/src/a.go", 3), *BASE], [60 * MS], reason="sync.Mutex.Lock"),
    stat([GOPARK, go("main.query", "/src/a.go", 4), *BASE], [35 * MS], reason="IO wait"),
    stat([GOPARK, go("main.query", "/src/a.go", 5), *BASE], [4 * MS + 500_000], State.RUNNABLE, "ready"),
    stat([go("main.rare"), *BASE], [500_000], State.PREEMPTED, "preempted"),
]


def test_tree_runs_straight_forks_and_marks_the_hottest_path() -> None:
    assert tree(profile(MADE)) == """\
Off the CPU: 100 ms  hottest path: ▶
└─ 100.0 %   100 ms  ▶ main.serve  a.go:9
                     ▶ main.handle  a.go:7
   ├─  60.0 %  60.0 ms  ▶ main.lock  a.go:3
   │                    ▶ [waiting: sync.Mutex.Lock]
   └─  39.5 %  39.5 ms    main.query
      ├─  35.0 %  35.0 ms    [waiting: IO wait]
      └─   4.5 %  4.50 ms    [runnable: ready]
"""


def test_tree_sums_up_what_is_too_much() -> None:
    made = profile([stat([go(f"main.f{n}"), GOEXIT], [(100 + n) * MS]) for n in range(30)])
    lines = tree(made, branches=3).splitlines()
    assert len(lines) == 1 + 2 * 3 + 1
    assert lines[1].split("▶ ")[1] == "main.f29"
    assert lines[-1].endswith("27 more branches") and " 88.8 % " in lines[-1]


def test_the_runtimes_goroutines_are_one_branch_and_never_the_hottest_path() -> None:
    made = profile([*MADE, stat([GOPARK, runtime("bgsweep"), GOEXIT], [S]), stat([GOPARK, runtime("bgscavenge"), GOEXIT], [S])])
    text = tree(made)
    assert f"    {RUNTIME_GOROUTINES}" in text and "bgsweep" not in text
    assert "▶ main.serve" in text and "▶ main.lock" in text
    assert "runtime.bgsweep" in tree(made, runtime=True) and "runtime.gopark" in tree(made, runtime=True)


def test_tree_of_processes_and_of_nothing() -> None:
    text = tree(two_processes())
    assert re.search(r"▶ shop \(4242\)$", text, re.M) and re.search(r"  cart \(4300\)$", text, re.M)
    assert tree(profile([])) == "Off the CPU: 0 ns  hottest path: ▶\n"


def test_tree_leaves_sockets_out_of_names() -> None:
    def read(n: int) -> list[Frame]:
        return [Frame("waker", kind=FrameKind.WAKER), Frame(f"netpoll(fd {n} → tcp)", kind=FrameKind.SYSCALL), *BASE]

    text = tree(profile([stat(read(n), [MS]) for n in range(9)]))
    assert text.count("netpoll") == 1 and "fd" not in text and "waker" not in text


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("options", [{}, {"runtime": True}])
@pytest.mark.parametrize("make", [shop_profile, hostile_profile, two_processes, lambda: many_stacks(60)])
def test_tree_fits_and_is_safe(make: object, options: dict, width: int) -> None:
    lines = tree(make(), width, **options).splitlines()  # type: ignore[operator]
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert sum("▶" in line for line in lines) > 2


@given(any_profile)
def test_tree_of_any_profile(made: Profile) -> None:
    assert all(line.isprintable() and len(line) <= 80 for line in tree(made).splitlines())


# ---- hot spots in the summary


def test_summary_lists_hot_spots_with_reasons() -> None:
    made = profile([*MADE, stat([GOPARK, go("main.lock", "/src/a.go", 3), *BASE], [S], reason="semacquire")])
    made.hotspots = find_hotspots(made, Thresholds(share=0))
    text = summary(made)
    assert "1 hot spot " in text
    assert "  ! 90.9 %  waiting: semacquire in main.lock ← main.handle ← main.serve\n      up to 1.00 s in 1 interval\n" in text
    made.hotspots = []
    assert "hot spot" not in summary(made)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_hot_spots_fit_and_are_safe(width: int) -> None:
    made = hostile_profile()
    made.hotspots = find_hotspots(made, Thresholds(1, 1, 0.0001))
    assert not made.hotspots  # too few intervals to call a tail
    made = profile([stat(stack.frames, [S], State.SYSCALL, stack.reason) for stack in made.stacks])
    made.hotspots = find_hotspots(made)
    assert len(made.hotspots) == len(made.stacks)
    lines = summary(made, width).splitlines()
    assert max(map(len, lines)) <= width and all(line.isprintable() for line in lines)
    assert sum(line.startswith("  ! ") for line in lines) == 5 and "and 5 more" in "\n".join(lines)


# ---- a wider terminal, and the runtime's frames


def test_a_wider_terminal_shows_more() -> None:
    narrow, roomy, wide = (summary(shop_profile(), width) for width in (80, 100, 140))
    assert "p90" not in narrow and "p90" in roomy and "p90" in wide
    assert "█" not in roomy and "█" in wide
    assert narrow.count("more towards") > wide.count("more towards")
    assert "handlers.go:112" in wide and "handlers.go:112" not in narrow


def test_runtime_frames_are_folded_unless_asked_for() -> None:
    assert "runtime.semacquire1" not in summary(shop_profile()) and "runtime.semacquire1" in summary(shop_profile(), runtime=True)
    made = shop_profile()
    folded, kept = render(made, ".folded", False).decode(), render(made, ".folded", True).decode()
    assert "runtime.semacquire1" in kept and "runtime.semacquire1" not in folded and "main.(*Cache).Get" in folded
    assert render(made, ".folded").decode() == kept
    # The runtime's own goroutines would be nothing without.
    assert "runtime.bgscavenge" in folded
    assert [stack.frames for stack in without_runtime(made).stacks] != [stack.frames for stack in made.stacks]


@given(any_profile)
def test_folding_changes_no_total(made: Profile) -> None:
    def total(text: bytes) -> int:
        return sum(int(line.rpartition(b" ")[2]) for line in text.splitlines())

    assert total(render(made, ".folded", False)) == total(render(made, ".folded", True)) == made.total().total_ns
