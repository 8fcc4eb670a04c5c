"""Two captures compared: what grew, what shrank, what is new or gone, and which of it is more than noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

from gotrace.common.vocabulary import State
from gotrace.diff.identity import Places, same_build
from gotrace.diff.noise import Delta, apart, errors, exceeds, percentile_range
from gotrace.diff.requests import SpanChange, compare_requests
from gotrace.profile.hotspots import idle_by_design
from gotrace.profile.subwindows import with_length
from gotrace.profile.told import governor_lines, nothing_line
from gotrace.profile.types import Distribution, Frame, Profile, StackStat, SubWindow

_S = 1_000_000_000


class Per(str, Enum):
    """What figures are divided by, so that captures of different length or size can be compared."""

    WINDOW = "window"
    """A second of the window: the load is the same; is there more waiting? ns per s is also the number of goroutines that wait there on
    average."""
    GOROUTINE = "goroutine"
    """A second of a goroutine's life: with more goroutines, does each wait longer? The divisor is all time that was seen, on the CPU and
    off it."""


@dataclass(frozen=True)
class Side:
    """One of the two captures. `goroutine_ns` is the time that all its goroutines lived in the window."""

    profile: Profile
    window_ns: int
    goroutine_ns: int

    def seconds(self, per: Per) -> float:
        """The number of such seconds; never 0."""
        return max(1, self.window_ns if per is Per.WINDOW else self.goroutine_ns) / _S


@dataclass(frozen=True)
class Change:
    """A state, a reason or a place on both sides. A distribution is None if it does not occur there; `process` is the target's name if
    there are several."""

    state: State | None
    reason: str
    process: str
    frames: tuple[Frame, ...]
    before: Distribution | None
    after: Distribution | None
    goroutines: tuple[int, int]
    in_progress: tuple[int, int]
    count: Delta
    total: Delta
    p50: Delta
    p99: Delta
    other_total: Delta
    """The total, divided by the other choice of `Per`."""
    idle: bool = False
    """Idle by design, on the side that is shown (after, unless it vanished)."""

    @property
    def new(self) -> bool:
        """Whether it does not occur before."""
        return self.before is None and self.after is not None

    @property
    def vanished(self) -> bool:
        """Whether it does not occur after."""
        return self.after is None and self.before is not None

    @property
    def changed(self) -> bool:
        """Whether any figure differs at all."""
        return self.new or self.vanished or any(d.before != d.after for d in (self.count, self.total, self.p50, self.p99))

    @property
    def exceeds(self) -> bool:
        """Whether any figure differs by more than noise."""
        return any(d.exceeds for d in (self.count, self.total, self.p50, self.p99))


@dataclass(frozen=True)
class Diff:
    """`states`, `reasons`: largest first. `stacks`: every place of either side, sorted by whether it exceeds the noise, then by whether it
    is not idle by design (`gotrace.profile.hotspots`), then by the change of the total, largest first."""

    before: Side
    after: Side
    per: Per
    same_build: bool
    total: Change
    states: list[Change]
    reasons: list[Change]
    stacks: list[Change]
    notes: list[str]
    requests: list[SpanChange] = field(default_factory=list)
    """Those with most time first; all requests of both sides, whichever stacks are chosen."""

    @property
    def empty(self) -> bool:
        """Whether nothing differs at all."""
        changes = (self.total, *self.states, *self.reasons, *self.stacks)
        return not any(change.changed for change in changes) and not any(change.changed for change in self.requests)


@dataclass(frozen=True)
class _Place:
    state: State | None
    reason: str
    process: str = ""
    frames: tuple[Frame, ...] = ()


_Key = tuple[object, ...]
_Keyed = tuple[_Key, _Place]
"""The key that both sides share, and what is shown for it."""


@dataclass
class _Sum:
    place: _Place
    distribution: Distribution = field(default_factory=Distribution)
    rows: list[SubWindow] = field(default_factory=list)
    goroutines: int = 0
    in_progress: int = 0

    def add(self, stack: StackStat) -> None:
        self.distribution.add(stack.distribution)
        self.rows += stack.subwindows
        # Each stack of a place has the same goroutines, whatever they wait for.
        self.goroutines = max(self.goroutines, stack.goroutines_there or stack.goroutines)
        self.in_progress += stack.in_progress


def compare(
    before: Profile, after: Profile, per: Per = Per.WINDOW, select: Callable[[Profile], Profile] = lambda profile: profile
) -> Diff:
    """Compares `before` with `after`. `select` chooses the stacks to compare; the divisor covers all stacks."""
    sides = _side(before), _side(after)
    exact = same_build(before, after)
    notes = _notes(before, after, exact)
    left, right = select(before), select(after)
    for name, profile in (("before", left), ("after", right)):
        if not profile.stacks and profile.selected is not None:
            notes.append(f"{name}: {nothing_line(profile)}")
    several = max(len(before.targets), len(after.targets)) > 1
    places = Places(exact)

    def by_place(profile: Profile) -> Callable[[StackStat], _Keyed]:
        comms = {target.pid: target.comm for target in profile.targets} if several else {}

        def keyed(stack: StackStat) -> _Keyed:
            numbers, frames = places.of(stack)
            process = comms.get(stack.pid, "")
            return (stack.state.value, stack.reason, process, numbers), _Place(stack.state, stack.reason, process, frames)

        return keyed

    def changes(keyed: Callable[[Profile], Callable[[StackStat], _Keyed]]) -> list[Change]:
        old, new = _grouped(left.stacks, keyed(left)), _grouped(right.stacks, keyed(right))
        either = new | {key: group for key, group in old.items() if key not in new}
        return [_change(group.place, old.get(key), new.get(key), sides, per) for key, group in either.items()]

    def largest(found: list[Change]) -> list[Change]:
        return sorted(found, key=lambda change: -max(change.total.before, change.total.after))

    stacks = changes(by_place)
    stacks.sort(key=lambda change: (not change.exceeds, change.idle, -abs(change.total.change)))
    whole = changes(lambda _: lambda stack: ((), _Place(None, "")))
    return Diff(
        before=sides[0],
        after=sides[1],
        per=per,
        same_build=exact,
        total=whole[0] if whole else _change(_Place(None, ""), None, None, sides, per),
        states=largest(changes(lambda _: lambda stack: ((stack.state.value,), _Place(stack.state, "")))),
        reasons=largest(changes(lambda _: lambda stack: ((stack.reason,), _Place(None, stack.reason)))),
        stacks=stacks,
        notes=notes,
        requests=compare_requests(before, after, exact),
    )


def _side(profile: Profile) -> Side:
    off_ns = sum(stack.distribution.total_ns for stack in profile.stacks)
    return Side(profile, profile.window.attached_ns or profile.window.duration_ns, off_ns + (profile.running_ns or 0))


def _grouped(stacks: Iterable[StackStat], keyed: Callable[[StackStat], _Keyed]) -> dict[_Key, _Sum]:
    groups: dict[_Key, _Sum] = {}
    for stack in stacks:
        key, place = keyed(stack)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Sum(place)
        group.add(stack)
    return groups


def _change(place: _Place, left: _Sum | None, right: _Sum | None, sides: tuple[Side, Side], per: Per) -> Change:
    nothing = Distribution()
    pair = [group.distribution if group else nothing for group in (left, right)]
    wrong = [_errors(group, side) for group, side in zip((left, right), sides, strict=True)]

    def per_second(pick: Callable[[Distribution], int], which: int, way: Per) -> Delta:
        seconds = [side.seconds(way) for side in sides]
        values = [pick(d) / s for d, s in zip(pair, seconds, strict=True)]
        error = [both[which] / s for both, s in zip(wrong, seconds, strict=True)]
        return Delta(values[0], values[1], exceeds(values[0], error[0], values[1], error[1]))

    def percentile(fraction: float) -> Delta:
        old, new = pair
        there = left is not None and right is not None
        differs = there and apart(percentile_range(old, fraction), percentile_range(new, fraction))
        return Delta(old.percentile_ns(fraction), new.percentile_ns(fraction), differs)

    return Change(
        state=place.state,
        reason=place.reason,
        process=place.process,
        frames=place.frames,
        before=left.distribution if left else None,
        after=right.distribution if right else None,
        goroutines=(left.goroutines if left else 0, right.goroutines if right else 0),
        in_progress=(left.in_progress if left else 0, right.in_progress if right else 0),
        count=per_second(lambda d: d.count, 0, per),
        total=per_second(lambda d: d.total_ns, 1, per),
        p50=percentile(0.50),
        p99=percentile(0.99),
        other_total=per_second(lambda d: d.total_ns, 1, Per.GOROUTINE if per is Per.WINDOW else Per.WINDOW),
        idle=_idle(place, right or left),
    )


def _idle(place: _Place, group: _Sum | None) -> bool:
    if place.state is None or group is None or not place.frames:
        return False
    return idle_by_design(StackStat(place.frames, place.state, place.reason, group.distribution, in_progress=group.in_progress))


def _errors(group: _Sum | None, side: Side) -> tuple[float, float]:
    if group is None:
        return 0.0, 0.0
    rows = with_length(group.rows, max((row.duration_ns for row in group.rows), default=1))
    return errors(group.distribution, rows, side.window_ns)


def _notes(before: Profile, after: Profile, exact: bool) -> list[str]:
    """What a reader must know before believing the figures."""
    notes = []
    if not exact:
        notes.append("the builds differ: functions are matched by name, without the numbers of closures (func1, func2, ...)")
    if before.filters != after.filters:
        texts = [", ".join(profile.filters) or "everything" for profile in (before, after)]
        notes.append(f"not recorded alike: before {texts[0]}; after {texts[1]}")
    elif before.filters:
        notes.append(f"only a part was recorded: {', '.join(before.filters)}; goroutine-seconds are of that part")
    if (before.running_ns is None) != (after.running_ns is None):
        notes.append("one was recorded without the kernel's tracepoints: its system calls and CPU waits are missing")
    if before.window.mode != after.window.mode:
        notes.append(f"the modes differ: {before.window.mode} and {after.window.mode}")
    lines: dict[str, dict[str, None]] = {}
    for name, profile in (("before", before), ("after", after)):
        lost = [f"{count:,} {loss.value}" for loss, count in profile.losses.items() if count]
        if lost:
            notes.append(f"losses {name}: {', '.join(lost)}")
        if not profile.complete:
            notes.append(
                f"{name} was cut short: its figures are those of the last commit, and waits that were in progress then are missing"
            )
        lines[name] = dict.fromkeys([
            *(f"MISSING {missing.stage}: {missing.why}: {missing.lacks}" for missing in profile.missing),
            *(f"note: {note}" for note in profile.notes), *governor_lines(profile),
        ])
    # What both lack, in the same words, skews no figure; a stage that only one lacks does.
    lacking = {name: {missing.stage for missing in profile.missing} for name, profile in (("before", before), ("after", after))}
    for name, other in (("before", "after"), ("after", "before")):
        only = sorted(lacking[name] - lacking[other])
        if only:
            notes.append(f"{name} lacks what {other} has: {', '.join(only)}")
    notes += [f"both: {line}" for line in lines["before"] if line in lines["after"]]
    for name, other in (("before", "after"), ("after", "before")):
        notes += [f"{name}: {line}" for line in lines[name] if line not in lines[other]]
    return notes


def merged_profile(diff: Diff) -> Profile:
    """One profile with a stack for each of `diff.stacks`, in order: the figures are those of after, nothing if it vanished. For renderers
    that show the other side beside it."""
    after = diff.after.profile
    pids = {target.comm: target.pid for target in reversed(after.targets)}
    first = after.targets[0].pid if after.targets else 0
    stacks = [
        StackStat(
            change.frames, change.state or State.WAITING, change.reason, change.after or Distribution(), change.goroutines[1],
            change.in_progress[1], pid=pids.get(change.process, first),
        )
        for change in diff.stacks
    ]
    return replace(after, stacks=stacks, hotspots=[], timeline=[], requests=[], locks=[])


def before_in_after(diff: Diff) -> tuple[list[int], list[int]]:
    """Total (ns) and count of each of `diff.stacks` before, as they would be in a capture with after's length (or with as many
    goroutine-seconds)."""
    scale = diff.after.seconds(diff.per) / diff.before.seconds(diff.per)
    pairs = [(change.before.total_ns, change.before.count) if change.before else (0, 0) for change in diff.stacks]
    return [round(total * scale) for total, _ in pairs], [round(count * scale) for _, count in pairs]
