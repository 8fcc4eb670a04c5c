"""Bad input gets one line and a hint, with the exit code of the contract; nothing is attached."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attach import Attached, probes_of
from gobuild import build
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


@pytest.fixture(scope="module")
def target():
    with Workload(build("selftimed", "1.27.3", "stripped")) as workload:
        yield workload


def refused(result: subprocess.CompletedProcess[str], code: int, text: str, hint: str = "") -> None:
    assert result.returncode == code, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ") and text in lines[0], result.stderr
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:]), result.stderr
    assert hint in result.stderr
    assert result.stdout == ""


def test_no_such_process(gotrace) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    refused(gotrace("attach", child.pid), 1, f"there is no process {child.pid}")


def test_a_kernel_thread(gotrace) -> None:
    for name in os.listdir("/proc"):
        if name.isdigit() and (Path("/proc", name, "comm").read_text() if name != str(os.getpid()) else "") == "kthreadd\n":
            refused(gotrace("attach", name), 3, "kernel thread")
            return
    pytest.fail("no kernel thread is visible here")


def test_a_zombie(gotrace) -> None:
    child = subprocess.Popen(["true"])
    time.sleep(0.3)
    refused(gotrace("attach", child.pid), 3, "zombie")
    child.wait()


def test_not_a_go_binary(gotrace) -> None:
    with subprocess.Popen(["sleep", "30"]) as child:
        refused(gotrace("attach", child.pid), 3, "not a Go binary")
        child.kill()


def test_a_thread_of_a_process(gotrace, target: Workload) -> None:
    threads = [int(name) for name in os.listdir(f"/proc/{target.pid}/task")]
    other = next(thread for thread in threads if thread != target.pid)
    refused(gotrace("attach", other), 3, f"thread of process {target.pid}", f"gotrace attach {target.pid}")


def test_not_ours_without_root(target: Workload) -> None:
    # Everything is imported before root is given up: another user may not be able to read this checkout.
    code = (
        "import os, sys, bcc, rich.console, gotrace.run.session, gotrace.render.summary, gotrace.render.progress;"
        "from gotrace.cli import run, verbs;"
        f"os.setgid(65534); os.setuid(65534); sys.exit(run(['attach', '{target.pid}']))"
    )
    refused(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True), 3, "privileges", "sudo gotrace")


def test_another_architecture(gotrace, tmp_path: Path) -> None:
    data = bytearray(build("selftimed", "1.27.3", "stripped").read_bytes())
    struct.pack_into("<H", data, 18, 183)
    (tmp_path / "arm").write_bytes(data)
    refused(gotrace("probes", tmp_path / "arm"), 3, "arm64")


@pytest.mark.parametrize("size", [0, 40, 64, 5000, 300_000])
def test_a_truncated_executable(gotrace, tmp_path: Path, size: int) -> None:
    (tmp_path / "cut").write_bytes(build("selftimed", "1.27.3", "stripped").read_bytes()[:size])
    refused(gotrace("probes", tmp_path / "cut"), 3, "cut")


def test_a_folder_or_a_pipe_is_no_binary(gotrace, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(gotrace("probes", tmp_path / "pipe"), 3, "regular file")
    refused(gotrace("probes", tmp_path), 3, "regular file")
    refused(gotrace("probes", tmp_path / "absent"), 1, "No such file")


def test_an_unsupported_go_version(gotrace, tmp_path: Path) -> None:
    data = build("selftimed", "1.19", "stripped").read_bytes()
    (tmp_path / "old").write_bytes(data.replace(b"go1.19", b"go1.18"))
    refused(gotrace("probes", tmp_path / "old"), 3, "go1.18", "Go 1.19 and later")


def test_an_existing_output(gotrace, target: Workload, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("mine")
    refused(gotrace("attach", target.pid, "-o", tmp_path / "x.html"), 2, "exists", "--force")
    assert (tmp_path / "x.html").read_text() == "mine"


def test_an_unwritable_or_missing_folder(gotrace, target: Workload, tmp_path: Path) -> None:
    refused(gotrace("attach", target.pid, "-o", tmp_path / "absent" / "x.html"), 1, "no folder", "mkdir")
    refused(gotrace("attach", target.pid, "-o", "/proc/x.html"), 1, "can't be written")


def test_usage(gotrace, target: Workload, tmp_path: Path) -> None:
    for arguments in (
        ["attach"], ["attach", "x"], ["attach", "1", "-d", "1 fortnight"], ["attach", "1", "--no-such-flag"], ["fly"],
        ["attach", "0"], ["attach", target.pid, "-o", tmp_path / "x.xyz"], ["attach", target.pid, "--match", "("],
        ["attach", target.pid, "--reason", "boredom"], ["attach", target.pid, "--json", "-o", "-"],
        ["attach", target.pid, target.pid],
    ):
        refused(gotrace(*arguments), 2, "")


@pytest.mark.full
def test_a_process_that_exits_while_we_plan(tmp_path: Path) -> None:
    """Whenever the target goes, the answer is one line or a finished trace, never a traceback."""
    binary = build("selftimed", "1.27.3", "stripped")
    for delay in (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95):
        with Workload(binary) as workload:
            process = subprocess.Popen(
                [sys.executable, "-m", "gotrace", "attach", str(workload.pid), "-d", "5s", "-q", "-o", tmp_path / f"{delay}.gotrace"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            time.sleep(delay)
            workload.finish()
            _, errors = process.communicate(timeout=30)
            assert process.returncode in (0, 1, 3), errors
            assert "Traceback" not in errors and "internal error" not in errors, errors
            assert len(errors.splitlines()) <= 2, errors


@pytest.mark.full
def test_a_full_disk(target: Workload, tmp_path: Path) -> None:
    """The capture's file system fills up: one line, exit code 1, what was committed stays valid."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "none", folder], check=True)
    try:
        with Workload(build("churn", "1.27.3", "stripped")) as churn:
            with Attached(churn.pid, "-d", "0", "--per-goroutine", "-o", folder / "x.gotrace") as trace:
                _, errors = trace.process.communicate(timeout=240)  # what was found in memory is still told
                assert trace.process.returncode == 1, errors
                assert "can't be written" in errors and "Traceback" not in errors, errors
            assert not probes_of(churn.pid)
            code, rest = churn.finish()
            assert code == 0 and rest.startswith("ok"), rest
    finally:
        subprocess.run(["umount", folder], check=True)


def test_outputs_do_not_follow_symlinks(gotrace, target: Workload, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("x.gotrace", "x.folded"):
        (tmp_path / name).symlink_to(precious)
    outputs = ["-o", tmp_path / "x.gotrace", "-o", tmp_path / "x.folded"]
    refused(gotrace("attach", target.pid, "-d", "100ms", *outputs), 2, "exists")
    assert gotrace("attach", target.pid, "-d", "100ms", "-q", "--force", *outputs).returncode == 0
    assert precious.read_text() == "mine"
    assert not (tmp_path / "x.folded").is_symlink() and not (tmp_path / "x.gotrace").is_symlink()


def test_outputs_belong_to_the_user_behind_sudo(gotrace, target: Workload, tmp_path: Path) -> None:
    environment = os.environ | {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    mine = tmp_path / "mine"
    mine.mkdir()
    os.chown(mine, 65534, 65534)
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001:
            os.chmod(parent, parent.stat().st_mode | 0o011)
    result = gotrace(
        "attach", target.pid, "-d", "100ms", "-q", "-o", mine / "x.gotrace", "-o", mine / "x.html", env=environment
    )
    assert result.returncode == 0, result.stderr
    assert {path.name: path.stat().st_uid for path in mine.iterdir()} == {"x.gotrace": 65534, "x.html": 65534}
    # A link into a folder of root's: the user could not write there, so neither do we on the user's behalf.
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (mine / "way").symlink_to(closed)
    result = gotrace("attach", target.pid, "-d", "100ms", "-q", "-o", mine / "way" / "y.html", env=environment)
    assert not list(closed.iterdir()) or closed.stat().st_uid == 0
