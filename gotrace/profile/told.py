"""What a reader must know beside the figures, as lines of text: what a trace went without, and what a cap on the cost gave up.

The lines contain names that come from the target: the caller must make them safe before printing.
"""

from __future__ import annotations

from gotrace.common.units import format_duration, format_share
from gotrace.profile.requests import Span
from gotrace.profile.types import Missing, Profile

INCOMPLETE = "the trace was cut short, or still went on: figures are those of the last commit"
PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
"""The percentiles that are told of requests."""
_DOING_SHOWN = 3
_HELD = 1.5
"""As a multiple of the cap: more than the cost until the governor acts."""


def missing_line(profile: Profile, missing: Missing) -> str:
    """``system calls: WHY: LACKS``, with the process if there are several."""
    which = f" of PID {missing.pid}" if missing.pid and len(profile.targets) > 1 else ""
    return f"{missing.stage}{which}: " + ": ".join(part for part in (missing.why, missing.lacks) if part)


def told(profile: Profile) -> list[str]:
    """``MISSING STAGE: WHY: LACKS`` for each stage that the trace went without, then ``note: …``; each line once."""
    lines = [f"MISSING {missing_line(profile, missing)}" for missing in profile.missing]
    return list(dict.fromkeys([*lines, *(f"note: {note}" for note in profile.notes)]))


def nothing_line(profile: Profile) -> str:
    """Says why there is no stack."""
    if profile.selected is not None:
        flags, count = profile.selected
        return f"no stack matches {flags} ({count:,} stack{'' if count == 1 else 's'} in the capture)"
    if profile.filters:
        return f"Nothing that was recorded ({', '.join(profile.filters)}) was off the CPU in this window."
    return "No goroutine was off the CPU in this window."


def governor_lines(profile: Profile) -> list[str]:
    """What ``--max-overhead`` gave up, if anything: what is missing, for how long, and the margin of sampled totals."""
    report = profile.governor
    if report is None or not report.acted and report.share <= report.max_overhead:
        return []
    window = profile.window.duration_ns
    changes = f"{len(report.steps):,} change" + ("" if len(report.steps) == 1 else "s")
    lines = [
        f"governor: tracing cost {100 * report.share:.2g} % of the CPU time that the target used for itself, or of one CPU (cap "
        f"{100 * report.max_overhead:g} %, {changes} of what is traced)"
    ]
    margin = profile.margin_ns
    within = f": all totals together are within {format_duration(margin)} of the truth (95 %)" if margin else ""
    lines += [
        f"{format_share(lasted, window)} of the window: {what}"
        for lasted, what in (
            (report.wakers_off_ns, "no wakers; the time in which a goroutine was runnable is part of its wait"),
            (report.kernel_off_ns, "no system calls and waits for a CPU; how long goroutines ran is not known"),
            (report.sampled_ns, f"short intervals sampled{within}"),
            (report.lean_ns, "where waits began was inferred, as in mode lean"),
            (report.looked_ns, "without probes: its memory was sampled, as in mode sample, and the figures are estimates"),
            (report.paused_ns, f"without probes, between {report.windows:,} windows; longer waits are counted once for each of them"),
        )
        if lasted
    ]
    if report.share > _HELD * report.max_overhead:
        lines.append(NOT_HELD)
    if report.unlooked_windows:
        lines.append(
            f"at the ends of {report.unlooked_windows:,} windows there were too many goroutines to read: waits that lasted for "
            "all of such a window lack it"
        )
    if report.steps_dropped:
        lines.append(f"{report.steps_dropped:,} earlier changes of what was traced are not listed")
    return lines


def in_progress_lines(span: Span) -> list[str]:
    """What is to be said of the requests in progress beside their number: how long they have lasted, what their goroutines do, and which of
    the percentiles above would be higher with them."""
    unknown = [UNKNOWN_BEFORE] if span.in_progress_before is None else []
    if not span.in_progress or not span.lasting.count:
        return unknown
    before = " for at least" if span.in_progress_before else ""
    words = f"in progress{': the longest' if span.in_progress > 1 else ''}{before} {format_duration(span.lasting.max_ns)}"
    if span.in_progress_before:
        words += f", {span.in_progress_before:,} begun before the window"
    ranked = sorted(span.doing.items(), key=lambda item: -item[1])
    doing = [f"{count:,} in {what}" if span.in_progress > 1 else what for what, count in ranked[:_DOING_SHOWN]]
    rest = sum(count for _, count in ranked[_DOING_SHOWN:])
    lines = [words + (": " if doing else "") + ", ".join((*doing, *([f"{rest:,} in others"] if rest else [])))]
    return lines + percentile_lines(span) + unknown


def percentile_lines(span: Span) -> list[str]:
    """Which percentiles would be higher with the requests in progress."""
    if not span.latency.count or not span.in_progress or not span.lasting.count:
        return []
    whole, longer = span.at_least, span.lasting_over(span.latency.max_ns)
    higher = [
        f"{name} is at least {format_duration(whole.percentile_ns(fraction))}" for name, fraction in PERCENTILES
        if is_raised(span.latency.percentile_ns(fraction), whole.percentile_ns(fraction))
    ]
    if longer:
        higher.append(f"{longer:,} {'has' if longer == 1 else 'have'} lasted longer than the maximum")
    return ["the percentiles are of requests that ended; with those in progress " + ", ".join(higher)] if higher else []


def is_raised(ended_ns: int, whole_ns: int) -> bool:
    """A percentile is higher with requests in progress by more than histograms are wrong."""
    return whole_ns > (1 + 1 / 8) * ended_ns


def request_gaps(profile: Profile, span: Span) -> list[str]:
    """What the requests of `span` lack, if they were not traced for all of the window, or without wakers for a part of it."""
    window, report = profile.window.duration_ns, profile.governor
    traced = min(span.traced_ns or window, window)
    steps = [step for step in report.steps if step.pid == span.pid] if report is not None else []
    cap = 100 * report.max_overhead if report is not None else 0.0
    lines = []
    if span.windows > 1:
        whose = f", for --max-overhead {cap:g}" if steps else ""
        lines.append(
            f"requests were traced in {span.windows:,} windows, {format_duration(traced)} of {format_duration(window)} in all{whose}: the "
            "figures are estimates for the rest"
        )
        if span.cut.count:
            lines[-1] += (
                f"; {span.cut.count:,} had not ended with their window, the longest after {format_duration(span.cut.max_ns)}, and are in "
                "no percentile"
            )
    elif window - traced > max(_WHOLE_NS, window // 50):
        why = f": the rest was given up for --max-overhead {cap:g}" if steps else ""
        lines.append(f"requests were traced for only {format_duration(traced)} of {format_duration(window)}{why}")
    # The rung on which requests are traced, and wakers are not.
    ends = [*(step.at_ns for step in steps[1:]), window]
    without = sum(max(0, end - step.at_ns) for step, end in zip(steps, ends, strict=False) if step.rung == _WITHOUT_WAKERS)
    if without > max(_WHOLE_NS, traced // 50):
        lines.append(
            f"for {format_duration(without)} of that time wakers were not traced, given up for --max-overhead {cap:g}: what other "
            "goroutines did then is in no cause"
        )
    if lines and steps:
        lines[-1] += f" (--max-overhead {_RAISED * cap:g} gives up less)"
    return lines


UNKNOWN_BEFORE = "how many requests are in progress that began before the window is not known: they are not counted (history_lost)"
_WITHOUT_WAKERS = "wakers"
_WHOLE_NS = 200_000_000
"""What is missing at a window's edges says nothing."""
_RAISED = 5
NOT_HELD = "the cap was not held: the governor acts on what it has seen cost, and in a longer trace that weighs less"
