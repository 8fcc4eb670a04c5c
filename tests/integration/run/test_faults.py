"""What goes wrong around a trace: the compiler, the verifier, limits, signals, terminals, neighbours. The target goes on
unharmed, no probe stays, what is written is valid, and a refusal is one line with its cause."""

from __future__ import annotations

import errno
import os
import pty
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from attach import Attached, probes_of
from faults import checkout_with, is_complete, one_line, unharmed_churn
from gobuild import build
from restricted import BPF_LINKS, CHECKOUT, SYS_PERF_EVENT_OPEN, command, forbid, limit, run
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.common.vocabulary import Loss
from gotrace.kernel.compilation import Compilation
from gotrace.run.options import AttachOptions
from gotrace.run.session import Session

pytestmark = [pytest.mark.bpf, pytest.mark.beside, pytest.mark.apart]

NEIGHBOURS = 1000


@pytest.fixture
def churn() -> Iterator[Workload]:
    with unharmed_churn() as workload:
        yield workload


# -- compiler and verifier ---------------------------------------------------------------------------------------------

OLD_BCC = """
import ctypes
__version__ = "0.10.0"
class lib:  # as far as that version had got
    pass
class BPF:
    def __init__(self, text, cflags):
        raise Exception("Failed to compile BPF module <text>")
"""


def interpreter_with(folder: Path, bcc: dict[str, str] | None) -> Path:
    """A virtual environment with gotrace's dependencies, and as bcc these files, or none at all."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages, = (folder / "lib").glob("python*/site-packages")
    ours = next(path for path in sys.path if path.endswith("/site-packages") and (Path(path) / "rich").exists())
    (packages / "paths.pth").write_text(f"{ours}\n")
    if bcc is not None:
        (packages / "bcc").mkdir()
        for name, text in bcc.items():
            (packages / "bcc" / name).write_text(text)
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    ("bcc", "texts"),
    [
        (None, ("bcc module is not installed", "apt-get install python3-bpfcc")),
        ({"__init__.py": "def convert(): ...\n"}, ("not the BPF Compiler Collection", "pip uninstall bcc")),
        ({"__init__.py": OLD_BCC, "libbcc.py": ""}, ("bcc 0.10.0", "Failed to compile")),
    ],
    ids=["absent", "an impostor", "too old"],
)
def test_bcc(churn: Workload, tmp_path: Path, bcc: dict[str, str] | None, texts: tuple[str, str]) -> None:
    interpreter = interpreter_with(tmp_path / "venv", bcc)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments in (("attach", churn.pid), ("doctor",)):
        result = subprocess.run(
            [interpreter, *command(*arguments)[1:]], capture_output=True, text=True, env=environment, timeout=180
        )
        if arguments[0] == "attach":
            one_line(result, *texts)
        else:
            assert result.returncode == 3
            assert all(text in " ".join(result.stdout.split()) for text in texts), result.stdout


def kept_log(result: subprocess.CompletedProcess[str]) -> str:
    return Path(next(word.strip(";") for word in result.stderr.split() if word.strip(";").endswith(".log"))).read_text()


@pytest.mark.full
def test_the_verifier_refuses(churn: Workload, tmp_path: Path) -> None:
    """One line on the terminal, the whole report in a file."""
    environment = checkout_with(tmp_path, "exec.c", "c->window_end_ns = bpf_ktime_get_ns();", "*(u64 *)1234 = 5;")
    result = run(["attach", churn.pid], environment=environment, cwd=tmp_path)
    one_line(result, "the kernel refuses BPF program target_exec", "the verifier's report is in")
    assert "mem access" in kept_log(result)
    doctor = run(["doctor"], environment=environment, cwd=tmp_path)
    assert doctor.returncode == 3 and "the verifier's report is in" in " ".join(doctor.stdout.split()), doctor.stdout


def test_no_program_needs_all_of_the_stack() -> None:
    """512 bytes are the limit, and another compiler needs some more for the same source (clang 19 24 more than 14)."""
    for name, code in Compilation().result().code.items():
        lowest = 0
        for opcode, registers, offset, _ in struct.iter_unpack("<BBhi", code):
            base = {0x01: registers >> 4, 0x02: registers & 15, 0x03: registers & 15}.get(opcode & 0x07)  # LDX, ST, STX
            lowest = min(lowest, offset if base == 10 else 0)
        assert -480 <= lowest <= 0, (name, lowest)


ATOMIC_OPCODES = (0xC3, 0xDB)
PLAIN_ADDITION = 0


@pytest.mark.full
def test_kernels_before_5_12_get_programs_without_their_atomics(
    churn: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gotrace.kernel.compilation.swaps", lambda: False)
    used = {
        immediate for code in Compilation().result().code.values() for opcode, _, _, immediate in struct.iter_unpack("<BBhi", code)
        if opcode in ATOMIC_OPCODES
    }
    assert used == {PLAIN_ADDITION}
    options = AttachOptions((churn.pid,), 500_000_000, (str(tmp_path / "x.gotrace"),))
    with Session(options) as session:
        session.prepare()
        profile = session.run()
    assert not profile.losses[Loss.INTERVAL_LOST] and profile.intervals > 1000
    assert all(stat.distribution.percentile_ns(1) <= stat.distribution.max_ns for stat in profile.stacks)


def lives(pid: int) -> bool:
    """Neither gone nor a zombie, which is left until init finds it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_compiler_ends_with_gotrace(churn: Workload, tmp_path: Path) -> None:
    trace = subprocess.Popen(
        command("attach", churn.pid, "-o", tmp_path / "x.gotrace"), env=os.environ | checkout_with(tmp_path), cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    deadline, compilers = time.monotonic() + 20, []
    while not compilers and trace.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):  # it comes and goes
            children = Path(f"/proc/{trace.pid}/task/{trace.pid}/children").read_text().split()
            # Once LLVM is loaded it has been told who its parent is.
            compilers = [int(child) for child in children if "LLVM" in Path(f"/proc/{child}/maps").read_text()]
    assert compilers
    os.kill(compilers[0], signal.SIGSTOP)  # or it would soon be done anyway
    trace.kill()
    trace.wait()
    deadline = time.monotonic() + 20
    while lives(compilers[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives(compilers[0])
    assert not list(tmp_path.glob("x.gotrace")) and not list((tmp_path / "bpf").glob("compiled/*"))


def test_the_compiler_refuses(churn: Workload, tmp_path: Path) -> None:
    environment = checkout_with(tmp_path, "exec.c", "bpf_ktime_get_ns()", "no_such_name")
    result = run(["attach", churn.pid], environment=environment, cwd=tmp_path)
    one_line(result, "was not compiled", "no_such_name", "the whole report is in")
    assert "no_such_name" in kept_log(result)


# -- refusals of the kernel --------------------------------------------------------------------------------------------


@pytest.mark.complete("28")
@pytest.mark.parametrize("number", [errno.EBUSY, errno.EMFILE, errno.ENOMEM, errno.ENOSPC])
def test_perf_event_open_is_refused(churn: Workload, tmp_path: Path, number: int) -> None:
    def prepare() -> None:
        forbid(BPF_LINKS)()
        forbid(SYS_PERF_EVENT_OPEN, error=number)()

    result = run(["attach", churn.pid, "-o", tmp_path / "x.gotrace"], prepare=prepare)
    one_line(result, "no probe at", os.strerror(number), errno.errorcode[number])
    assert not list(tmp_path.iterdir())


def test_links_are_refused(churn: Workload, tmp_path: Path) -> None:
    """Then probes are perf events, as on every kernel before Linux 6.10."""
    result = run(["attach", churn.pid, "-d", "500ms", "-o", tmp_path / "x.gotrace"], prepare=forbid(BPF_LINKS))
    assert result.returncode == 0, result.stderr
    assert read_capture(tmp_path / "x.gotrace").stacks
    assert not probes_of(churn.pid)


@pytest.mark.complete
@pytest.mark.full
def test_descriptors_run_out(churn: Workload, tmp_path: Path) -> None:
    """Wherever it is that the limit is met: before, between two probes, at the capture."""
    codes = set()
    for most in (10, 24, 32, 40, 48, 56, 64, 256):
        capture = tmp_path / f"{most}.gotrace"
        result = run(["attach", churn.pid, "-d", "200ms", "-q", "-o", capture], prepare=limit(resource.RLIMIT_NOFILE, most))
        codes.add(result.returncode)
        if result.returncode:
            one_line(result, "", code=result.returncode)
            assert "internal error" not in result.stderr, result.stderr
        assert not probes_of(churn.pid)
    assert 0 in codes and len(codes) > 1
    is_complete(tmp_path / "256.gotrace")


# -- time and signals --------------------------------------------------------------------------------------------------


def test_the_target_is_stopped_for_a_while(churn: Workload, tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
        time.sleep(0.3)
        os.kill(churn.pid, signal.SIGSTOP)
        time.sleep(1.2)
        os.kill(churn.pid, signal.SIGCONT)
        time.sleep(0.3)
        trace.end()
    is_complete(capture)


@pytest.mark.full
def test_the_trace_ends_while_the_target_is_stopped(churn: Workload, tmp_path: Path) -> None:
    capture = tmp_path / "x.gotrace"
    try:
        with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
            time.sleep(0.3)
            os.kill(churn.pid, signal.SIGSTOP)
            time.sleep(0.3)
            trace.end()
        is_complete(capture)
        assert not probes_of(churn.pid)
    finally:
        os.kill(churn.pid, signal.SIGCONT)


@pytest.mark.full
def test_gotrace_is_stopped_for_a_while(churn: Workload, tmp_path: Path) -> None:
    """The kernel goes on counting: nothing is lost but the ticks of the progress line."""
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as trace:
        trace.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        trace.process.send_signal(signal.SIGCONT)
        trace.end()
    is_complete(capture)
    assert read_capture(capture).window.duration_ns >= 2_000_000_000


def test_a_clock_of_its_own(churn: Workload, tmp_path: Path) -> None:
    """In a time namespace our clock is not the one that the kernel's programs read: refused, with the way out."""
    result = run(["attach", churn.pid], ["unshare", "--time", "--monotonic", "86400", "--boottime", "86400", "--fork"])
    one_line(result, "clock", "nsenter --time")


@pytest.mark.full
def test_a_target_with_a_clock_of_its_own(tmp_path: Path) -> None:
    """Go's own stamps are a day off there; no interval is longer than the window for it."""
    capture = tmp_path / "x.gotrace"
    apart = ["--time", "--monotonic", "86400", "--boottime", "86400", "--fork", "--kill-child"]
    with Workload("unshare", *apart, str(build("churn", "1.27.3", "stripped"))) as workload:
        child = int(Path(f"/proc/{workload.pid}/task/{workload.pid}/children").read_text())
        assert Path(f"/proc/{child}/comm").read_text() == "churn\n"
        with Attached(child, "-d", "0", "-o", capture) as trace:
            time.sleep(0.5)
            trace.end()
        is_complete(capture)
        # What the program says of its own end, if it should have come to one.
        assert workload.running, workload.finish()
        assert not probes_of(child)
        code, rest = workload.finish()
        assert code == 0 and rest.startswith("ok"), rest


# -- terminals and pipes -----------------------------------------------------------------------------------------------


def on_a_terminal(arguments: list[str]) -> tuple[subprocess.Popen, int]:
    """The process, whose controlling terminal is a new one, and the other side of that terminal."""
    ours, theirs = pty.openpty()

    def control() -> None:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=control)
    os.close(theirs)
    return process, ours


def test_the_terminal_goes_away(churn: Workload, tmp_path: Path) -> None:
    """The kernel sends SIGHUP and every later write fails: the trace ends as with Ctrl-C, with all outputs."""
    capture, page = tmp_path / "x.gotrace", tmp_path / "x.html"
    process, terminal = on_a_terminal(command("attach", churn.pid, "-d", "0", "-o", capture, "-o", page))
    said = b""
    while b"intervals/s" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert process.wait(60) == 0
    is_complete(capture)
    assert page.stat().st_size > 1000


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_no_file_of_ours_gets_the_number_of_a_closed_stream(closed: tuple[int, ...], churn: Workload, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("attach", churn.pid, "-d", "1s", "-o", tmp_path / "x.gotrace"),
        preexec_fn=lambda: [os.close(fd) for fd in closed], start_new_session=True,
    )
    seen = set()
    while process.poll() is None:
        for fd in closed:
            with suppress(FileNotFoundError):
                seen.add(os.readlink(f"/proc/{process.pid}/fd/{fd}"))
        time.sleep(0.01)
    assert process.returncode == 0 and "/dev/null" in seen
    assert not [path for path in seen if "bpf" in path or "anon_inode" in path or ".gotrace" in path], seen


@pytest.mark.complete("<&- >&- 2>&-", ">&-")
@pytest.mark.parametrize("closed", ["<&-", "2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(churn: Workload, tmp_path: Path, closed: str) -> None:
    capture = tmp_path / "x.gotrace"
    script = " ".join(map(str, command("attach", churn.pid, "-d", "300ms", "-o", capture))) + " " + closed
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr
    is_complete(capture)


@pytest.mark.parametrize("device", ["/dev/full"])
def test_a_full_device_for_output(churn: Workload, tmp_path: Path, device: str) -> None:
    """What goes to the terminal can't be written: the capture is there all the same, and the exit code tells."""
    capture = tmp_path / "x.gotrace"
    with open(device, "w") as full:
        result = subprocess.run(
            command("attach", churn.pid, "-d", "300ms", "--json", "-o", capture), stdout=full, stderr=subprocess.PIPE, text=True, timeout=180
        )
    assert result.returncode == 1 and "No space left" in result.stderr and "internal error" not in result.stderr, result.stderr
    is_complete(capture)


@pytest.fixture
def full_folder(tmp_path: Path) -> Iterator[Path]:
    """A file system without a free block."""
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
    try:
        with suppress(OSError), open(folder / "filling", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_from_the_start(churn: Workload, tmp_path: Path, full_folder: Path) -> None:
    """No half of a file stays, and an output elsewhere is there in any case."""
    result = run(["attach", churn.pid, "-d", "200ms", "-o", full_folder / "x.gotrace"])
    one_line(result, "x.gotrace can't be written", "free some space", code=1)
    capture = tmp_path / "x.gotrace"
    result = run(["attach", churn.pid, "-d", "200ms", "-q", "--max-overhead", "0", "-o", capture, "-o", full_folder / "x.html"])
    one_line(result, "x.html can't be written: No space left on device", code=1)
    is_complete(capture)
    assert [path.name for path in full_folder.iterdir()] == ["filling"]


def test_whoever_reads_goes_away(churn: Workload, tmp_path: Path) -> None:
    """As with `gotrace attach PID | head`: no traceback, and the capture is there."""
    capture = tmp_path / "x.gotrace"
    arguments = command("attach", churn.pid, "-d", "200ms", "--max-overhead", "0", "-o", capture)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(60) == 1 and "Error" not in said and "error" not in said, said
    is_complete(capture)


# -- neighbours --------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_two_traces_of_one_target(churn: Workload, tmp_path: Path) -> None:
    """Each counts for itself, and the end of one takes nothing from the other."""
    first, second = tmp_path / "1.gotrace", tmp_path / "2.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", first) as one:
        with Attached(churn.pid, "-d", "0", "-o", second) as two:
            time.sleep(0.5)
            one.end()
            time.sleep(0.5)
            two.end()
    is_complete(first)
    is_complete(second)


@pytest.mark.full
def test_one_of_two_traces_is_killed(churn: Workload, tmp_path: Path) -> None:
    """The kernel takes away what was its own; the breakpoints stay for the other, until that ends."""
    capture = tmp_path / "x.gotrace"
    with Attached(churn.pid, "-d", "0", "-o", capture) as one:
        with Attached(churn.pid, "-d", "0", "-o", tmp_path / "killed.gotrace") as two:
            two.process.kill()
            two.process.wait()
        assert probes_of(churn.pid)
        churn.send("p")
        before = int(churn.read_line(20).split()[1])
        time.sleep(0.3)
        churn.send("p")
        assert int(churn.read_line(20).split()[1]) > before
        one.end()
    is_complete(capture)


@pytest.mark.complete
@pytest.mark.full
@pytest.mark.slow
def test_many_processes_of_one_binary(tmp_path: Path) -> None:
    """Probes are in the file, all share it: only the traced ones are hit, and all go on."""
    binary = build("churn", "1.27.3", "stripped")
    capture = tmp_path / "x.gotrace"
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # three pipes to each
    with ExitStack() as stack:
        idle = [stack.enter_context(Workload(build("selftimed", "1.27.3", "stripped"), "-scenarios", "sleep")) for _ in range(NEIGHBOURS)]
        busy = stack.enter_context(Workload(binary))
        with Attached(idle[0].pid, idle[1].pid, busy.pid, "-d", "0", "-o", capture) as trace:
            for workload in idle[:3]:
                workload.send("go")
            for workload in idle[:3]:
                workload.read_json(30)
            assert not probes_of(idle[2].pid)  # while its neighbours are traced
            trace.end()
        profile = read_capture(capture)
        assert profile.complete and {target.pid for target in profile.targets} == {idle[0].pid, idle[1].pid, busy.pid}
        for workload in idle[:2]:
            sleeps = [s for s in profile.stacks if s.pid == workload.pid and any(f.name == "main.sleepOnce" for f in s.frames)]
            assert sum(s.distribution.count for s in sleeps if s.reason == "sleep") == 40
        for workload in idle:
            assert not probes_of(workload.pid) if workload in idle[:5] else workload.running
            assert workload.finish()[0] == 0
        code, rest = busy.finish()
        assert code == 0 and rest.startswith("ok"), rest


@pytest.mark.full
@pytest.mark.slow
def test_many_processes_in_one_trace(tmp_path: Path) -> None:
    """Each target takes some fifty descriptors: more in all than the usual soft limit, which is ours to raise."""
    capture = tmp_path / "x.gotrace"
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with ExitStack() as stack:
        targets = [stack.enter_context(Workload(build("selftimed", "1.27.3", "stripped"), "-scenarios", "sleep")) for _ in range(25)]
        result = run(
            ["attach", *(target.pid for target in targets), "-d", "200ms", "-q", "-o", capture],
            prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most)),
        )
        assert result.returncode == 0, result.stderr
        profile = read_capture(capture)
        assert {target.pid for target in profile.targets} == {target.pid for target in targets}
        assert {stack.pid for stack in profile.stacks} == {target.pid for target in targets}
        assert not probes_of(targets[0].pid) and not probes_of(targets[-1].pid)
        assert all(target.finish()[0] == 0 for target in targets)
