"""The summary on a terminal: what an engineer reads first, at three in the morning, in 80 columns.

Names come from the target and are untrusted: they are sanitized and only ever printed as `Text`, never as rich's markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gotrace.common.vocabulary import LOSS_TEXT, FrameKind, Loss, Mode
from gotrace.profile.frames import folded_frames, is_background, is_program, place_of, plain_name
from gotrace.profile.groups import Group, grouped
from gotrace.profile.told import INCOMPLETE, NOT_HELD, governor_lines, nothing_line, told
from gotrace.profile.types import LONG_RUN_NS, Distribution, Profile, StackStat
from gotrace.render.hotspots import print_hotspots, why
from gotrace.render.objects import print_objects
from gotrace.render.requests import print_requests
from gotrace.render.text import TOLD_LIMIT, format_duration, format_share, sanitize

_NAMES_SHOWN = 2
_REASONS_TO_STOP = 3
FRAMES_SHOWN = 6
REASONS_SHOWN = 15
WIDE = 120
"""From this many columns on there is room for more than the necessary."""
_ROOMY = 100
_BAR = 16
_LATE = 0.1
"""From this share of a place's sleeps on their timers count as late: an idle kernel takes about 60 us to wake a thread."""

_ANOMALIES = (Loss.START_WHILE_STOPPED, Loss.END_WHILE_RUNNING)
_FRAME_STYLE = {
    FrameKind.RUNTIME: "dim",
    FrameKind.SYSCALL: "yellow",
    FrameKind.KERNEL: "red",
    FrameKind.WAKER: "magenta",
    FrameKind.LOST: "bold red",
}


def print_summary(profile: Profile, console: Console, top: int = 10, runtime: bool = False) -> None:
    """Prints header, requests, totals by state and by reason, hot spots, the `top` stacks, losses and overhead to `console`.

    Shares are of all off-CPU time. Goroutines of the runtime itself follow the user's, in one line; every total and share counts them.
    `runtime`: also show the runtime's frames. A wider terminal gets more columns and frames.
    """
    total = profile.total()
    _print_targets(profile, console)
    print_requests(profile, console, top)
    _print_header(profile, total, console)
    if not total.count:
        console.print(Text(sanitize(nothing_line(profile), TOLD_LIMIT), "yellow"), soft_wrap=True)
    else:
        states = {state.value: distribution for state, distribution in profile.by_state().items()}
        if len(states) > 1:
            console.print(_table("state", states, total, console.width))
            console.print()
        reasons = {reason or "(none)": distribution for reason, distribution in profile.by_reason().items()}
        console.print(_table("reason", dict(list(reasons.items())[:REASONS_SHOWN]), total, console.width))
        if len(reasons) > REASONS_SHOWN:
            rest = sum(distribution.total_ns for distribution in list(reasons.values())[REASONS_SHOWN:])
            more = f"and {len(reasons) - REASONS_SHOWN} more reasons, {format_duration(rest)} together"
            console.print(Text(more, "dim"))
        console.print()
        print_objects(profile, console, top)
        _print_labels(profile, total, console)
        print_hotspots(profile, console)
        _print_stacks(profile, total, console, top, runtime)
    _print_losses(profile.losses, console)
    _print_overhead(profile, console)
    print_governor(profile, console)


def _print_targets(profile: Profile, console: Console) -> None:
    for target in profile.targets:
        line = Text()
        line.append(sanitize(target.comm, 40), "bold cyan")
        line.append(f" (pid {target.pid}) · {sanitize(target.go_version, 30)} · ")
        line.append(f"{format_duration(profile.window.duration_ns)} window · mode {sanitize(profile.window.mode, 20)}")
        console.print(line)
    print_told(profile, console)
    for pid, verdict in profile.verdicts:
        which = f"PID {pid}: " if len(profile.targets) > 1 else ""
        text = Text(f"{which}{sanitize(verdict.headline, TOLD_LIMIT)}", "bold red" if verdict.certain else "bold yellow")
        console.print(text, soft_wrap=True)
    if profile.requests:
        console.print()


def _print_header(profile: Profile, total: Distribution, console: Console) -> None:
    line = Text()
    line.append(format_duration(total.total_ns), "bold")
    line.append(f" off the CPU in {_counted(profile.intervals, 'interval')}")
    if profile.complete:  # the number of goroutines is known only at the end
        line.append(f" of {_counted(profile.goroutines, 'goroutine')}")
    console.print(line)
    if profile.running_ns is not None:
        rest = max(0, profile.cpu_ns - profile.running_ns)
        about = "about " if profile.window.mode == Mode.SAMPLE else ""
        console.print(Text(
            f"{about}{format_duration(profile.running_ns)} on it; the other {format_duration(rest)} of the process's CPU time are the"
            " runtime's own (scheduler, GC, idle spinning)"
        ))
    _print_pauses(profile, total, console)
    if profile.window.mode == Mode.LEAN:
        console.print(Text(
            "A wait begins where its thread turned to something else: late by what the scheduler took for that, at most by the run "
            "before it (the margin). The wait for a P is part of it; wakers are not seen."
        ))
    if profile.window.mode == Mode.SAMPLE:
        rate = profile.window.samples * 1e9 / profile.window.duration_ns if profile.window.duration_ns else 0.0
        console.print(Text(
            f"Estimates from {profile.window.samples:,} samples ({rate:.1f}/s): totals with 95 % margins; counts are of the waits "
            f"that were seen, lengths are known to {format_duration(round(1e9 / rate)) if rate else 'a sample'}."
        ))
    if profile.probed_ns < profile.window.duration_ns:
        probed = format_share(profile.probed_ns, profile.window.duration_ns)
        console.print(Text(f"Probes were attached for {probed} of the window.", "yellow"))
    if profile.filters:
        filters = ", ".join(sanitize(text, 80) for text in profile.filters)
        console.print(Text(f"Only a part is shown: {filters}", "yellow"))
    if not profile.complete:
        console.print(Text(f"INCOMPLETE: {INCOMPLETE}.", "bold red"))
    console.print()


def print_told(profile: Profile, console: Console) -> None:
    """Prints the stages that the trace went without, and its notes; nothing if there are none."""
    for line in told(profile):
        console.print(Text(sanitize(line, TOLD_LIMIT), "bold yellow" if line.startswith("MISSING") else "yellow"), soft_wrap=True)


def _print_pauses(profile: Profile, total: Distribution, console: Console) -> None:
    """Prints stop-the-world pauses, what they cost the goroutines, and runs longer than Go's time slice; nothing if there are none."""
    reasons = profile.pauses_by_reason()
    if reasons:
        stopped = sum(stack.stopped_ns for stack in profile.stacks)
        parts = [
            f"{sanitize(reason, 40)} {distribution.count:,} ({format_duration(distribution.total_ns)}, max "
            f"{format_duration(distribution.max_ns)})"
            for reason, distribution in list(reasons.items())[:_REASONS_TO_STOP]
        ]
        console.print(Text(
            f"stop-the-world pauses: {', '.join(parts)}; {format_duration(stopped)} of the goroutines' waits "
            f"({format_share(stopped, total.total_ns)}) lay inside them"
        ))
    runs = sum(stack.long_runs for stack in profile.stacks)
    if runs:
        longest = max(stack.long_run_max_ns for stack in profile.stacks)
        console.print(Text(
            f"runs longer than {format_duration(LONG_RUN_NS)} without a break: {runs:,}, the longest {format_duration(longest)}"
        ))


def _print_labels(profile: Profile, total: Distribution, console: Console) -> None:
    """Prints the time of each label's values, of the largest ones; nothing without labels."""
    for key, values in profile.by_label().items():
        rows = {"(no such label)" if value is None else value or '""': distribution for value, distribution in values.items()}
        console.print(_table(f"label {sanitize(key, 30)}", dict(list(rows.items())[:REASONS_SHOWN]), total, console.width))
        if len(rows) > REASONS_SHOWN:
            rest = sum(distribution.total_ns for distribution in list(rows.values())[REASONS_SHOWN:])
            console.print(Text(f"and {len(rows) - REASONS_SHOWN:,} more values, {format_duration(rest)} together", "dim"))
        console.print()


def _table(title: str, rows: Mapping[str, Distribution], total: Distribution, width: int) -> Table:
    # The figures need up to 58 columns; rich would shrink them as well to make room for a long name.
    extra = 10 if width >= _ROOMY else 0
    room = min(60, max(12, width - 58 - extra - (_BAR + 2 if width >= WIDE else 0)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=10)
    for heading in ("count", "total", "share", "p50", *(("p90",) if extra else ()), "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= WIDE:
        table.add_column("", no_wrap=True)
    for name, distribution in rows.items():
        cells = [
            f"{distribution.count:,}",
            format_duration(distribution.total_ns),
            format_share(distribution.total_ns, total.total_ns),
            format_duration(distribution.percentile_ns(0.50)),
            *((format_duration(distribution.percentile_ns(0.90)),) if extra else ()),
            format_duration(distribution.percentile_ns(0.99)),
            format_duration(distribution.max_ns),
        ]
        if width >= WIDE:
            cells.append("█" * round(_BAR * distribution.total_ns / total.total_ns) if total.total_ns else "")
        table.add_row(Text(sanitize(name, room), "cyan"), *(Text(cell) for cell in cells))
    return table


def _print_stacks(profile: Profile, total: Distribution, console: Console, top: int, runtime: bool) -> None:
    background = [stack for stack in profile.stacks if is_background(stack)]
    hidden = {id(stack) for stack in background}
    bounds = profile.window.mode == Mode.LEAN and profile.probed_ns == profile.window.attached_ns
    own = grouped((stack for stack in profile.stacks if id(stack) not in hidden), bounds)
    shown = own[:top]
    if shown:
        shown_ns = sum(group.stack.distribution.total_ns for group in shown)
        heading = Text(f"Top {len(shown)} of {_counted(len(own), 'stack')}", "bold")
        heading.append(f" ({format_share(shown_ns, total.total_ns)} of off-CPU time)", "not bold")
        console.print(heading)
        comm = {target.pid: sanitize(target.comm, 40) for target in profile.targets} if len(profile.targets) > 1 else {}
        for rank, group in enumerate(shown, 1):
            _print_stack(rank, group, total, console, comm, runtime, bounds)
        console.print()
    if background:
        idle = _merged(background)
        console.print(
            Text(
                f"Runtime goroutines (GC, scavenger, …): {format_duration(idle.total_ns)}, "
                f"{format_share(idle.total_ns, total.total_ns)}, in {_counted(len(background), 'stack')} not listed "
                "here; totals and shares count them.",
                "dim",
            )
        )
        console.print()


def _print_stack(
    rank: int, group: Group, total: Distribution, console: Console, comm: Mapping[int, str], runtime: bool, bounds: bool
) -> None:
    stack = group.stack
    distribution = stack.distribution
    line = Text(f"{rank:>2}. ")
    line.append(format_duration(distribution.total_ns), "bold")
    line.append(f"  {format_share(distribution.total_ns, total.total_ns)}  ")
    line.append(why(stack), "cyan")
    if comm:
        line.append(f"  {comm.get(stack.pid, '?')} ({stack.pid})", "dim")
    if stack.goid is not None:
        line.append(f"  goroutine {stack.goid}", "dim")
    if stack.labels:
        line.append("  " + " ".join(f"{sanitize(key, 40)}={sanitize(value, 40)}" for key, value in stack.labels), "magenta")
    if stack.in_progress:
        line.append(f"  ({stack.in_progress:,} in progress)", "dim")
    _print_line(line, console)
    figures = [
        *(() if not stack.margin_ns else (f"{'at most +' if bounds else '± '}{format_duration(stack.margin_ns)}",)),
        f"count {distribution.count:,}",
        f"p50 {format_duration(distribution.percentile_ns(0.50))}",
        f"p99 {format_duration(distribution.percentile_ns(0.99))}",
        f"max {format_duration(distribution.max_ns)}",
        f"goroutines {stack.goroutines:,}",
    ]
    _print_line(Text("    " + "  ".join(figures)), console)
    if distribution.total_ns and stack.late_ns >= _LATE * distribution.total_ns:
        late = f"{format_duration(stack.late_ns)} ({format_share(stack.late_ns, distribution.total_ns)})"
        _print_line(Text(f"    late: {late} of it after the timers were due", "yellow"), console)
    for title, names in (("on", group.objects), ("woken by", group.wakers)):
        if names:
            _print_line(Text(f"    {title} {_shares(names, distribution.total_ns)}", "magenta"), console)
    for frame_line in _frame_lines(stack, console.width, runtime):
        _print_line(frame_line, console)


def _shares(names: Mapping[str, int], total_ns: int) -> str:
    ranked = sorted(names.items(), key=lambda item: -item[1])
    parts = [f"{sanitize(name, 80)} {format_share(amount, total_ns)}" for name, amount in ranked[:_NAMES_SHOWN]]
    if len(ranked) > _NAMES_SHOWN:
        parts.append(f"{len(ranked) - _NAMES_SHOWN:,} more")
    return ", ".join(parts)


def _frame_lines(stack: StackStat, width: int, runtime: bool) -> Iterable[Text]:
    frames = stack.frames if runtime else folded_frames(stack.frames)
    limit = FRAMES_SHOWN if width < WIDE else 2 * FRAMES_SHOWN
    # A reader begins at the first frame with user code: its file and line are worth the width.
    place = place_of(frames)
    # A long way through a library must not push that frame off the list.
    start = 0 if runtime else max(0, place - limit + 2)
    limit = max(limit, place + 2) if runtime else limit
    shown = frames[start : start + limit]
    if start:
        yield Text(f"      … {start} more towards the leaf", "dim")
    for index, frame in enumerate(shown, start):
        where = ""
        if frame.file and (index == place or (width >= WIDE and is_program(frame))):
            where = f"{sanitize(frame.file.rsplit('/', 1)[-1], 30)}:{frame.line}"
        room = width - 6 - (len(where) + 2 if where else 0)
        line = Text("      ")
        line.append(sanitize(plain_name(frame.name), max(20, room)), "bold" if index == place else _FRAME_STYLE.get(frame.kind, ""))
        if where:
            line.append(f"  {where}", "green")
        yield line
    rest = len(frames) - start - len(shown)
    if rest:
        yield Text(f"      … {rest} more towards the root", "dim")


def _print_losses(losses: Mapping[Loss, int], console: Console) -> None:
    lost = [(loss, losses[loss]) for loss in Loss if losses.get(loss) and loss not in _ANOMALIES]
    odd = [(loss, losses[loss]) for loss in Loss if losses.get(loss) and loss in _ANOMALIES]
    for title, entries in (("LOSSES: figures are less than the truth", lost), ("ANOMALIES: figures may be wrong", odd)):
        if entries:
            console.print(Text(title, "bold red"))
        for loss, count in entries:
            console.print(Text(f"  {count:,} {loss.value}: {LOSS_TEXT[loss]}", "red"))
    quiet = [name for name, entries in (("losses: none", lost), ("anomalies: none", odd)) if not entries]
    if quiet:
        console.print(Text(" · ".join(quiet), "green"))


def _print_overhead(profile: Profile, console: Console) -> None:
    cost = profile.overhead
    if profile.window.mode == Mode.SAMPLE:
        console.print(Text(
            f"overhead: no probes, {profile.window.samples:,} samples of the process's memory; gotrace itself "
            f"{cost.agent_cpu_s:.1f} s CPU, {cost.agent_peak_rss_bytes / 1_048_576:,.0f} MiB", "dim",
        ))
        return
    console.print(
        Text(
            f"overhead: {cost.hits:,} probe hits ({cost.hits_per_s:,.0f}/s), "
            f"{cost.traps_per_interval:.2f} traps per interval; about "
            f"{100 * cost.target_cpu_fraction_estimate:.2g} % of the target's CPU (estimate, "
            f"{cost.ns_per_hit_estimate:,.0f} ns a hit); gotrace itself {cost.agent_cpu_s:.1f} s CPU, "
            f"{cost.agent_peak_rss_bytes / 1_048_576:,.0f} MiB",
            "dim",
        )
    )


def print_governor(profile: Profile, console: Console) -> None:
    """Prints what ``--max-overhead`` gave up, if anything: what is missing, for how long, and the margin of sampled totals."""
    for number, line in enumerate(governor_lines(profile)):
        console.print(Text(f"{'  ' if number else ''}{line}", "bold red" if line == NOT_HELD else "yellow"))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _merged(stacks: Iterable[StackStat]) -> Distribution:
    result = Distribution()
    for stack in stacks:
        result.add(stack.distribution)
    return result


def _print_line(line: Text, console: Console) -> None:
    console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
