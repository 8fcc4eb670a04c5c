"""Hot spots: places of a program whose waits are suspicious, not just large.

A place is all stacks that differ only in waker and in the file or socket; its figures cover all of them. Every place is asked
three questions:

- Is its p99 above a threshold? That is enough for waits in which the goroutine has work and can't go on (a lock, a full
  channel, a system call such as fsync, the collector), even for a single wait. Waits for a P or a CPU are suspicious from a
  tenth of the threshold on, if there were at least `MIN_COUNT`. A wait that may be one for work or for a time (channel
  receive, select, network, sleep) must also have a tail: a p99 of at least `TAIL` times its p50, over `MIN_COUNT` ended
  intervals.
- Is its jitter, the standard deviation, above a threshold in `IN_A_ROW` consecutive sub-windows? They are a second long
  (longer in traces of over a minute); one with fewer than `MIN_IN_SUBWINDOW` intervals breaks the row. If the wait may be
  one for work, the jitter must also exceed the mean.
- Is its share above a threshold? The share is of the time that is not idle by design, because a thousand parked workers
  would otherwise hide everything else. It must also be at least a tenth of one goroutine's time.

Idle by design, and hot spots only for waits in which there is work: goroutines of the runtime; waits that lasted the whole
window; waits in the loop of the function with which the goroutine was started, through nothing but the standard library's
ways to read, sleep and wait; waits of goroutines in which only the standard library runs (net/http's connections, signal
loops): if the program waits for those, its own stack says so. So are waits for work below functions that read, if no other
wait below the function with which their goroutines were started takes longer: a loop that reads, and what it reads with.

If requests are known, a wait that may be one for work is a hot spot only if a good part of it (`IN_REQUESTS`) lies in them, and shares
are of the requests' time. In a profile of some of the requests (`filter_requests`) both are of those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gotrace.common.histogram import percentile
from gotrace.common.units import format_duration
from gotrace.common.vocabulary import State
from gotrace.profile.frames import is_background, is_program, own_frames, package_of
from gotrace.profile.groups import Group, grouped
from gotrace.profile.requests import parts
from gotrace.profile.types import Distribution, Hotspot, Profile, StackKey, StackStat, SubWindow

TAIL = 10
"""Work that arrives at random has exponential waits: a p99 of ln(100)/ln(2) = 6.6 times the p50."""
MIN_COUNT = 20
MIN_IN_SUBWINDOW = 5
IN_A_ROW = 3
IN_REQUESTS = 0.1
MOST = 20
"""A longer list of hot spots would not be read."""
_SCHEDULER = frozenset((State.RUNNABLE, State.RUNQUEUE, State.NETPOLL, State.PREEMPTED))
_SCHEDULER_FACTOR = 10

_HELD_UP = frozenset((
    "sync.Mutex.Lock", "sync.RWMutex.Lock", "sync.RWMutex.RLock", "semacquire", "chan send", "chan send (nil chan)",
    "GC assist marking", "GC assist wait", "wait for GC cycle", "stopping the world",
))
"""Wait reasons (runtime/runtime2.go: waitReasonStrings) of goroutines that have work and can't go on."""
_OPEN_ENDED_CALLS = frozenset((
    "read", "recvfrom", "recvmsg", "recvmmsg", "accept", "accept4", "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll",
    "ppoll", "select", "pselect6", "wait4", "waitid", "futex", "nanosleep", "clock_nanosleep", "io_getevents", "pause",
    "rt_sigtimedwait",
))
"""System calls that may wait for work, for a time or for another party."""
_WAYS_TO_WAIT = ("bufio/", "io/", "net/", "os/", "syscall/", "time/", "sync/", "crypto/tls/", "encoding/binary/", "internal/")
"""The standard library's packages, with those below them, through which a goroutine reads, sleeps and waits."""

_READS = re.compile(
    r"(?i)(read|recv|receive|decode|next|scan|accept|poll|wait|listen|serve|run|select|get|pop|dequeue|fetch|take|consume|watch|handlestreams)"
    r"|.*[lL]oop"
)
"""Names of functions that wait for work: `(*streamReader).decodeLoop`, `(*controlBuffer).get`, `(*Framer).ReadFrame`."""


@dataclass(frozen=True)
class Thresholds:
    """From which value on a place is a hot spot; 0 leaves a question out. `share` is a fraction."""

    p99_ns: int = 100_000_000
    jitter_ns: int = 50_000_000
    share: float = 0.25


def find_hotspots(profile: Profile, thresholds: Thresholds = Thresholds()) -> list[Hotspot]:
    """The hot spots of `profile`, at most `MOST`: first those with the most reasons, then the largest.

    `Hotspot.stack` is the place's largest stack; `p99_ns` and `jitter_ns` are the place's, `share` is its part of all off-CPU time.
    """
    all_ns = sum(stack.distribution.total_ns for stack in profile.stacks)
    places = [group for group in grouped(profile.stacks) if group.stack.distribution.count and not idle_by_design(group.stack)]
    loops = _reading_loops(places)
    places = [group for group in places if id(group) not in loops]
    busy_ns = sum(group.stack.distribution.total_ns for group in places)
    inside, requests_ns = _in_requests(profile)
    found = []
    for group in places:
        stack, d = group.stack, group.stack.distribution
        within_ns = sum(inside.get(profile.stacks[index].key, 0) for index in group.members)
        if requests_ns and may_wait_for_work(stack) and within_ns < IN_REQUESTS * d.total_ns:
            continue
        large = _large_in_requests(within_ns, requests_ns, thresholds) if requests_ns else _large(profile, d, busy_ns, all_ns, thresholds)
        reasons = [why for why in (_tail(stack, thresholds), _unsteady(stack, thresholds), large) if why]
        if reasons:
            largest = max(group.members, key=lambda index: profile.stacks[index].distribution.total_ns)
            spot = Hotspot(largest, "; ".join(reasons), d.percentile_ns(0.99), d.jitter_ns, d.total_ns / all_ns if all_ns else 0.0)
            found.append((len(reasons), d.total_ns, spot))
    found.sort(key=lambda item: item[:2], reverse=True)
    return [spot for *_, spot in found[:MOST]]


def _in_requests(profile: Profile) -> tuple[dict[StackKey, int], int]:
    """How much of the time of each stack lies in those requests that are shown, and their time. A span inside another counts in both."""
    inside: dict[StackKey, int] = {}
    total_ns = 0
    for span in profile.requests:
        for piece in parts(span, *span.shown).values():
            total_ns += piece.total_ns
            for key, wait in piece.waits.items():
                inside[key] = inside.get(key, 0) + wait.total_ns
    return inside, total_ns


def _large_in_requests(within_ns: int, requests_ns: int, thresholds: Thresholds) -> str:
    if not thresholds.share or within_ns < thresholds.share * requests_ns:
        return ""
    return f"{100 * within_ns / requests_ns:.0f} % of the requests' time"


def _reading_loops(places: list[Group]) -> set[int]:
    """The ids of those in which a goroutine's outermost loop waits for work, below functions that read."""
    largest: dict[str, Group] = {}
    for group in places:
        frames = own_frames(group.stack.frames)
        if frames and may_wait_for_work(group.stack):
            known = largest.get(frames[-1].name)
            if known is None or known.stack.distribution.total_ns < group.stack.distribution.total_ns:
                largest[frames[-1].name] = group
    found = set()
    for group in largest.values():
        between = [frame for frame in own_frames(group.stack.frames)[:-1] if is_program(frame)]
        if all(_READS.match(frame.name.rpartition(".")[2]) for frame in between):
            found.add(id(group))
    return found


def idle_by_design(stack: StackStat) -> bool:
    """Whether the wait is one for work or for a time, at a place made for it: see the module's docstring."""
    if is_background(stack):
        return True
    if not may_wait_for_work(stack):
        return False
    if stack.in_progress and stack.in_progress >= stack.distribution.count:
        return True
    frames = own_frames(stack.frames)
    if not any(is_program(frame) for frame in frames):
        return bool(frames)
    beyond = 0
    while not is_program(frames[beyond]) and (package_of(frames[beyond].name) + "/").startswith(_WAYS_TO_WAIT):
        beyond += 1
    return len(frames) - beyond == 1


def may_wait_for_work(stack: StackStat) -> bool:
    """Whether the goroutine may have had nothing to do: the length of such a wait alone says nothing."""
    if stack.state is State.WAITING:
        return stack.reason not in _HELD_UP
    return stack.state is State.SYSCALL and stack.reason in _OPEN_ENDED_CALLS


def _limit(stack: StackStat, limit_ns: int) -> int:
    by_scheduler = stack.state in _SCHEDULER and stack.distribution.count >= MIN_COUNT
    return limit_ns // _SCHEDULER_FACTOR if by_scheduler else limit_ns


def _tail(stack: StackStat, thresholds: Thresholds) -> str:
    d, limit = stack.distribution, _limit(stack, thresholds.p99_ns)
    if not limit:
        return ""
    p50, p99 = d.percentile_ns(0.50), d.percentile_ns(0.99)
    if may_wait_for_work(stack):
        ended = d.count - stack.in_progress
        if ended < MIN_COUNT:
            return ""
        # Those cut off by the window may be the longest, and their length is the window's choice: they make no tail.
        p99 = percentile(d.histogram, 0.99 * ended / d.count, d.max_ns)
        if p99 < TAIL * p50:
            return ""
    if p99 <= limit:
        return ""
    if d.count < MIN_COUNT:
        return f"up to {format_duration(d.max_ns)} in {d.count} interval{'' if d.count == 1 else 's'}"
    ratio = p99 // p50 if p50 else 0
    return f"p99 {format_duration(p99)}" + (
        f" is {ratio:,} times its p50" if ratio > 1 else f" exceeds {format_duration(limit)}"
    )


def _unsteady(stack: StackStat, thresholds: Thresholds) -> str:
    limit = _limit(stack, thresholds.jitter_ns)
    if not limit:
        return ""
    open_ended = may_wait_for_work(stack)
    row: list[SubWindow] = []
    longest: list[SubWindow] = []
    for part in stack.subwindows:
        jitter = part.jitter_ns if part.count >= MIN_IN_SUBWINDOW else 0
        if jitter < limit or (open_ended and jitter <= part.total_ns / part.count):
            row = []
            continue
        row = [*row, part] if row and row[-1].start_ns + row[-1].duration_ns == part.start_ns else [part]
        longest = max(longest, row, key=len)
    if len(longest) < IN_A_ROW:
        return ""
    least, most = min(part.jitter_ns for part in longest), max(part.jitter_ns for part in longest)
    length = format_duration(longest[0].duration_ns).replace(".00", "")
    return f"jitter {format_duration(least)} to {format_duration(most)} in {len(longest)} sub-windows of {length} in a row"


def _large(profile: Profile, d: Distribution, busy_ns: int, all_ns: int, thresholds: Thresholds) -> str:
    window = profile.window
    if not thresholds.share or d.total_ns < thresholds.share * busy_ns or d.total_ns * 10 < (window.attached_ns or window.duration_ns):
        return ""
    if busy_ns == all_ns:
        return f"{100 * d.total_ns / all_ns:.0f} % of all off-CPU time"
    return f"{100 * d.total_ns / busy_ns:.0f} % of the off-CPU time that is not idle by design"
