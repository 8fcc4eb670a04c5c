"""What gotrace finds of its host is what the kernel does: with fewer capabilities, under a seccomp filter, in namespaces.
`doctor` and `attach` tell the same."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from attach import probes_of
from gobuild import build
from restricted import (
    BPF_LINKS,
    NEEDED,
    NOBODY,
    SYS_BPF,
    SYS_PERF_EVENT_OPEN,
    SYS_PROCESS_VM_READV,
    as_user,
    command,
    forbid,
    limit,
    run,
)
from workload import Workload

from gotrace.capture.reader import read_capture

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


@pytest.fixture(scope="module")
def target():
    with Workload(build("churn", "1.27.3", "stripped")) as workload:
        yield workload


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder in which every user may write."""
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in (tmp_path, *tmp_path.parents[:-1]):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return folder


def examined(result: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    """The findings by name; the exit code and the verdict must follow from them."""
    answer = json.loads(result.stdout)
    possible = all(check["ok"] for check in answer["checks"] if check["needed"])
    assert answer["attach_possible"] == possible
    assert result.returncode == (0 if possible else 3), result.stderr
    assert all(check["why"] for check in answer["checks"])
    assert all(check["fix"] for check in answer["checks"] if check["needed"] and not check["ok"])
    return {check["name"]: check for check in answer["checks"]}


def refused(result: subprocess.CompletedProcess[str], *texts: str) -> None:
    """Exit code 3, one line that has `texts`, one hint."""
    assert result.returncode == 3, result.stderr
    assert len(result.stderr.splitlines()) == 2, result.stderr
    assert all(text in result.stderr for text in texts), result.stderr
    assert result.stdout == ""


def test_everything_is_listed_and_nothing_stays(gotrace) -> None:
    checks = examined(gotrace("doctor", "--json"))
    assert checks.keys() >= {
        "linux/amd64", "privileges", "/proc", "bcc", "BPF", "ring buffer", "/sys", "uprobes", "memory of processes", "BPF programs",
        "uprobe self-test", "raw tracepoints", "kernel memory from BPF", "BTF", "kprobes", "kprobe_multi", "fentry", "bpf_loop",
        "uprobe links", "uprobe refcounts", "BPF statistics", "seccomp", "PID namespace", "hidepid", "memlock limit",
        "lockdown", "unprivileged BPF", "perf paranoia", "kernel symbols", "tracefs", "/proc/kcore",
    }


def test_attach_with_three_capabilities(open_folder: Path) -> None:
    """CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, no root: a process of one's own, and one of another user's."""
    checks = examined(run(["doctor", "--json"], as_user()))
    if not checks["uprobe links"]["ok"] and not checks["uprobes"]["ok"]:
        assert "CAP_SYS_ADMIN" in checks["uprobes"]["fix"]
        return
    for uid in (NOBODY, 1000):
        binary = build("churn", "1.27.3", "stripped")
        with Workload("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", str(binary)) as workload:
            capture = open_folder / f"{uid}.gotrace"
            result = run(["attach", workload.pid, "-d", "500ms", "-q", "-o", capture], as_user())
            assert result.returncode == 0, result.stderr
            assert not probes_of(workload.pid)
            assert capture.stat().st_uid == NOBODY
            stacks = read_capture(capture).stacks
            # Goroutines of all threads: a probe that saw one thread would miss most of them.
            assert sum(s.distribution.count for s in stacks if any(f.name.startswith("main.") for f in s.frames)) > 100
            code, rest = workload.finish()
            assert code == 0 and rest.startswith("ok"), rest


@pytest.mark.parametrize(
    ("missing", "capabilities"),
    [("CAP_BPF", "+perfmon,+sys_ptrace"), ("CAP_PERFMON", "+bpf,+sys_ptrace"), ("CAP_SYS_PTRACE", "+bpf,+perfmon"), ("CAP_BPF", "")],
)
def test_a_capability_is_missing(target: Workload, missing: str, capabilities: str) -> None:
    checks = examined(run(["doctor", "--json"], as_user(capabilities)))
    assert not checks["privileges"]["ok"] and missing in checks["privileges"]["why"]
    refused(run(["attach", target.pid], as_user(capabilities)), missing, "sudo gotrace")


def test_doctor_prints_how_to_give_just_these(gotrace) -> None:
    answer = json.loads(gotrace("doctor", "--json").stdout)["without_root"]
    assert answer["tried"] and set(answer["capabilities"]) >= {"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"}
    assert NEEDED in answer["recipes"]["setpriv"] and "--cap-add=PERFMON" in answer["recipes"]["docker"]
    text = gotrace("doctor").stdout
    assert all(recipe in text for recipe in answer["recipes"].values())


def test_the_capabilities_of_a_file_are_enough(tmp_path: Path) -> None:
    """The setcap line, on an interpreter of its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", tmp_path / "venv"], check=True)
    packages, = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "paths.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    interpreter = tmp_path / "venv" / "bin" / "python-for-gotrace"
    interpreter.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes())
    interpreter.chmod(0o755)
    for parent in tmp_path.parents[:-1]:
        parent.chmod(parent.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    subprocess.run(["setcap", "cap_bpf,cap_perfmon,cap_sys_ptrace=ep", interpreter], check=True)
    arguments = [interpreter, *command("doctor", "--json")[1:]]
    result = subprocess.run(
        [*as_user(""), *arguments], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    checks = examined(result)
    assert checks["privileges"]["ok"] and f"uid {NOBODY}" in checks["privileges"]["why"]


@pytest.mark.parametrize(
    ("call", "name", "error"),
    [
        (SYS_BPF, "BPF", errno.EPERM), (SYS_BPF, "BPF", errno.ENOSYS),
        (SYS_PROCESS_VM_READV, "memory of processes", errno.EPERM),
    ],
)
def test_a_seccomp_filter(target: Workload, call: int, name: str, error: int) -> None:
    checks = examined(run(["doctor", "--json"], prepare=forbid(call, error=error)))
    assert not checks[name]["ok"] and "seccomp" in checks[name]["fix"]
    assert "a filter is on" in checks["seccomp"]["why"]
    refused(run(["attach", target.pid], prepare=forbid(call, error=error)), name, os.strerror(error))
    assert not probes_of(target.pid)


def test_perf_event_open_is_forbidden(target: Workload, tmp_path: Path) -> None:
    """By a container's filter: links do it where the kernel has them, else it is said."""
    checks = examined(run(["doctor", "--json"], prepare=forbid(SYS_PERF_EVENT_OPEN)))
    result = run(["attach", target.pid, "-d", "200ms", "-q", "-o", tmp_path / "x.gotrace"], prepare=forbid(SYS_PERF_EVENT_OPEN))
    assert checks["uprobes"]["ok"] == checks["uprobe links"]["ok"]
    if checks["uprobe links"]["ok"]:
        assert "takes BPF links" in checks["uprobes"]["why"]
        assert result.returncode == 0, result.stderr
        assert read_capture(tmp_path / "x.gotrace").stacks
    else:
        refused(result, "uprobes", "EPERM")
    assert not probes_of(target.pid)


@pytest.mark.full
def test_inside_a_pid_namespace(tmp_path: Path) -> None:
    """As in a container: the process's numbers are the namespace's own, the kernel's are others."""
    binary = build("churn", "1.27.3", "stripped")
    trace = " ".join(map(str, command("attach", "$PID", "-d", "500ms", "-q", "-o", tmp_path / "x.gotrace")))
    script = f"""sleep 100 | {binary} > /dev/null & sleep 1; PID=$(pgrep -x churn); echo pid $PID
{trace} || exit 9
{' '.join(command('doctor', '--json'))}; code=$?; kill -0 $PID || exit 8; exit $code"""
    result = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script], capture_output=True, text=True, timeout=100
    )
    said, _, rest = result.stdout.partition("\n")
    assert result.returncode == 0, result.stderr
    assert int(said.removeprefix("pid ")) < 100  # the kernel's own number is another
    assert sum(stack.distribution.count for stack in read_capture(tmp_path / "x.gotrace").stacks) > 100
    findings = examined(subprocess.CompletedProcess([], result.returncode, rest, result.stderr))
    assert "not the first" in findings["PID namespace"]["why"] and "--pid=host" in findings["PID namespace"]["fix"]


def test_a_foreign_proc(target: Workload) -> None:
    """A new PID namespace with the old /proc: its numbers are other processes'."""
    namespace = ["unshare", "--pid", "--fork", "--kill-child"]
    assert "PID namespace" in examined(run(["doctor", "--json"], namespace))["/proc"]["why"]
    refused(run(["attach", target.pid], namespace), "/proc: it belongs to another PID namespace", "mount -t proc")


@pytest.mark.full
def test_hidden_processes(target: Workload) -> None:
    """hidepid does not hide them from CAP_SYS_PTRACE, and the doctor says so; without, it says what is hidden."""
    script = "mount -t proc -o hidepid=2 proc /proc && exec "
    hidden = ["unshare", "--mount", "sh", "-c", script + '"$@"', "sh"]
    assert examined(run(["doctor", "--json"], hidden))["hidepid"]["ok"]
    assert run(["attach", target.pid, "--dry-run"], hidden).returncode == 0
    check = examined(run(["doctor", "--json"], [*hidden, *as_user("")]))["hidepid"]
    assert not check["ok"] and "hidepid=" in check["why"] and "CAP_SYS_PTRACE" in check["fix"]


def test_hidden_kernel_addresses() -> None:
    """Without CAP_SYSLOG /proc/kallsyms may show zeros: said, not needed."""
    check = examined(run(["doctor", "--json"], as_user()))["kernel symbols"]
    shown = subprocess.run([*as_user(), "head", "-n", "50", "/proc/kallsyms"], capture_output=True, text=True, check=True).stdout
    assert check["ok"] == any(int(line.split()[0], 16) for line in shown.splitlines())
    assert check["ok"] or "CAP_SYSLOG" in check["fix"]


def test_no_sysfs(target: Workload) -> None:
    """Without /sys neither the slots of per-CPU maps nor the number of uprobe events, needed where links don't do it, are known."""
    bare = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys && exec "$@"', "sh"]
    checks = examined(run(["doctor", "--json"], bare))
    assert not checks["/sys"]["ok"] and "mount -t sysfs" in checks["/sys"]["fix"]
    refused(run(["attach", target.pid], bare), "/sys", "mount -t sysfs")
    checks = examined(run(["doctor", "--json"], bare, prepare=forbid(BPF_LINKS)))
    assert not checks["uprobes"]["ok"] and "/sys" in checks["uprobes"]["why"]


@pytest.mark.full
def test_no_btf(target: Workload, tmp_path: Path) -> None:
    """A kernel that does not describe its types: the doctor says what is lost, and a trace goes on without."""
    bare = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/kernel && exec "$@"', "sh"]
    check = examined(run(["doctor", "--json"], bare))["BTF"]
    assert not check["ok"] and "--no-kernel" in check["fix"]
    result = run(["attach", target.pid, "-d", "300ms", "-o", tmp_path / "x.gotrace"], bare)
    assert result.returncode == 0, result.stderr
    assert "system calls are seen by uprobes" in result.stderr
    assert read_capture(tmp_path / "x.gotrace").stacks


def test_no_locked_memory(target: Workload) -> None:
    """A kernel that counts maps as locked memory says no, and so do we; others take no notice."""
    check = examined(run(["doctor", "--json"], prepare=limit(resource.RLIMIT_MEMLOCK, 0)))["memlock limit"]
    attached = run(["attach", target.pid, "--dry-run"], prepare=limit(resource.RLIMIT_MEMLOCK, 0))
    assert (attached.returncode == 0) == (check["ok"] or "unlimited" in check["why"])
