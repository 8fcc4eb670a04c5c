"""The end of a trace by probes: the window closes, the probes go, and what is still in progress is accounted for."""

from __future__ import annotations

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import Loss
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.profile.types import Missing
from gotrace.profile.waited import OTHER, UNKNOWN
from gotrace.watch.accounting import Account, RunningTime, accounts
from gotrace.watch.ending import check_hits, check_probes, count_losses, what_was_seen
from gotrace.watch.loading import Loaded
from gotrace.watch.steering import Steering
from gotrace.watch.target import OpenTarget
from gotrace.watch.window import Remaining


class Closing:
    """Of one process: `stop`, then `settle` when all rows have been read. `running` and `losses` are the process's. `settle` sets
    `goroutines`, how many were seen, and `accounts`, empty where they are not known."""

    def __init__(self, target: OpenTarget, plan: Plan, loaded: Loaded, running: RunningTime, losses: dict[Loss, int]) -> None:
        self.goroutines = 0
        self.accounts: list[Account] = []
        self._target = target
        self._plan = plan
        self._tracer, self._window, self._rows, self._requests = loaded.tracer, loaded.window, loaded.rows, loaded.requests
        self._running = running
        self._losses = losses
        self._remaining = Remaining()

    def stop(self, steering: Steering, placed: bool, missing: list[Missing]) -> GotraceError | None:
        """Closes the window, reads what is off the CPU then, and removes the probes. `placed`: they are there, in a process that lives.
        Adds to what is `missing`. Returns an error if no probe was hit."""
        tracer, window, pid, failure = self._tracer, self._window, self._target.process.pid, None
        if placed and (unhit := check_hits(pid, window.witness, tracer.tables.read_stats)) is not None:
            missing.append(unhit)
            failure = GotraceError(f"process {pid}: {unhit.why}", f"sudo gotrace attach {pid} --mode sample")
        steering.close_window()
        missing += check_probes(self._target, tracer, missing) if placed else []
        self._running.end()
        self._remaining = window.read_remaining(placed, bool(self._requests))
        if self._requests is not None and placed:
            self._requests.tell_open(self._target.memory)
        tracer.stop()
        count_losses(tracer, window.earlier.unread, self._losses)
        tracer.detach()  # before anything slow: the target pays for the probes while they are there
        return failure

    def settle(self, notes: list[str]) -> None:
        """Takes what the window's end has cut off, and all that is known only now. Adds to the `notes`. The tables are gone then."""
        tracer, window, remaining, tally = self._tracer, self._window, self._remaining, self._rows.tally
        wanted = self._requests.wanted() if self._requests is not None else None
        cut = window.cut_off(remaining, window.end_ns, at_the_end=True, followed=wanted)
        self._rows.take(list(cut.rows.values()))
        self._losses[Loss.THREAD_STACK_UNREADABLE] += tally.incomplete(threads=True)
        self.goroutines = tally.count_goroutines(tracer.tables.read_members(), cut.goids)
        if tracer.sees_threads and window.whole and self._plan.probe_set is not ProbeSet.LEAN and not window.threads_unseen:
            self.accounts, running_ns = accounts(tracer.tables, window.start_ns, window.end_ns, window.parked.ended)
            self._running.settle(running_ns)
        notes += what_was_seen(tracer.tables, tally.stacks(), window.start_ns, window.end_ns)
        if self._requests is not None:
            running = remaining.running if remaining.alive else None
            self._requests.finish(window.start_ns, window.end_ns, self._losses, cut, running)
        self._losses[Loss.WAITED_UNREAD], self._losses[Loss.WAITED_FULL] = tally.without_object(UNKNOWN), tally.without_object(OTHER)
        tally.close()
        tracer.tables.close()
