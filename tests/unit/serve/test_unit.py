"""The unit of systemd, and what scripts/install --service makes of it; what is told to systemd."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from prerequisites import unavailable

from gotrace.serve.notify import Notify

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
ARGUMENTS = ["--name", "^(a|b)$%\\\"", "--trigger", "max(reason~'chan & receive') > 500ms"]


def unit(*arguments: str) -> str:
    return subprocess.run([ROOT / "scripts/install", "--print-unit", *arguments], capture_output=True, text=True, check=True).stdout


def test_arguments_are_quoted() -> None:
    line, = re.findall(r"^ExecStart=(.*)$", unit(*ARGUMENTS), re.MULTILINE)
    assert line.startswith("/usr/local/bin/gotrace serve --dir /var/lib/gotrace ") and "@" not in line
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    found = [re.sub(r"\\(.)", r"\1", text).replace("%%", "%").replace("$$", "$") for text in words]
    assert found == ARGUMENTS


def test_systemd_takes_it(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        unavailable("needs systemd-analyze (remedy: apt-get install systemd)")
    path = tmp_path / "gotrace.service"
    path.write_text(re.sub(r"^Documentation=.*\n", "", unit(*ARGUMENTS), flags=re.MULTILINE).replace("/usr/local/bin/gotrace", "/bin/true"))
    done = subprocess.run([analyze, "verify", path], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and "gotrace.service" not in done.stderr, done.stderr
    done = subprocess.run([analyze, "security", "--offline=true", path], capture_output=True, text=True, timeout=180)
    level = re.search(r"exposure level for gotrace.service: ([\d.]+)", done.stdout)
    assert level is not None and float(level[1]) < 6, done.stdout[-300:]


def test_a_socket_may_be_where_the_documentation_says() -> None:
    """Below a ProtectSystem=strict only what the unit names can be written."""
    text = unit(*ARGUMENTS)
    path = re.search(r"--listen\s+unix:(/run/gotrace/\S+)`", (ROOT / "docs/serve.md").read_text())
    assert path is not None and "ProtectSystem=strict" in text
    assert re.findall(r"^RuntimeDirectory=(.*)$", text, re.MULTILINE) == [Path(path[1]).parent.name]


def test_what_is_told_to_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        notify = Notify()
        assert notify.every_s == 15
        notify.ready("it works")
        notify.alive("it works")
        notify.stopping()
        assert [sock.recv(1000) for _ in range(3)] == [b"READY=1\nSTATUS=it works", b"WATCHDOG=1\nSTATUS=it works", b"STOPPING=1"]
        for _ in range(100):  # more than the socket takes
            notify.alive("nobody reads it")
    notify.alive("nobody can read it")
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notify().ready("nobody asked")
