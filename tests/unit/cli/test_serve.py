"""What gotrace serve refuses before it begins."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from gotrace.cli.parameters import SIZE
from gotrace.cli.serve import serve
from gotrace.common.errors import EXIT_REFUSED, EXIT_USAGE, GotraceError, UsageError


@pytest.mark.parametrize(("text", "size"), [("500kB", 500 << 10), ("32MB", 32 << 20), ("1.5GiB", 3 << 29), ("7", 7)])
def test_sizes(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1PB", "1e9", "1" + "0" * 400])
def test_no_sizes(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize("flags", [
    ["--after", "2m"], ["--after", "61s", "--trigger", "losses > 0"], ["--after", "20s", "--keep", "10s"],
])
def test_a_capture_reaches_back_to_its_trigger(flags: list[str]) -> None:
    with pytest.raises(UsageError, match="would not have what led to the trigger"):
        serve.main(["1", *flags], standalone_mode=False)


def test_with_triggers_a_minute_is_kept() -> None:
    """The address is wrong, which is found after what is right."""
    with pytest.raises(GotraceError, match="is no address"):
        serve.main(["1", "--after", "20s", "--keep", "10s", "--trigger", "losses > 0", "--listen", "x"], standalone_mode=False)


@pytest.mark.parametrize(("flags", "said"), [
    (["--push-every", "10s"], "error: --push-every and --push-bytes are for --push, and nothing is pushed"),
    (["--push", "otlp=http://u:hush@localhost"], "error: --push otlp: the address has a password, which ps shows to everyone"),
    (["--push", "directory=x", "--push-every", "50s"], "error: --push-every is more than four fifths of --keep"),
])
def test_what_is_pushed_makes_sense(flags: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "gotrace", "serve", str(os.getpid()), *flags], capture_output=True, text=True)
    first, hint = done.stderr.splitlines()
    assert done.returncode == EXIT_USAGE and first.startswith(said) and hint.startswith("hint: --push") and "hush" not in done.stderr


def gone() -> int:
    """The pid of a process that has just ended."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_pids_of_nothing_are_refused() -> None:
    pid = gone()
    done = subprocess.run([sys.executable, "-m", "gotrace", "serve", str(pid)], capture_output=True, text=True)
    assert done.returncode == EXIT_REFUSED and done.stderr.startswith(f"error: there is no process {pid}\nhint: ")
    with pytest.raises(GotraceError, match="no process with one of these 2 pids"):
        serve.main([str(pid), str(pid)], standalone_mode=False)


def test_a_pid_of_nothing_is_left_out(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pid, given = gone(), []
    monkeypatch.setattr("gotrace.kernel.host.preflight", lambda: None)
    monkeypatch.setattr("gotrace.serve.serving.serve", lambda options, *_others: given.append(options.wanted.pids) or True)
    serve.main([str(pid), str(os.getpid())], standalone_mode=False)
    assert given == [(os.getpid(),)] and capfd.readouterr().err == f"note: there is no process {pid}: it is left out\n"
