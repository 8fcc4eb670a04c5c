"""A mount that does not answer blocks those of the target's goroutines that ask it, never gotrace; Ctrl-C ends that within a second."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gobuild import ROOT, build
from prerequisites import unavailable

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

PROMPT_S = 3.0
"""A second by gotrace's own account, and what a busy machine adds."""


class HungMount:
    """A folder `path` in a mount namespace of its own, on a file system whose daemon can be stopped. Leaving ends whatever is there."""

    def __init__(self, folder: Path) -> None:
        for tool in ("bindfs", "unshare", "nsenter"):
            if shutil.which(tool) is None:
                unavailable(f"needs {tool} (remedy: sudo ./scripts/test)")
        self.below, self.path, self.folder = folder / "below", folder / "mount", folder
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> HungMount:
        self.below.mkdir()
        self.path.mkdir()
        os.truncate(os.open(self.below / "file", os.O_CREAT | os.O_WRONLY, 0o644), 1 << 31)
        self._daemon = subprocess.Popen(
            ["unshare", "-m", "bindfs", "-f", "-o", "attr_timeout=0,entry_timeout=0", self.below, self.path],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 10
        while str(self.path) not in Path(f"/proc/{self._daemon.pid}/mounts").read_text():
            if self._daemon.poll() is not None:
                unavailable(f"bindfs ended: {self._daemon.stderr.read().decode()[-300:]} (remedy: a kernel with FUSE)")
            assert time.monotonic() < deadline, "bindfs does not mount"
            time.sleep(0.05)
        return self

    def __exit__(self, *_error: object) -> None:
        self.answer()
        for process in self._processes:
            process.kill()
        self._daemon.kill()  # with it goes the connection: whoever waits gets ENOTCONN; with the last process the mount
        self._daemon.wait()
        self._daemon.stderr.close()
        for process in self._processes:
            process.wait(20)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def run(self, *command: object, **options: object) -> subprocess.Popen:
        """Starts a command inside."""
        process = subprocess.Popen(
            ["nsenter", f"--mount=/proc/{self._daemon.pid}/ns/mnt", *map(str, command)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options,
        )
        self._processes.append(process)
        return process

    def gotrace(self, *arguments: object) -> subprocess.Popen:
        return self.run(sys.executable, "-m", "gotrace", *arguments)

    def program(self, *command: object) -> subprocess.Popen:
        process = self.run(*command)
        assert process.stdout.readline().startswith("ready"), process.stderr.read()
        return process

    def hang(self) -> None:
        os.kill(self._daemon.pid, signal.SIGSTOP)

    def answer(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._daemon.pid, signal.SIGCONT)


@pytest.fixture
def mount() -> Iterator[HungMount]:
    with tempfile.TemporaryDirectory(prefix="hung") as folder, HungMount(Path(folder)) as mount:  # a path that fits in one line
        yield mount


def blocked_reader(mount: HungMount, version: str = "1.27.3") -> subprocess.Popen:
    """A program whose goroutines have been blocked on the mount for a while."""
    os.mkfifo(mount.folder / "fifo")
    program = mount.program(build("hungfiles", version, "plain"), mount.path, mount.folder / "fifo")
    mount.hang()
    time.sleep(1.5)
    return program


def interrupted(process: subprocess.Popen, number: int = signal.SIGINT) -> tuple[float, str]:
    """How long it took to end after the signal, s, and what it said."""
    since = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    return time.monotonic() - since, said


def rows_of(profile: dict, function: str) -> list[dict]:
    return [stack for stack in profile["stacks"] if any(frame["name"] == function for frame in stack["frames"])]


@pytest.mark.parametrize("version", ["1.21.13", "1.27.3"])
def test_calls_that_were_blocked_before_the_trace_are_whole_and_named(mount: HungMount, version: str) -> None:
    program = blocked_reader(mount, version)
    out, said = mount.gotrace("attach", "-d", "2", "-q", "-o", mount.folder / "x.json", program.pid).communicate(timeout=180)
    profile = json.loads((mount.folder / "x.json").read_text())
    window = profile["window"]["duration_ns"]
    assert window < 6e9, said  # opening and closing it has waited for nobody
    for function, reason, what in (
        ("main.reads", "pread64", str(mount.path / "file")), ("main.readsFIFO", "read", f"fifo {mount.folder / 'fifo'}"),
    ):
        blocked = [row for row in rows_of(profile, function) if row["state"] == "syscall"]
        assert [(row["reason"], row["count"]) for row in blocked] == [(reason, 1)], (function, blocked)
        assert blocked[0]["total_ns"] > 0.9 * window
        assert what in json.dumps(blocked[0], ensure_ascii=False)
    [folder] = [row for row in rows_of(profile, "main.lists") if row["state"] == "syscall"]
    assert folder["total_ns"] > 0.9 * window  # in open or getdents, whichever it was
    # 100 sleeps; half of them on a machine that is busy with other things
    assert sum(row["count"] for row in rows_of(profile, "main.sleeps") if row["reason"] == "sleep") > 50


def test_a_dump_names_what_hangs(mount: HungMount) -> None:
    program = blocked_reader(mount)
    out, said = mount.gotrace("dump", program.pid, "--json").communicate(timeout=30)
    assert str(mount.path / "file") in out, said


@pytest.mark.parametrize("verb", ["attach", "dump", "probes"])
def test_an_executable_that_can_not_be_read_is_refused(mount: HungMount, verb: str) -> None:
    shutil.copy(build("hungfiles", "1.27.3", "stripped"), mount.below / "prog")
    program = mount.program(mount.path / "prog")
    mount.hang()
    process = mount.gotrace(verb, program.pid)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 3, said
    assert f"{mount.path}/prog can't be read" in said, said.replace(str(mount.folder), "D")
    assert f"the mount {mount.path} (fuse" in said and "hint: " in said, said.replace(str(mount.folder), "D")


@pytest.mark.full
def test_a_list_of_processes_does_not_wait_for_it(mount: HungMount) -> None:
    for name in ("one", "two"):
        shutil.copy(build("hungfiles", "1.27.3", "stripped"), mount.below / name)
    programs = [mount.program(mount.path / name) for name in ("one", "two")]
    listed, _ = mount.gotrace("ps", "--json").communicate(timeout=30)
    assert {program.pid for program in programs} <= {row["pid"] for row in json.loads(listed)}
    mount.hang()
    listed, said = mount.gotrace("ps", "--json").communicate(timeout=30)
    assert not {program.pid for program in programs} & {row["pid"] for row in json.loads(listed)}
    assert int(said.split("note: ")[1].split()[0]) >= 2 and "may not be examined" in said


def test_an_executable_on_such_a_mount_is_traced_while_it_answers(mount: HungMount) -> None:
    shutil.copy(build("hungfiles", "1.27.3", "stripped"), mount.below / "prog")
    program = mount.program(mount.path / "prog")
    process = mount.gotrace("attach", "-d", "0", "-o", mount.folder / "x.json", program.pid)
    assert process.stderr.readline().startswith("Tracing")
    time.sleep(1)
    mount.hang()
    time.sleep(1)
    took, said = interrupted(process)
    assert process.returncode == 0, said
    assert took < PROMPT_S
    profile = json.loads((mount.folder / "x.json").read_text())
    assert sum(row["count"] for row in rows_of(profile, "main.sleeps")) > 25


def test_ctrl_c_while_the_executable_is_being_read(mount: HungMount) -> None:
    shutil.copy(build("hungfiles", "1.27.3", "stripped"), mount.below / "prog")
    program = mount.program(mount.path / "prog")
    mount.hang()
    process = mount.gotrace("attach", program.pid)
    time.sleep(2.5)
    took, said = interrupted(process)
    assert process.returncode == 130 and took < PROMPT_S, said


# Not a capture that is open when the mount hangs: the kernel lets a process go only when FUSE has answered for its open files.
@pytest.mark.parametrize(("suffix", "hangs"), [(".html", "before"), (".gotrace", "before"), (".html", "during")])
def test_ctrl_c_where_outputs_can_not_be_written(mount: HungMount, suffix: str, hangs: str) -> None:
    program = mount.program(build("hungfiles", "1.27.3", "stripped"))
    if hangs == "before":
        mount.hang()
    process = mount.gotrace("attach", "-d", "0", "-o", mount.path / f"x{suffix}", program.pid)
    if hangs == "during":
        assert process.stderr.readline().startswith("Tracing")
        mount.hang()
    time.sleep(3)
    took, said = interrupted(process)
    assert process.returncode == 130 and took < PROMPT_S, said
    assert "Traceback" not in said and "interrupted" in said
    mount.answer()
    assert program.poll() is None


@pytest.mark.full
def test_ctrl_c_at_any_moment(mount: HungMount) -> None:
    program = blocked_reader(mount)
    chance = random.Random(8)
    for _ in range(8):
        process = mount.gotrace("attach", "-d", "0", "-f", "-o", mount.folder / "x.gotrace", "-o", mount.folder / "x.html", program.pid)
        time.sleep(chance.uniform(0.3, 3))  # the interpreter's own start is not ours
        took, said = interrupted(process, chance.choice((signal.SIGINT, signal.SIGTERM)))
        assert took < PROMPT_S and "Traceback" not in said, said
        assert process.returncode in (0, 130, -signal.SIGINT, -signal.SIGTERM), said
    assert program.poll() is None
