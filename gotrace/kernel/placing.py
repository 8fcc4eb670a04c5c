"""Places the probes of one process, stage by stage, and removes them again."""

from __future__ import annotations

import contextlib
import errno
import os
from concurrent.futures import ThreadPoolExecutor

from gotrace.errors import Refused, TargetGone
from gotrace.kernel.bpf import BpfError, attach_raw_tracepoint
from gotrace.kernel.perf_event import UPROBE_TYPE, ProbeError, open_kprobe
from gotrace.kernel.uprobes import attach_uprobe, by_link
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.vocabulary import Stage

POLL_CALLBACK = "ep_poll_callback"
"""What the kernel calls when a file in an epoll set has events (fs/eventpoll.c)."""
TRACEPOINTS = {"on_switch": "sched_switch", "on_waking": "sched_waking", "on_signal": "signal_deliver"}
_STAGE_OF_ROLE = {"ready": Stage.WAKERS, "create": Stage.WAKERS, "exit": Stage.KERNEL, "syscall": Stage.KERNEL}
"""All other probes are of the core."""
_BUSY = ("mark_ready", "start_gopark", "start_schedule", "start_park", "end_execute")
"""Programs whose probes are hit most. They are placed last and removed first: placing takes milliseconds, and a probe costs from
then on."""


def stage_of(role: str) -> Stage:
    """The stage to which a probe of the plan belongs."""
    return _STAGE_OF_ROLE.get(role, Stage.CORE)


class PlacedProbes:
    """The probes and tracepoints that are placed. Whatever happens to this process, the kernel removes them with its file
    descriptors.

    `programs` are the descriptors of those that are loaded, by name: of the kernel's own events those are used that have one.
    `tracepoints`: those on threads are among them.
    """

    def __init__(self, pid: int, exe_path: str, plan: Plan, programs: dict[str, int], tracepoints: bool) -> None:
        self._pid = pid
        self._exe_path = exe_path
        self._plan = plan
        self._programs = programs
        self.tracepoints = tracepoints
        self._placed: list[tuple[Stage, int]] = []
        self._watch_exec: int | None = None

    def attach(self) -> None:
        """Places the probes; they record nothing before `begin`.

        Raises:
            Refused: the kernel does not take one; those placed before are removed.
        """
        if not by_link() and not UPROBE_TYPE.exists():
            raise Refused("this kernel has no uprobe events (perf PMU 'uprobe')", "gotrace doctor")
        try:
            if self.tracepoints or not self._plan.has("syscall"):
                self._watch_exec = attach_raw_tracepoint("sched_process_exec", self._programs["target_exec"])
        except BpfError as error:
            raise Refused(f"the kernel refuses {error.strerror}", "gotrace doctor") from None
        self.place(frozenset(Stage))

    def place(self, stages: frozenset[Stage]) -> None:
        """Places the probes of these stages, none of which is placed.

        Raises:
            Refused, TargetGone: the kernel does not take one; those placed before are removed, of all stages.
        """
        probes = sorted(self._plan.probes, key=lambda probe: _BUSY.index(probe.program) if probe.program in _BUSY else -1)
        for probe in probes:
            stage = stage_of(probe.role)
            if stage not in stages:
                continue
            try:
                program = self._programs[probe.program]
                fd = attach_uprobe(self._exe_path, probe.file_offset, self._pid, program)
            except ProbeError as error:
                self.detach()
                if error.errno == errno.ESRCH:
                    raise TargetGone(f"process {self._pid} ended while the probes were being placed") from None
                raise Refused(f"no probe at {probe.symbol}+{probe.site.offset}: {error.strerror}", "gotrace doctor") from None
            self._placed.append((stage, fd))
        if not self.tracepoints:
            return
        try:
            for program, tracepoint in TRACEPOINTS.items():
                if self.thread_stage in stages and program in self._programs:
                    self._placed.append((self.thread_stage, attach_raw_tracepoint(tracepoint, self._programs[program])))
        except BpfError as error:
            self.detach()
            raise Refused(f"the kernel refuses {error.strerror}", "gotrace doctor") from None
        if Stage.WAKERS in stages:
            self._attach_data_ready()

    @property
    def thread_stage(self) -> Stage:
        """The stage of the tracepoints on threads."""
        # Mode lean takes the starts of intervals from them.
        return Stage.CORE if self._plan.probe_set is ProbeSet.LEAN else Stage.KERNEL

    @property
    def watches_exec(self) -> bool:
        """Whether the kernel tells when the process calls exec."""
        return self._watch_exec is not None

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages of which something is placed."""
        return frozenset(stage for stage, _ in self._placed)

    def _attach_data_ready(self) -> None:
        # Without either the time until the kernel had the data is not split from the time until the netpoller did.
        if "on_poll_event" in self._programs:
            with contextlib.suppress(ProbeError):
                self._placed.append((Stage.WAKERS, open_kprobe(POLL_CALLBACK, self._programs["on_poll_event"])))
        elif "on_data_ready" in self._programs:
            with contextlib.suppress(BpfError):  # Linux 6.3
                self._placed.append((Stage.WAKERS, attach_raw_tracepoint("sk_data_ready", self._programs["on_data_ready"])))

    def detach(self) -> None:
        """Removes the probes and all else that was attached."""
        if self._watch_exec is not None:
            os.close(self._watch_exec)
            self._watch_exec = None
        self.remove(frozenset(Stage))

    def remove(self, stages: frozenset[Stage]) -> None:
        """Removes the probes of these stages, all at once: each perf event takes the kernel a grace period."""
        fds = [fd for stage, fd in reversed(self._placed) if stage in stages]
        self._placed = [(stage, fd) for stage, fd in self._placed if stage not in stages]
        if fds:
            with ThreadPoolExecutor(len(fds)) as pool:
                list(pool.map(os.close, fds))
