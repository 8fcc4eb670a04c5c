"""The tracers that are compared. Each is attached to a running workload and taken off again, as its users would do it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.accounts import PeakMemory
from benchmarks.results import AgentFigures
from benchmarks.workloads import Target
from gotrace.common.errors import GotraceError
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image
from gotrace.kernel.bpf import EXIT_0, ProgramType, load_program
from gotrace.kernel.perf_event import KPROBE_TYPE, open_uprobe
from gotrace.plan.makeplan import make_plan
from gotrace.plan.probes import Plan

_LIVE_S = 60
_END_S = 60
OVERDUE = "had not ended"
_BREAKPOINT = b"\xcc"
_POLL_S = 0.005


class Attachment:
    """A tracer at work: its process, if it has one, and what it took so far."""

    def __init__(self, pid: int | None = None) -> None:
        self.pid = pid
        self.figures = AgentFigures()
        self.memory: PeakMemory | None = None

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """While the context is open, nothing is measured that would cost the machine time."""
        if self.memory:
            self.memory.watch(False)
        yield
        if self.memory:
            self.memory.watch(True)


class Tracer:
    """One of them: `key` on the command line, `title` in the table."""

    def __init__(self, key: str, title: str) -> None:
        self.key = key
        self.title = title

    def why_not(self) -> str:
        """"" or why it can't take part here."""
        return ""

    def attached(self, target: Target) -> contextlib.AbstractContextManager[Attachment]:
        """A context in which it is live. Raises GotraceError if it does not become so."""
        raise NotImplementedError


class Sites:
    """The probes of gotrace's two-trap set in a program that is not position-independent."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self.plan: Plan = make_plan(GoBinary(Image(program.read_bytes())), wakers=False, exits=False)
        self.probes = [probe for probe in self.plan.probes if probe.role in ("start", "switch", "end")]

    def patched(self, pid: int, at_entry: bool = False) -> bool:
        """Whether the kernel has a breakpoint at runtime.execute in the process: where gotrace puts it, or at its first byte."""
        site = self.plan.execute.site
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), 1, site.entry if at_entry else site.address) == _BREAKPOINT

    def wait(self, pid: int, wanted: bool, seconds: float, at_entry: bool = False, alive: Callable[[], bool] = lambda: True) -> bool:
        """Whether the breakpoint came, or went, in that time and as long as `alive`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and alive():
            if self.patched(pid, at_entry) == wanted:
                return True
            time.sleep(_POLL_S)
        return False


class Empty(Tracer):
    """Programs that do nothing, at gotrace's probes: the cost of the traps alone."""

    def __init__(self, key: str, title: str, sites: Sites, roles: tuple[str, ...]) -> None:
        super().__init__(key, title)
        self._sites = sites
        self._roles = roles

    @contextlib.contextmanager
    def attached(self, target: Target) -> Iterator[Attachment]:
        with contextlib.ExitStack() as stack:
            program = load_program(ProgramType.KPROBE, EXIT_0, "empty")
            stack.callback(os.close, program)
            for probe in self._sites.probes:
                if probe.role in self._roles:
                    stack.callback(os.close, open_uprobe(str(self._sites.program), probe.file_offset, target.pid, program))
            yield Attachment()


class Command(Tracer):
    """A tracer that is a process of its own, ended by SIGINT."""

    def __init__(self, key: str, title: str, sites: Sites, at_entry: bool) -> None:
        super().__init__(key, title)
        self._sites = sites
        self._at_entry = at_entry

    def command(self, pid: int, folder: Path) -> list[str]:
        """The command to run; outputs go to the folder."""
        raise NotImplementedError

    def is_live(self, process: subprocess.Popen, pid: int, errors: Path) -> bool:
        """Waits until its probes are live; False if they do not become so."""
        return self._sites.wait(pid, True, _LIVE_S, self._at_entry, lambda: process.poll() is None)

    def finished(self, figures: AgentFigures, folder: Path) -> None:
        """Reads what it wrote."""

    @contextlib.contextmanager
    def attached(self, target: Target) -> Iterator[Attachment]:
        with tempfile.TemporaryDirectory(prefix="gotrace-bench-") as name:
            folder = Path(name)
            errors = folder / "stderr"
            with open(folder / "stdout", "wb") as out, open(errors, "wb") as err:
                start = time.monotonic()
                process = subprocess.Popen(self.command(target.pid, folder), stdout=out, stderr=err, stdin=subprocess.DEVNULL)
            attachment = Attachment(process.pid)
            attachment.memory = PeakMemory(process.pid)
            try:
                if not self.is_live(process, target.pid, errors):
                    raise GotraceError(f"{self.title} did not become live: {_last_line(errors)}")
                attachment.figures.live_s = time.monotonic() - start
                yield attachment
                start = time.monotonic()
                process.send_signal(signal.SIGINT)
                if self._sites.wait(target.pid, False, _END_S, self._at_entry):
                    attachment.figures.gone_s = time.monotonic() - start
                try:
                    process.wait(max(1.0, start + _END_S - time.monotonic()))
                except subprocess.TimeoutExpired:
                    attachment.figures.note = f"{OVERDUE} {_END_S} s after SIGINT"
                    return
                attachment.figures.files_s = time.monotonic() - start
                self.finished(attachment.figures, folder)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                attachment.figures.peak_bytes = attachment.memory.end() or None


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


class Gotrace(Command):
    """gotrace attach of this checkout, with a capture, a flame graph and the summary as outputs."""

    def __init__(self, key: str, title: str, sites: Sites, flags: list[str]) -> None:
        super().__init__(key, title, sites, at_entry=False)
        self.flags = flags

    def command(self, pid: int, folder: Path) -> list[str]:
        outputs = ["-o", str(folder / "trace.gotrace"), "-o", str(folder / "trace.html")]
        return [sys.executable, "-m", "gotrace", "attach", str(pid), "-d", "0", "--json", *outputs, *self.flags]

    def is_live(self, process: subprocess.Popen, pid: int, errors: Path) -> bool:
        # Its output says so; in mode sample there is no probe to detect.
        deadline = time.monotonic() + _LIVE_S
        while time.monotonic() < deadline and process.poll() is None:
            if re.search(rb"^Tracing", errors.read_bytes(), re.MULTILINE):
                return True
            time.sleep(_POLL_S)
        return False

    def finished(self, figures: AgentFigures, folder: Path) -> None:
        try:
            summary = json.loads((folder / "stdout").read_text())
        except ValueError:
            raise GotraceError(f"{self.title} wrote no summary: {_last_line(folder / 'stderr')}") from None
        lost = {name: count for name, count in summary["losses"].items() if count}
        figures.note = f"{summary['totals']['intervals']} intervals" + (f", losses {lost}" if lost else "")


class Bpftrace(Command):
    """A plain bpftrace script: time from gopark to execute by stack, at the functions' first instruction."""

    def __init__(self, sites: Sites) -> None:
        super().__init__("bpftrace", "bpftrace script, at function entry", sites, at_entry=True)

    def command(self, pid: int, folder: Path) -> list[str]:
        script = folder / "offcpu.bt"
        script.write_text(
            f'uprobe:{self._sites.program}:"runtime.gopark" {{ @start[reg("r14")] = nsecs; @stack[reg("r14")] = ustack; }}\n'
            f'uprobe:{self._sites.program}:"runtime.execute" /@start[reg("ax")]/ {{\n'
            '  @ns[@stack[reg("ax")]] = stats(nsecs - @start[reg("ax")]); delete(@start[reg("ax")]); delete(@stack[reg("ax")]); }\n'
            "END { clear(@start); clear(@stack); }\n"
        )
        return ["bpftrace", "-p", str(pid), str(script)]

    def why_not(self) -> str:
        return "" if _runs("bpftrace") else "bpftrace is not installed and not offered here"


class OffCpuTime(Command):
    """bcc's offcputime, which sees threads, not goroutines: the one in Python, or, if the kernel has no kprobes for it, the one of
    libbpf-tools, which uses the scheduler's tracepoint."""

    def __init__(self, sites: Sites) -> None:
        super().__init__("offcputime", "bcc offcputime (threads)", sites, at_entry=False)

    def command(self, pid: int, folder: Path) -> list[str]:
        if KPROBE_TYPE.exists() and _runs("offcputime-bpfcc"):
            return ["offcputime-bpfcc", "-f", "-p", str(pid)]
        return ["/usr/sbin/offcputime", "-p", str(pid)]

    def why_not(self) -> str:
        if KPROBE_TYPE.exists() and _runs("offcputime-bpfcc") or os.access("/usr/sbin/offcputime", os.X_OK):
            return ""
        return "neither bpfcc-tools, for a kernel with kprobes, nor libbpf-tools is installed and offered here"

    def is_live(self, process: subprocess.Popen, pid: int, errors: Path) -> bool:
        # It neither says so nor touches the process: it holds a perf event, or a link to a tracepoint, once it is attached.
        deadline = time.monotonic() + _LIVE_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                links = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")]
                if any(kind in link for link in links for kind in ("perf_event", "bpf_link", "bpf-raw-tracepoint")):
                    return True
            time.sleep(_POLL_S)
        return False


class InProcess(Tracer):
    """A profiler inside the target, which the fixture starts and stops."""

    def __init__(self, key: str, title: str, verb: str, reason: str = "") -> None:
        super().__init__(key, title)
        self._verb = verb
        self._reason = reason

    def why_not(self) -> str:
        return self._reason

    @contextlib.contextmanager
    def attached(self, target: Target) -> Iterator[Attachment]:
        target.command(self._verb)
        try:
            yield Attachment()
        finally:
            target.command(f"un{self._verb}")


def _runs(program: str) -> bool:
    return any(os.access(Path(folder) / program, os.X_OK) for folder in os.get_exec_path())


def gotrace_sets(help_text: str) -> list[tuple[str, str, list[str]]]:
    """(key, title, flags) of the ways to run gotrace that its own help knows: those without a flag yet are left out."""
    governed = "--max-overhead" in help_text
    modes = re.search(r"--mode \[([a-z|]+)\]", help_text)
    known = modes.group(1).split("|") if modes else []
    free = ["--max-overhead", "0"] if governed else []
    sets = [("default", "gotrace", [])]
    if governed:
        sets.append(("every", "gotrace, every stage, no governor", free))
    if governed and "--requests" in help_text:
        sets.append(("no-requests", "the same without requests", ["--requests", "off", *free]))
    sets.append(("exact", "gotrace --no-kernel --no-wakers", ["--no-kernel", "--no-wakers", *free]))
    if governed:
        sets.append(("governed", "gotrace --max-overhead 2", ["--max-overhead", "2"]))
    if "lean" in known:
        sets.append(("lean", "gotrace --mode lean", ["--mode", "lean", *free]))
    if "sample" in known:
        sets.append(("sample", "gotrace --mode sample", ["--mode", "sample", *free]))
    return sets


def all_tracers(program: Path, no_fgprof: str, more: tuple[str, ...] = ()) -> list[Tracer]:
    """All tracers for workloads of `program`, in the order of the table. `more` are further flags of gotrace to compare, one
    string each."""
    help_text = subprocess.run([sys.executable, "-m", "gotrace", "attach", "--help"], check=True, capture_output=True, text=True).stdout
    sites = Sites(program)
    sets = gotrace_sets(" ".join(help_text.split())) + [(flags, f"gotrace {flags}", flags.split()) for flags in more]
    return [
        Empty("floor-one", "one empty program, at execute", sites, ("end",)),
        Empty("floor", "empty programs at the same probes (floor)", sites, ("start", "switch", "end")),
        *(Gotrace(key, title, sites, flags) for key, title, flags in sets),
        Bpftrace(sites),
        OffCpuTime(sites),
        InProcess("go-trace", "Go's execution tracer", "trace"),
        InProcess("fgprof", "fgprof", "fgprof", no_fgprof),
    ]
