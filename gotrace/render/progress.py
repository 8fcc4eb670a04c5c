"""The line that a running trace shows: time left, intervals per second, losses, estimated overhead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gotrace.profile.types import Target
from gotrace.render.text import TOLD_LIMIT, format_duration, sanitize


class Progress(Protocol):
    """What is shown of a `gotrace.run.session.Progress`."""

    @property
    def elapsed_ns(self) -> int: ...

    @property
    def intervals(self) -> int: ...

    @property
    def intervals_per_s(self) -> float: ...

    @property
    def losses(self) -> int: ...

    @property
    def overhead_estimate(self) -> float | None: ...


class Ticker:
    """Context manager around a trace; `started` and `update` are its callbacks. Only a terminal shows the updates."""

    def __init__(self, console: Console, targets: list[Target], duration_ns: int, quiet: bool, verbose: int) -> None:
        self._console = console
        self._targets = targets
        self._duration_ns = duration_ns
        self._quiet = quiet
        self._verbose = verbose
        self._live: Live | None = None

    @property
    def shows_updates(self) -> bool:
        """Whether `update` does anything."""
        return not self._quiet and self._console.is_terminal

    def __enter__(self) -> Ticker:
        return self

    def started(self, told: Sequence[str] = ()) -> None:
        """Says what is traced, for how long and how to stop; the probes are live. `told`: lines on what the trace goes without."""
        if self._quiet:
            return
        who = ", ".join(f"{t.pid} ({sanitize(t.comm)}, {sanitize(t.go_version)})" for t in self._targets[:4])
        if len(self._targets) > 4:
            who += f" and {len(self._targets) - 4} more"
        length = f"for {format_duration(self._duration_ns)}" if self._duration_ns else "until Ctrl-C"
        self._console.print(Text(f"Tracing off-CPU time of PID {who} {length}. Ctrl-C to end."), soft_wrap=True)
        if self._verbose:
            for target in self._targets:
                self._console.print(Text(
                    f"  {sanitize(target.exe)}: {sanitize(target.go_version)} by {target.go_version_source}, "
                    f"{'stripped' if target.stripped else 'with symbols'}{', PIE' if target.pie else ''}{', cgo' if target.cgo else ''}"
                ), soft_wrap=True)
        for line in told:
            style = "bold yellow" if line.startswith("MISSING") else "yellow"
            self._console.print(Text(f"  {sanitize(line, TOLD_LIMIT)}", style), soft_wrap=True)
        if self.shows_updates:
            self._live = Live(Text(""), console=self._console, transient=True, auto_refresh=False)
            self._live.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def notice(self, text: str) -> None:
        """Prints a message once."""
        if not self._quiet:
            self._console.print(Text(f"  {text}", "yellow"), soft_wrap=True)

    def update(self, progress: Progress) -> None:
        """Redraws the line from a `gotrace.run.session.Progress`."""
        if self._live is None:
            return
        left = max(0, self._duration_ns - progress.elapsed_ns)
        parts = [
            f"{format_duration(left)} left" if self._duration_ns else f"{format_duration(progress.elapsed_ns)} traced",
            f"{progress.intervals_per_s:,.0f} intervals/s",
            f"{progress.intervals:,} in all",
            f"{progress.losses:,} lost" if progress.losses else "no losses",
        ]
        if progress.overhead_estimate is not None:
            parts.append(f"overhead about {100 * progress.overhead_estimate:.1f} % of the target's CPU time (estimate)")
        self._live.update(Text("  " + " · ".join(parts), overflow="ellipsis", no_wrap=True), refresh=True)
