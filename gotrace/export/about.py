"""When a profile was taken, what it covers, and what it lacks: for the comments of exported files."""

from __future__ import annotations

from datetime import datetime

from gotrace.common.vocabulary import LOSS_TEXT, Loss
from gotrace.profile.told import INCOMPLETE, governor_lines, told
from gotrace.profile.types import Profile, Target
from gotrace.render.text import format_duration


def start_ns(profile: Profile) -> int:
    """The window's start in nanoseconds since 1970, 0 if it can't be read."""
    try:
        start = datetime.fromisoformat(profile.window.start.replace("Z", "+00:00"))
        return round(start.timestamp() * 1000) * 1_000_000
    except (ValueError, OverflowError, OSError):
        return 0


def comments(profile: Profile) -> list[str]:
    """Lines on what the profile covers, and what was left out, given up and lost."""
    window = profile.window
    lines = [f"off-CPU time by gotrace {profile.version}"]
    lines += [_target_line(target) for target in profile.targets]
    line = f"window: {window.start}, {format_duration(window.duration_ns)}, mode {window.mode}"
    if profile.probed_ns < window.duration_ns:
        line += f", probes attached for {format_duration(profile.probed_ns)}"
    lines.append(line)
    for span in profile.requests:
        d = span.latency
        lines.append(
            f"requests: {d.count:,} of {span.function}, {span.in_progress:,} in progress, p50 {format_duration(d.percentile_ns(0.5))}, "
            f"p99 {format_duration(d.percentile_ns(0.99))}, max {format_duration(d.max_ns)}"
        )
    lines += [f"only a part was recorded: {part}" for part in profile.filters]
    if not profile.complete:
        lines.append(f"INCOMPLETE: {INCOMPLETE}")
    lines += told(profile)
    lines += governor_lines(profile)
    losses = [(loss, profile.losses[loss]) for loss in Loss if profile.losses.get(loss)]
    lines += [f"LOSS {loss.value}: {count:,} {LOSS_TEXT[loss]}" for loss, count in losses]
    return lines if losses else [*lines, "losses: none"]


def _target_line(target: Target) -> str:
    return f"target: {target.comm} ({target.pid}), {target.go_version}, {target.exe}"
