"""`gotrace top` in a real terminal (tmux): sizes, keys, what it leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
import slowline
from attach import probes_of
from gobuild import build
from prerequisites import unavailable
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]
PROMPT = "the-shell-is-back"


class Terminal:
    """A tmux session of its own, in which a shell runs a command and then says how it ended."""

    def __init__(self, folder: Path, command: str, width: int, height: int) -> None:
        self.folder = folder
        self._tmux = ("tmux", "-S", str(folder / "tmux"), "-f", "/dev/null")
        line = f"cd {folder}; {command}; echo {PROMPT} $?; stty -a > {folder}/stty; sleep 600"
        self._run("new-session", "-d", "-x", str(width), "-y", str(height), line)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def keys(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def text(self, *flags: str) -> str:
        return self._run("capture-pane", "-p", *flags)

    def alternate(self) -> bool:
        """Whether it is in the screen of a full-screen program."""
        return self._run("display-message", "-p", "#{alternate_on}").strip() == "1"

    def until(self, what: Callable[[str], bool], *flags: str) -> str:
        deadline = time.monotonic() + 40
        while not what(text := self.text(*flags)):
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        return text

    def device(self) -> IO[bytes]:
        """The terminal itself."""
        return open(self._run("display-message", "-p", "#{pane_tty}").strip(), "rb", buffering=0)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def service() -> Iterator[Workload]:
    if shutil.which("tmux") is None:
        unavailable("needs tmux (remedy: apt-get install tmux)")
    with Workload(build("service", "1.27.3", "stripped"), "-stdin-ends") as workload:
        yield workload


@pytest.fixture
def terminal(service, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened = []

    def start(width: int = 80, height: int = 24, environment: str = "", through: str = "") -> Terminal:
        paths = os.pathsep.join(filter(None, sys.path))
        command = f"env PYTHONPATH={paths} COLUMNS=70 LINES=20 {environment} {through} {sys.executable} -m gotrace top {service.pid}"
        opened.append(Terminal(tmp_path, command, width, height))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def is_there(text: str) -> bool:
    return "[places]" in text and "total*" in text and "main." in text


def ended(text: str) -> bool:
    return PROMPT in text


@pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids=["small", "large"])
def test_sizes_and_keys(terminal, service, size: tuple[int, int]) -> None:
    screen = terminal(*size)
    lines = screen.until(lambda text: is_there(text) and ("trend" in text) == (size[0] == 200)).splitlines()
    assert f"service (pid {service.pid})" in lines[0] and len(lines) == size[1] and screen.alternate()
    screen.keys("Down", "Enter")
    screen.until(lambda text: "waits, " in text and "#" in text)
    screen.keys("Enter", "Tab")
    screen.until(lambda text: "[requests]" in text and "ServeHTTP" in text)
    screen.keys("Tab")
    screen.until(lambda text: "[threads]" in text and "wait for work" in text)
    screen.keys("d")
    screen.until(lambda text: "[goroutines]" in text and "main.(*loadGenerator)" in text)
    screen.keys("q")
    assert f"{PROMPT} 0" in screen.until(ended) and not screen.alternate()
    assert not probes_of(service.pid)


def test_a_terminal_that_changes_its_size(terminal) -> None:
    screen = terminal(80, 24)
    screen.until(is_there)
    screen.resize(160, 40)
    lines = screen.until(lambda text: "trend" in text).splitlines()
    assert len(lines) == 40
    screen.resize(60, 12)
    lines = screen.until(lambda text: is_there(text) and "trend" not in text and "share" not in text).splitlines()
    assert len(lines) == 12 and max(map(len, lines)) <= 60


def test_over_a_slow_line(terminal, service) -> None:
    """What the terminal answers comes 400 ms after it was asked, and is no key; nor do keys come too late to count."""
    screen = terminal(through=f"{sys.executable} {slowline.__file__} 200")
    screen.until(is_there)
    time.sleep(1)
    assert is_there(text := screen.text()) and "/ search" in text and "[places]" in text
    screen.keys("/", "s", "y", "n", "c", "Enter")
    screen.until(lambda text: "sync." in text and "/sync" in text)
    screen.keys("Tab", "Tab")
    screen.until(lambda text: "[threads]" in text)
    screen.keys("q")
    assert f"{PROMPT} 0" in screen.until(ended) and not screen.alternate()
    assert not probes_of(service.pid)


def test_without_colour(terminal) -> None:
    screen = terminal(environment="NO_COLOR=1")
    text = screen.until(is_there, "-e")
    colours = {code for code in ("\x1b[3", "\x1b[4") for number in range(1, 8) if f"{code}{number}m" in text}
    assert not colours and "38;5" not in text and "38;2" not in text


def test_a_capture_is_written(terminal, gotrace) -> None:
    screen = terminal()
    screen.until(is_there)
    screen.keys("f")
    screen.until(lambda text: "wrote gotrace-service-" in text)
    capture, = screen.folder.glob("gotrace-service-*.gotrace")
    assert list(screen.folder.glob("gotrace-service-*.html"))
    done = gotrace("report", capture)
    assert done.returncode == 0 and "main.(*loadGenerator)" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_normally(terminal, service, number: int) -> None:
    screen = terminal()
    screen.until(is_there)
    os.kill(pid_of(service), number)
    assert f"{PROMPT} 0" in screen.until(ended) and not screen.alternate()
    assert not probes_of(service.pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed(terminal, service, number: int) -> None:
    """Nothing of it stays in the process, and the terminal is as it was."""
    screen = terminal()
    screen.until(is_there)
    guards = guards_of(pid := pid_of(service))
    assert len(guards) == 1
    os.kill(pid, number)
    deadline = time.monotonic() + 20
    while probes_of(service.pid) or screen.alternate() or any(map(os.path.exists, guards)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert screen._run("display-message", "-p", "#{cursor_flag}").strip() == "1"
    settings = subprocess.run(["stty", "-a"], stdin=screen.device(), capture_output=True, text=True, timeout=10).stdout.split()
    assert {"icanon", "echo", "isig", "icrnl", "opost"} <= set(settings), settings


def test_the_process_ends(tmp_path: Path) -> None:
    with Workload(build("parked", "1.27.3", "stripped"), "-goroutines", "50") as workload:
        paths = os.pathsep.join(filter(None, sys.path))
        command = f"env PYTHONPATH={paths} {sys.executable} -m gotrace top {workload.pid} --idle"
        screen = Terminal(tmp_path, command, 80, 24)
        try:
            screen.until(is_there)
            workload.close()
            assert f"{PROMPT} 0" in screen.until(ended) and not screen.alternate()
        finally:
            screen.close()


def test_without_a_terminal(service, gotrace) -> None:
    done = gotrace("top", service.pid, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "needs a terminal" in done.stderr and "--batch, or --once --json" in done.stderr


def guards_of(pid: int) -> list[str]:
    """The shells that it has started, as folders of /proc."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [f"/proc/{child}" for child in children if Path(f"/proc/{child}/comm").read_text().strip() == "sh"]


def pid_of(service: Workload) -> int:
    """The `gotrace top` of that process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:4] == [b"-m", b"gotrace", b"top"] and words[4] == str(service.pid).encode():
            return int(path.parent.name)
    raise AssertionError("it does not run")
