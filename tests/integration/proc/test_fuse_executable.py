"""An executable on a FUSE mount that root may not read: only the user who mounted it may (no allow_other)."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attach import Attached
from gobuild import build_text
from prerequisites import unavailable
from summaries import at, count

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

DAEMON = ("setpriv", "--reuid=1", "--regid=1", "--clear-groups")
SLEEPER = """package main

import "time"

//go:noinline
func sleeper() {
	for {
		time.Sleep(20 * time.Millisecond)
	}
}

func main() {
	sleeper()
}
"""


@pytest.fixture
def program() -> Iterator[int]:
    """The pid of a program that user daemon runs from a mount of its own, in a mount namespace that ends with both."""
    for tool in ("bindfs", "unshare", "nsenter", "setpriv"):
        if shutil.which(tool) is None:
            unavailable(f"needs {tool} (remedy: sudo ./scripts/test)")
    with tempfile.TemporaryDirectory(prefix="fuse") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("below", "mount"):
            (folder / part).mkdir()
            os.chown(folder / part, 1, 1)
        shutil.copy(build_text("sleeper", "sleeper", SLEEPER, "1.27.3", "stripped"), folder / "below" / "prog")
        os.chown(folder / "below" / "prog", 1, 1)
        os.mknod(folder / "fuse", 0o666 | stat.S_IFCHR, os.makedev(10, 229))  # users may not open that of every machine
        os.chmod(folder / "fuse", 0o666)
        script = 'mount --bind "$1/fuse" /dev/fuse && shift && cd / && exec "$@"'
        bindfs = ("bindfs", "-f", "--no-allow-other", folder / "below", folder / "mount")
        daemon = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, "sh", folder, *DAEMON, *bindfs], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        target = None
        try:
            deadline = time.monotonic() + 10
            while str(folder / "mount") not in Path(f"/proc/{daemon.pid}/mounts").read_text():
                if daemon.poll() is not None:
                    unavailable(f"bindfs ended: {daemon.stderr.read().decode()[-300:]} (remedy: a kernel with FUSE, and fusermount)")
                assert time.monotonic() < deadline, "bindfs does not mount"
                time.sleep(0.05)
            target = subprocess.Popen(["nsenter", f"--mount=/proc/{daemon.pid}/ns/mnt", "--wd=/", *DAEMON, folder / "mount" / "prog"])
            while os.readlink(f"/proc/{target.pid}/exe") != str(folder / "mount" / "prog"):
                assert target.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            yield target.pid
        finally:
            for process in filter(None, (target, daemon)):
                process.kill()
                process.wait(20)
            daemon.stderr.close()


@pytest.mark.full
def test_it_is_read_as_the_user_who_may(gotrace, program: int, tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        open(f"/proc/{program}/exe", "rb")
    with Attached(program, "--json", "-d", 1, "-o", tmp_path / "x.gotrace") as trace:
        summary = trace.result_json()
    assert count(at(summary, "main.sleeper", state="waiting")) > 10
    assert summary["target"]["exe"].endswith("/mount/prog")
    sampled = gotrace("attach", program, "-q", "--json", "--mode", "sample", "-d", 1, "-o", tmp_path / "s.gotrace")
    assert sampled.returncode == 0 and at(json.loads(sampled.stdout), "main.sleeper"), sampled.stderr
    assert "main.sleeper" in gotrace("dump", program).stdout
    assert "go1.27.3" in gotrace("probes", program).stdout


def test_who_is_neither_gets_the_true_reason(program: int) -> None:
    code = (
        "import os, sys, gotrace.proc.process as process; process._status = lambda pid: {'Uid': '2', 'Gid': '2'};"
        "from gotrace.cli import run; sys.exit(run(['dump', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(program)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 3
    first, second = done.stderr.splitlines()
    assert "lies on a FUSE mount, " in first and "(no allow_other)" in first and second.startswith("hint: ")
