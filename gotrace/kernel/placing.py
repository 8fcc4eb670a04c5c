"""Places the probes of one process, stage by stage, and removes them again."""

from __future__ import annotations

import contextlib
import errno
import os
from concurrent.futures import ThreadPoolExecutor

from gotrace.common.errors import GotraceError, Refused, TargetGone
from gotrace.common.vocabulary import Stage
from gotrace.kernel.bpf import BpfError, attach_raw_tracepoint
from gotrace.kernel.perf_event import UPROBE_TYPE, ProbeError, open_kprobe
from gotrace.kernel.uprobes import MAIN_THREAD_ENDED, attach_uprobe, by_link, hold_breakpoint
from gotrace.plan.probes import Plan, Probe, ProbeSet
from gotrace.proc.limits import memory_limit
from gotrace.proc.memory import Memory, mapping_at
from gotrace.proc.overlay import lower_files, mount_of

POLL_CALLBACK = "ep_poll_callback"
"""The kernel calls it when a file in an epoll set has events (fs/eventpoll.c)."""
TRACEPOINTS = {"on_switch": "sched_switch", "on_waking": "sched_waking", "on_signal": "signal_deliver"}
_STAGE_OF_ROLE = {"ready": Stage.WAKERS, "create": Stage.WAKERS, "exit": Stage.KERNEL, "syscall": Stage.KERNEL, "span": Stage.REQUESTS}
"""All other probes belong to the core."""
_BUSY = ("mark_ready", "start_gopark", "start_schedule", "start_park", "end_execute")
"""Programs whose probes are hit most. They are placed last and removed first: placing takes milliseconds, and a probe has a cost from
then on."""


def stage_of(role: str) -> Stage:
    """The stage of a probe of the plan."""
    return _STAGE_OF_ROLE.get(role.partition(" ")[0], Stage.CORE)


_ERRNO_TEXT = {
    errno.ENOMEM: "the host has no memory for a copy of the code page",
    errno.EIO: "the file system of the executable can't give the kernel its code page",
    errno.ETXTBSY: "the executable is open for writing",
    errno.ENOSPC: "the kernel has no room for another probe",
    errno.EINVAL: "the file system of the executable, or the instruction there, does not allow uprobes",
    errno.EOPNOTSUPP: "the instruction there can't be probed by this kernel",
}
_BREAKPOINT = 0xCC
"""int3, which the kernel puts on the first byte of a probed instruction (arch/x86/kernel/uprobes.c)."""


class ProbesDoNotArrive(Refused):
    """The kernel accepted the probes, but the process does not run the code that contains them."""


class PlacedProbes:
    """The probes and tracepoints that are placed. However this process ends, the kernel removes them with its file descriptors.

    `programs` are the descriptors of those that are loaded, by name; of the kernel's own events, those with a program here are used.
    `tracepoints`: those on threads are among them.
    """

    def __init__(
        self, pid: int, exe_path: str, plan: Plan, programs: dict[str, int], tracepoints: bool, bias: int = 0, memory: Memory | None = None,
    ) -> None:
        self._pid = pid
        self._exe_path = exe_path
        self._bias = bias
        self._memory = memory or Memory(pid)
        self._lower: int | None = None
        self._plan = plan
        self._programs = programs
        self.tracepoints = tracepoints
        self._placed: list[tuple[Stage, int]] = []
        self._watch_exec: int | None = None

    def attach(self) -> None:
        """Places the probes; they record nothing before `begin`.

        Raises:
            Refused: the kernel refuses one; those placed before are removed.
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
        """Places the probes of these stages, none of which is placed yet.

        Raises:
            Refused, TargetGone: the kernel refuses one, or they are not in the code that the process runs (`ProbesDoNotArrive`);
                the probes of all stages are removed then.
        """
        probes = sorted(self._plan.probes, key=lambda probe: _BUSY.index(probe.program) if probe.program in _BUSY else -1)
        probes = [probe for probe in probes if stage_of(probe.role) in stages]
        placed = self._place(probes, self._path)
        if self.absent(probes):
            self._place_below(probes, placed)
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
    def _path(self) -> str:
        return self._exe_path if self._lower is None else f"/proc/self/fd/{self._lower}"

    def _place(self, probes: list[Probe], path: str) -> int:
        """Places them; returns the number of descriptors that hold them."""
        before = len(self._placed)
        for probe in probes:
            try:
                held = hold_breakpoint(path, probe.file_offset, self._pid)
                if held is not None:
                    self._placed.append((stage_of(probe.role), held))
                fd = attach_uprobe(path, probe.file_offset, self._pid, self._programs[probe.program])
            except ProbeError as error:
                self.detach()
                raise _refusal(self._pid, probe, error) from None
            self._placed.append((stage_of(probe.role), fd))
        return len(self._placed) - before

    def absent(self, probes: list[Probe] | None = None) -> list[Probe]:
        """Returns the probes (None: all that are placed) that are not in the process's code. The kernel installs a breakpoint in all
        mappings of the file before it accepts a probe; one that is missing is in a file that the process does not run, or the process runs
        code that is in no file. For a process that is gone, none is missing.

        The check costs the target nothing: only its memory is read.
        """
        if probes is None:
            probes = [probe for probe in self._plan.probes if stage_of(probe.role) in {stage for stage, _ in self._placed}]
        try:
            found = self._memory.read_many([(probe.site.entry + probe.site.offset + self._bias, 1) for probe in probes])
        except (ProcessLookupError, PermissionError):
            return []
        missing = [probe for probe, byte in zip(probes, found, strict=True) if byte is None or byte[0] != _BREAKPOINT]
        # If all are unreadable, it has ended, or runs another program.
        return [] if missing and all(byte is None for byte in found) else missing

    def _place_below(self, probes: list[Probe], placed: int) -> None:
        """Tries the files below the process's executable, if that is on overlayfs: the probes, held by `placed` descriptors, are not in the
        code that the process runs."""
        self._remove_last(placed)
        fd = os.open(self._exe_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            exe = _exe_name(self._pid)
            mount = mount_of(self._pid, fd, exe)
            overlay = mount if mount is not None and mount.fstype == "overlay" else None
            for lower in lower_files(self._pid, overlay, exe, fd) if overlay is not None else ():
                try:
                    if self._same_code(lower, probes) and self._arrive_through(lower, probes):
                        self._set_lower(lower)
                        lower = -1
                        return
                finally:
                    if lower >= 0:
                        os.close(lower)
        finally:
            os.close(fd)
        self.detach()
        raise ProbesDoNotArrive(
            f"probes do not arrive in process {self._pid}: {_why_not(self._pid, probes[0].site.entry + self._bias, overlay is not None)}",
            f"gotrace attach {self._pid} --mode sample",
        )

    def _same_code(self, fd: int, probes: list[Probe]) -> bool:
        return all(
            os.pread(fd, len(site.prologue), probe.file_offset + site.length - len(site.prologue)) == site.prologue
            for probe in probes for site in (probe.site,)
        )

    def _arrive_through(self, fd: int, probes: list[Probe]) -> bool:
        placed = self._place(probes, f"/proc/self/fd/{fd}")
        if not self.absent(probes):
            return True
        self._remove_last(placed)
        return False

    def _set_lower(self, fd: int) -> None:
        if self._lower is not None:
            os.close(self._lower)
        self._lower = fd

    def _remove_last(self, number: int) -> None:
        fds = [fd for _, fd in self._placed[len(self._placed) - number :]]
        del self._placed[len(self._placed) - number :]
        with ThreadPoolExecutor(max(1, len(fds))) as pool:
            list(pool.map(os.close, fds))

    @property
    def thread_stage(self) -> Stage:
        """The stage of the tracepoints on threads."""
        # Mode lean infers the starts of intervals from them.
        return Stage.CORE if self._plan.probe_set is ProbeSet.LEAN else Stage.KERNEL

    @property
    def watches_exec(self) -> bool:
        """Whether the kernel reports when the process calls exec."""
        return self._watch_exec is not None

    @property
    def stages(self) -> frozenset[Stage]:
        """The stages with something placed."""
        return frozenset(stage for stage, _ in self._placed)

    def _attach_data_ready(self) -> None:
        # Without either, the time until the kernel had the data and the time until the netpoller noticed are not separate.
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
        if self._lower is not None:
            os.close(self._lower)
            self._lower = None
        self.remove(frozenset(Stage))

    def remove(self, stages: frozenset[Stage]) -> None:
        """Removes the probes of these stages, all at once: for each perf event the kernel needs a grace period."""
        fds = [fd for stage, fd in reversed(self._placed) if stage in stages]
        self._placed = [(stage, fd) for stage, fd in self._placed if stage not in stages]
        if fds:
            with ThreadPoolExecutor(len(fds)) as pool:
                list(pool.map(os.close, fds))


def _refusal(pid: int, probe: Probe, error: ProbeError) -> GotraceError:
    place = f"no probe at {probe.symbol}+{probe.site.offset}"
    if error.errno == errno.ESRCH:
        return TargetGone(f"process {pid} ended while the probes were being placed")
    if error.errno == errno.ENOMEM:
        limit = memory_limit(pid)
        if limit:
            return Refused(
                f"{place}: the target's memory cgroup {limit}: the kernel can't copy the code pages",
                f"gotrace attach {pid} --mode sample",
            )
    if error.strerror == MAIN_THREAD_ENDED:
        return ProbesDoNotArrive(f"probes do not arrive in process {pid}: {error.strerror}", f"gotrace attach {pid} --mode sample")
    what = _ERRNO_TEXT.get(error.errno)
    if what is None:
        return Refused(f"{place}: {error.strerror}", "gotrace doctor")
    return Refused(f"{place}: {error.strerror}: {what}", f"gotrace attach {pid} --mode sample")


def _exe_name(pid: int) -> str:
    for thread in (pid, *_threads(pid)):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{thread}/exe").removesuffix(" (deleted)")
    return ""


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _why_not(pid: int, address: int, overlay: bool) -> str:
    if mapped := mapping_at(pid, address):
        if not mapped.inode:
            return "its code is in anonymous memory, not in the file (the program has moved it, as for huge pages)"
    if overlay:
        return "its executable lies on overlayfs and was copied up after it started (chmod, chown, a write): restart it"
    return "the file that its path leads to is not the one that it runs"
