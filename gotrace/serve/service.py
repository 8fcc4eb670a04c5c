"""All parts of gotrace serve together: what triggers, requests and signals lead to."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from gotrace import __version__
from gotrace.governor.shares import HostCap
from gotrace.render.text import TOLD_LIMIT, sanitize
from gotrace.serve.alerts import Alert
from gotrace.serve.evidence import Evidence
from gotrace.serve.jobs import Job, kubernetes_of
from gotrace.serve.metrics import Metrics
from gotrace.serve.options import ServeOptions
from gotrace.serve.push.pusher import Pusher
from gotrace.serve.slices import cost_share, wall_ns
from gotrace.serve.supervisor import Supervisor, resident_bytes
from gotrace.serve.suspects import Suspects
from gotrace.serve.totals import Totals
from gotrace.serve.tracing import Condition, Traced
from gotrace.serve.triggers import Fired

_MOST_QUIET = 10_000
_PUSH_S = 0.3
"""Of the time until the end, for the last seconds of all targets to be pushed, or written where they wait."""


class Service:
    """One run of gotrace serve, without its HTTP side. Lines of JSON about captures go to stdout, the rest to stderr."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.began = time.time()
        self.totals = Totals()
        self.evidence = Evidence(options, self._report)
        self.supervisor = Supervisor(options, self.totals, self._fired, self.say)
        self.suspects = Suspects(self.supervisor.targets)
        self.push = Pusher(options.push, options.folder, self.supervisor.targets, self.say) if options.push is not None else None
        self.metrics = Metrics(self.totals, self.supervisor, self.evidence, self.push, self.suspects)
        self._quiet: dict[tuple[int, str], float] = {}
        self._lock, self._alerts = threading.Lock(), threading.Lock()

    def start(self) -> None:
        """Begins."""
        self.evidence.start()
        self.supervisor.start()
        if any(condition.figure == "deadlock" for trigger in self.options.triggers for condition in trigger.conditions):
            self.suspects.start()
        if self.push is not None:
            self.push.start()

    def finish(self, timeout_s: float) -> bool:
        """Writes what is pending, ends all traces, and pushes their last seconds. Returns whether all was done in that time."""
        deadline = time.monotonic() + timeout_s
        self.suspects.finish()
        if self.push is not None:
            self.push.flush()
        left = self.evidence.finish(timeout_s * 0.75)
        if left:
            self.say(f"{left} capture{'s' * (left > 1)} could not be written in time")
        self.supervisor.finish(max(0.0, deadline - time.monotonic() - (_PUSH_S if self.push is not None else 0.0)))
        done = not any(traced.alive for traced in self.supervisor.targets())
        return (self.push is None or self.push.finish(max(_PUSH_S, deadline - time.monotonic()))) and done

    def say(self, text: str) -> None:
        """A line on stderr."""
        self._print(sys.stderr, sanitize(text, TOLD_LIMIT))

    def _report(self, line: dict[str, Any]) -> None:
        self._print(sys.stdout, json.dumps(line))

    def _print(self, stream: Any, text: str) -> None:
        with self._lock:
            try:
                stream.write(text + "\n")
                stream.flush()
            except (OSError, ValueError):
                pass  # nobody reads it any more

    def problem(self) -> str:
        """What keeps it from working, "" if it works."""
        if not self.evidence.working:
            return "captures are not written any more"
        if self.push is not None and not self.push.working:
            return "nothing is pushed any more"
        return self.supervisor.problem if self.supervisor.working else "processes are not searched for any more"

    # -- captures ----------------------------------------------------------------------------------------------------------

    def _fired(self, traced: Traced, fired: Sequence[Fired]) -> None:
        now_ns = time.monotonic_ns()
        self.evidence.ask(Job(
            traced, "trigger", now_ns, now_ns + self.options.after_ns, [one.reason for one in fired], [one.trigger.text for one in fired],
        ))

    def capture_all(self, why: str) -> None:
        """Writes a capture of each target, now, unless that was done too often in this hour."""
        if not self.evidence.permits("signal"):
            self.say(f"{why}: {self.options.too_many('signal')}")
            return
        now_ns = time.monotonic_ns()
        for traced in self.supervisor.targets():
            if traced.condition is Condition.TRACING:
                self.evidence.ask(Job(traced, "signal", now_ns, now_ns, [why]))

    def capture(self, traced: Traced, kind: str, reasons: list[str], begin_ns: int, until_ns: int) -> asyncio.Future[dict[str, Any] | None]:
        """Writes a capture of that time. The result is its line of JSON, None if there are too many."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[dict[str, Any] | None] = loop.create_future()

        def settle(line: dict[str, Any] | None) -> None:
            if not future.done():
                future.set_result(line)

        def done(line: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(settle, line)

        now_ns = time.monotonic_ns()
        if not self.evidence.ask(Job(traced, kind, now_ns, now_ns, reasons, [], begin_ns, until_ns, done)):
            settle(None)
        return future

    def alert(self, alerts: Sequence[Alert]) -> dict[str, int]:
        """Takes alerts that fire as triggers of the processes that they name. Returns how many led to a capture, are in their cooldown or
        were left out, and meant no process."""
        result = {"captures": 0, "quiet": 0, "unmatched": 0}  # called by several threads: reading a pod's name may take long
        now, now_ns = time.monotonic(), time.monotonic_ns()
        for alert in alerts:
            meant = [traced for traced in self.supervisor.targets() if traced.condition is Condition.TRACING and alert.means(traced)]
            result["unmatched"] += not meant
            for traced in meant:
                with self._alerts:
                    if self._quiet.get((traced.pid, alert.name), 0.0) > now:
                        result["quiet"] += 1
                        continue
                    if len(self._quiet) > _MOST_QUIET:
                        self._quiet.clear()
                    self._quiet[traced.pid, alert.name] = now + self.options.cooldown_ns / 1e9
                asked = self.evidence.ask(Job(
                    traced, "alert", now_ns, now_ns + self.options.after_ns, [f"alert {sanitize(alert.name, 200)}"], [alert.name],
                ))
                result["captures" if asked else "quiet"] += 1
        return result

    # -- what there is -----------------------------------------------------------------------------------------------------

    def targets(self) -> dict[str, Any]:
        """What /targets answers; docs/schema/serve-targets.json describes it."""
        return {
            "gotrace": __version__, "now": time.time(), "began": self.began, "keep_ns": self.options.keep_ns,
            "killed": self.supervisor.killed, "left_out": self.supervisor.left_out, "problem": self.problem(),
            "resident_bytes": resident_bytes(), "host_overhead": _host_overhead(self.supervisor.cap),
            "targets": [_target(traced) for traced in self.supervisor.targets()],
            "captures": list(self.evidence.events), "counts": dict(self.evidence.counts),
            "push": self.push.status() if self.push is not None else [],
        }


def _host_overhead(cap: HostCap | None) -> dict[str, float] | None:
    cpus = os.cpu_count() or 1
    return {"cap": cap.cpus / cpus, "cost": cap.cost_cpus / cpus} if cap is not None else None


def _target(traced: Traced) -> dict[str, Any]:
    begin_ns, end_ns = traced.ring.span
    latest = traced.ring.latest()
    known = traced.recorder.known if traced.recorder is not None else None
    share = cost_share([latest]) if latest is not None and latest.governor is not None else None
    goroutines = traced.sched.goroutines if traced.sched is not None else None
    return {
        "pid": traced.pid, "name": traced.name, "exe": traced.target.exe if traced.target else "",
        "go_version": traced.target.go_version if traced.target else "", "container": traced.container, "pod": traced.pod,
        **kubernetes_of(traced), "cgroup": traced.cgroup, "condition": traced.condition.value, "why": traced.why, "since": traced.since,
        "traces": traced.traces, "rung": traced.rung, "cost": share,
        "goroutines": None if goroutines is None else {
            "total": goroutines.total, "running": goroutines.running, "runnable": goroutines.runnable, "waiting": goroutines.waiting,
            "syscall": goroutines.syscall,
        },
        "ring": {
            "from": wall_ns(begin_ns) / 1e9 if end_ns else None, "to": wall_ns(end_ns) / 1e9 if end_ns else None,
            "bytes": traced.ring.size, "dropped_ns": traced.ring.dropped_ns, "dropped_stacks": traced.ring.dropped_waits,
        },
        "losses": {loss.value: count for loss, count in latest.losses.items()} if latest is not None else {},
        "latest": traced.hour.latest(),
        "missing": [{"stage": one.stage, "why": one.why} for one in known.missing] if known is not None else [],
        "messages": [{"time": at, "text": text} for at, text in traced.messages],
    }

