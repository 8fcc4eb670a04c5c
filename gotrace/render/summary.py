"""The summary on a terminal: what an engineer reads first, at three in the morning, in 80 columns.

Names come from the target and are not to be trusted: they are sanitized and only ever printed as `Text`, never as
rich's markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gotrace.profile.frames import folded_frames, is_background, is_program, is_runtime
from gotrace.profile.groups import Group, grouped
from gotrace.profile.types import Distribution, Profile, StackStat
from gotrace.render.text import format_duration, format_share, sanitize
from gotrace.vocabulary import LOSS_TEXT, FrameKind, Loss

_NAMES_SHOWN = 2
FRAMES_SHOWN = 6
REASONS_SHOWN = 15

_ANOMALIES = (Loss.START_WHILE_STOPPED, Loss.END_WHILE_RUNNING)
_FRAME_STYLE = {
    FrameKind.RUNTIME: "dim",
    FrameKind.SYSCALL: "yellow",
    FrameKind.KERNEL: "red",
    FrameKind.WAKER: "magenta",
    FrameKind.LOST: "bold red",
}


def print_summary(profile: Profile, console: Console, top: int = 10) -> None:
    """Prints header, totals by state and by reason, the `top` stacks, losses and overhead to `console`.

    Shares are of all off-CPU time. Goroutines of the runtime itself come after the user's, in one line; every total and
    share counts them.
    """
    total = profile.total()
    _print_header(profile, total, console)
    if not total.count:
        console.print(Text("No goroutine was off the CPU in this window.", "yellow"))
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
        _print_stacks(profile, total, console, top)
    _print_losses(profile.losses, console)
    _print_overhead(profile, console)


def _print_header(profile: Profile, total: Distribution, console: Console) -> None:
    for target in profile.targets:
        line = Text()
        line.append(sanitize(target.comm, 40), "bold cyan")
        line.append(f" (pid {target.pid}) · {sanitize(target.go_version, 30)} · ")
        line.append(f"{format_duration(profile.window.duration_ns)} window · mode {sanitize(profile.window.mode, 20)}")
        console.print(line)
    line = Text()
    line.append(format_duration(total.total_ns), "bold")
    line.append(f" off the CPU in {_counted(profile.intervals, 'interval')} of {_counted(profile.goroutines, 'goroutine')}")
    console.print(line)
    if profile.running_ns is not None:
        rest = max(0, profile.cpu_ns - profile.running_ns)
        console.print(Text(
            f"{format_duration(profile.running_ns)} on it; the other {format_duration(rest)} of the process's CPU time are the "
            "runtime's own (scheduler, GC, idle spinning)"
        ))
    if profile.window.attached_ns < profile.window.duration_ns:
        attached = format_share(profile.window.attached_ns, profile.window.duration_ns)
        console.print(Text(f"Probes were attached for {attached} of the window.", "yellow"))
    if profile.filters:
        filters = ", ".join(sanitize(text, 80) for text in profile.filters)
        console.print(Text(f"Only a part was recorded: {filters}", "yellow"))
    if not profile.complete:
        console.print(Text("INCOMPLETE: the trace was cut short; figures are those of the last commit.", "bold red"))
    console.print()


def _table(title: str, rows: Mapping[str, Distribution], total: Distribution, width: int) -> Table:
    # The figures need up to 58 columns; rich would shrink those as well to make room for a long name.
    room = min(60, max(12, width - 58))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=10)
    for heading in ("count", "total", "share", "p50", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, distribution in rows.items():
        cells = [
            f"{distribution.count:,}",
            format_duration(distribution.total_ns),
            format_share(distribution.total_ns, total.total_ns),
            format_duration(distribution.percentile_ns(0.50)),
            format_duration(distribution.percentile_ns(0.99)),
            format_duration(distribution.max_ns),
        ]
        table.add_row(Text(sanitize(name, room), "cyan"), *(Text(cell) for cell in cells))
    return table


def _print_stacks(profile: Profile, total: Distribution, console: Console, top: int) -> None:
    background = [stack for stack in profile.stacks if is_background(stack)]
    hidden = {id(stack) for stack in background}
    own = grouped(stack for stack in profile.stacks if id(stack) not in hidden)
    shown = own[:top]
    if shown:
        shown_ns = sum(group.stack.distribution.total_ns for group in shown)
        heading = Text(f"Top {len(shown)} of {_counted(len(own), 'stack')}", "bold")
        heading.append(f" ({format_share(shown_ns, total.total_ns)} of off-CPU time)", "not bold")
        console.print(heading)
        comm = {target.pid: sanitize(target.comm, 40) for target in profile.targets} if len(profile.targets) > 1 else {}
        for rank, group in enumerate(shown, 1):
            _print_stack(rank, group, total, console, comm)
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


def _print_stack(rank: int, group: Group, total: Distribution, console: Console, comm: Mapping[int, str]) -> None:
    stack = group.stack
    distribution = stack.distribution
    line = Text(f"{rank:>2}. ")
    line.append(format_duration(distribution.total_ns), "bold")
    line.append(f"  {format_share(distribution.total_ns, total.total_ns)}  ")
    line.append(_why(stack), "cyan")
    if comm:
        line.append(f"  {comm.get(stack.pid, '?')} ({stack.pid})", "dim")
    if stack.goid is not None:
        line.append(f"  goroutine {stack.goid}", "dim")
    if stack.in_progress:
        line.append(f"  ({stack.in_progress:,} in progress)", "dim")
    _print_line(line, console)
    figures = [
        f"count {distribution.count:,}",
        f"p50 {format_duration(distribution.percentile_ns(0.50))}",
        f"p99 {format_duration(distribution.percentile_ns(0.99))}",
        f"max {format_duration(distribution.max_ns)}",
        f"goroutines {stack.goroutines:,}",
    ]
    _print_line(Text("    " + "  ".join(figures)), console)
    for title, names in (("on", group.objects), ("woken by", group.wakers)):
        if names:
            _print_line(Text(f"    {title} {_shares(names, distribution.total_ns)}", "magenta"), console)
    for frame_line in _frame_lines(stack, console.width):
        _print_line(frame_line, console)


def _shares(names: Mapping[str, int], total_ns: int) -> str:
    ranked = sorted(names.items(), key=lambda item: -item[1])
    parts = [f"{sanitize(name, 80)} {format_share(amount, total_ns)}" for name, amount in ranked[:_NAMES_SHOWN]]
    if len(ranked) > _NAMES_SHOWN:
        parts.append(f"{len(ranked) - _NAMES_SHOWN:,} more")
    return ", ".join(parts)


def _why(stack: StackStat) -> str:
    reason = sanitize(stack.reason, 60)
    return f"{stack.state.value}: {reason}" if reason and reason != stack.state.value else stack.state.value


def _frame_lines(stack: StackStat, width: int) -> Iterable[Text]:
    frames = folded_frames(stack.frames)
    # The first frame with user code is where to look first: the one whose file and line are worth the width.
    place = next((index for index, frame in enumerate(frames) if is_program(frame)), None)
    if place is None:
        place = next((index for index, frame in enumerate(frames) if not is_runtime(frame)), 0)
    # A long way through a library must not push that frame off the list.
    start = max(0, place - FRAMES_SHOWN + 2)
    shown = frames[start : start + FRAMES_SHOWN]
    if start:
        yield Text(f"      … {start} more towards the leaf", "dim")
    for index, frame in enumerate(shown, start):
        where = ""
        if frame.file and index == place:
            where = f"{sanitize(frame.file.rsplit('/', 1)[-1], 30)}:{frame.line}"
        room = width - 6 - (len(where) + 2 if where else 0)
        line = Text("      ")
        line.append(sanitize(frame.name, max(20, room)), "bold" if index == place else _FRAME_STYLE.get(frame.kind, ""))
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


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _merged(stacks: Iterable[StackStat]) -> Distribution:
    result = Distribution()
    for stack in stacks:
        result.add(stack.distribution)
    return result


def _print_line(line: Text, console: Console) -> None:
    console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
