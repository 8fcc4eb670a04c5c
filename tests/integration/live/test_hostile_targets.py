"""Processes and files that lie to gotrace: no crash, no hang, nothing of theirs reaches the terminal, and the process goes on."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from attach import Attached, probes_of
from gobuild import build, build_text
from restricted import limit, run
from workload import Workload

from gotrace.capture.reader import read_capture
from gotrace.export import RENDERERS
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image

pytestmark = [pytest.mark.bpf, pytest.mark.beside]

MEMORY = 1 << 30
ESCAPES = b"main.\x1b[2J\x1b]0;owned\x07\r\n\x9b1m"


@pytest.fixture
def gotrace() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, with as much memory as a trace of an honest program never takes."""
    return lambda *arguments: run(arguments, prepare=limit(resource.RLIMIT_DATA, MEMORY))


def program() -> tuple[Path, list[str]]:
    path = build("hostile", "1.27.3", "stripped")
    binary = GoBinary(Image(path.read_bytes()))
    size = max(value for name, value in vars(binary.layout).items() if name.startswith("g_") and isinstance(value, int)) + 8
    return path, [str(size), str(binary.layout.g_atomicstatus), str(binary.allgs)]


def no_escapes(result: subprocess.CompletedProcess[str]) -> None:
    for said in (result.stdout, result.stderr):
        assert all(char.isprintable() or char == "\n" for char in said), repr(said[:2000])


def one_error(result: subprocess.CompletedProcess[str], code: int) -> None:
    assert result.returncode == code, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ") and "internal error" not in lines[0], result.stderr
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:]), result.stderr
    no_escapes(result)


def rounds_go_on(workload: Workload) -> None:
    assert workload.running
    code, said = workload.finish()
    assert code == 0 and int(said) > 100


def test_frame_pointers_in_circles(gotrace, tmp_path: Path) -> None:
    path, arguments = program()
    with Workload(path, *arguments, "frames") as workload:
        result = gotrace("attach", workload.pid, "-d", "2s", "--json", "-o", tmp_path / "x.gotrace", "-o", tmp_path / "x.html")
        assert result.returncode == 0, result.stderr
        summary = json.loads(result.stdout)
        assert not probes_of(workload.pid)
        rounds_go_on(workload)
    crooked = [s for s in summary["stacks"] if any(f["name"] == "main.lie" for f in s["frames"])]
    assert sum(stack["count"] for stack in crooked) > 100
    # A walk ends: at a frame that is not above the last one, or at the root.
    assert max(len(stack["frames"]) for stack in summary["stacks"]) < 600
    assert sum(summary["losses"].values()) > 0
    no_escapes(result)


def test_goroutine_structs_of_garbage(gotrace, tmp_path: Path) -> None:
    path, arguments = program()
    with Workload(path, *arguments, "structs") as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "during.gotrace") as trace:
            workload.send("go")
            time.sleep(2)
            summary = trace.end_json()
        assert summary["totals"]["intervals"] > 100
        # Whoever comes when the garbage is there already is told so, or meets a moment in which all is well.
        for turn in range(3):
            result = gotrace("attach", workload.pid, "-d", "500ms", "--json", "-o", tmp_path / f"{turn}.gotrace")
            if result.returncode:
                one_error(result, 3)
                assert "does not fit" in result.stderr
        assert not probes_of_anyone(path)
        rounds_go_on(workload)


@pytest.mark.full
def test_goroutine_structs_of_garbage_without_probes(gotrace, tmp_path: Path) -> None:
    """Whoever looks from outside, again and again, does so at garbage and at what it was before."""
    path, arguments = program()
    with Workload(path, *arguments, "structs") as workload:
        with Attached(workload.pid, "-d", "0", "--mode", "sample", "--sample-rate", "100", "--json", "-o", tmp_path / "x.gotrace") as trace:
            workload.send("go")
            for _ in range(4):
                result = gotrace("dump", workload.pid, "--json")
                if result.returncode:
                    one_error(result, 3)
                    assert "does not fit" in result.stderr
                else:
                    assert 0 < len(json.loads(result.stdout)["goroutines"]) < 100
            summary = trace.end_json()
        profile = read_capture(tmp_path / "x.gotrace")
        assert profile.complete and summary["window"]["samples"] > 10
        assert all(0 <= s.distribution.max_ns <= profile.window.duration_ns for s in profile.stacks)
        rounds_go_on(workload)


@pytest.mark.parametrize("what", ["structs", "list"])
def test_a_list_of_processes_and_a_scheduler_of_garbage(gotrace, what: str) -> None:
    """What makes no sense is null, or the process is refused."""
    path, arguments = program()
    with Workload(path, *arguments, what) as workload:
        workload.send("go")
        time.sleep(0.5)
        for _ in range(3):
            result = gotrace("sched", workload.pid, "--json", "--count", 3, "--every", "20ms")
            if result.returncode:
                one_error(result, 3)
            for line in result.stdout.splitlines():
                found = json.loads(line)
                assert found["gomaxprocs"] and (found["goroutines"]["total"] is None or found["goroutines"]["total"] < 100)
            listed = gotrace("ps", "--json")
            assert listed.returncode == 0, listed.stderr
            row = next(row for row in json.loads(listed.stdout) if row["pid"] == workload.pid)
            assert row["goroutines"] is None and not row["traceable"] or row["goroutines"] < 100
        assert workload.running


def test_names_that_change_all_the_time(gotrace, tmp_path: Path) -> None:
    """The table in its memory is not asked: the file has what the linker wrote."""
    path, arguments = program()
    table = GoBinary(Image(path.read_bytes())).table
    with Workload("env", "GODEBUG=asyncpreemptoff=1", str(path), *arguments, "names", str(table.names), str(table.pctab)) as workload:
        result = gotrace("attach", workload.pid, "-d", "500ms", "--json", "-o", tmp_path / "x.gotrace")
        dump = gotrace("dump", workload.pid, "--json")
        assert (result.returncode, dump.returncode) == (0, 0), result.stderr + dump.stderr
        assert not probes_of(workload.pid)
        rounds_go_on(workload)
    stacks = json.loads(result.stdout)["stacks"]
    assert sum(s["count"] for s in stacks if any(f["name"] == "main.slumber" for f in s["frames"])) > 100
    asleep = [one for one in json.loads(dump.stdout)["goroutines"] if any(f["name"] == "main.slumber" for f in one["frames"])]
    assert len(asleep) == 4


def test_a_process_whose_tables_of_lines_are_garbage(gotrace, tmp_path: Path) -> None:
    """Files, lines and inlined calls of every function lead anywhere; its own runtime never asks."""
    data = bytearray(build("hostile", "1.27.3", "stripped").read_bytes())
    table, garbage = GoBinary(Image(bytes(data))).table, random.Random(1)
    for offset in table.func_offsets:
        at = table.image.file_offset(table.functab + offset)
        count, funcdata = struct.unpack_from("<I", data, at + 28)[0], data[at + 43]
        # _func (runtime/runtime2.go): pcfile, pcln, cuOffset; behind it, among others, where its tree of inlined calls is.
        places = [20, 24, 32] + ([44 + 4 * (count + 3)] if funcdata > 3 else [])
        for place in places:
            struct.pack_into("<I", data, at + place, garbage.choice((0, 1, garbage.randrange(1 << 20), garbage.randrange(1 << 32))))
    path = tmp_path / "garbage"
    path.write_bytes(data)
    path.chmod(0o755)
    arguments = program()[1]
    with Workload("env", "GODEBUG=asyncpreemptoff=1", str(path), *arguments, "frames") as workload:
        result = gotrace("attach", workload.pid, "-d", "500ms", "--json", "-o", tmp_path / "x.gotrace", "-o", tmp_path / "x.html")
        dump = gotrace("dump", workload.pid)
        assert (result.returncode, dump.returncode) == (0, 0), result.stderr + dump.stderr
        no_escapes(dump)
        assert not probes_of(workload.pid)
        rounds_go_on(workload)
    stacks = json.loads(result.stdout)["stacks"]
    assert sum(s["count"] for s in stacks if any(f["name"] == "main.lie" for f in s["frames"])) > 100
    report = gotrace("report", tmp_path / "x.gotrace")
    assert report.returncode == 0, report.stderr
    no_escapes(report)


def probes_of_anyone(path: Path) -> bool:
    """Whether a fresh process of the executable finds breakpoints in its code."""
    with Workload(path, *program()[1], "frames") as other:
        return probes_of(other.pid)


@pytest.mark.full("endless")
@pytest.mark.parametrize("what", ["list", "endless"])
def test_a_list_of_goroutines_without_end(gotrace, tmp_path: Path, what: str) -> None:
    """Of which most can't be read, or all can, the same ones again and again."""
    path, arguments = program()
    with Workload(path, *arguments, what) as workload:
        for command in (("attach", "-d", "1s", "-o", tmp_path / "x.gotrace"), ("attach", "--mode", "sample", "-o", tmp_path / "x.gotrace"), ("dump",)):
            result = gotrace(*command, workload.pid)
            one_error(result, 3)
            assert "more than the process has memory for" in result.stderr
        assert workload.running


def test_names_that_command_the_terminal(gotrace, tmp_path: Path) -> None:
    path, arguments = program()
    honest = b"main.victimOfTheScribbler"
    data = path.read_bytes()
    assert len(ESCAPES) <= len(honest) and honest in data
    altered = tmp_path / "\x1b[31mtarget\x07"
    altered.write_bytes(data.replace(honest, ESCAPES.ljust(len(honest), b"x")))
    altered.chmod(0o755)
    result = gotrace("probes", altered)
    assert result.returncode == 0, result.stderr
    no_escapes(result)
    # Its own name and its functions' are text for people everywhere; its goroutines wait with such a name.
    capture = tmp_path / "x.gotrace"
    with Workload(altered, *arguments, "structs") as workload:
        result = gotrace("attach", workload.pid, "-d", "1s", "-o", capture, "-o", tmp_path / "x.html")
        assert result.returncode == 0, result.stderr
        no_escapes(result)
        assert workload.running
    for options in ((), ("--tree",), ("-o", "-")):
        report = gotrace("report", capture, *options)
        assert report.returncode == 0 and "owned" in report.stdout
        no_escapes(report)


LONG = 10_000
NASTY = (
    "\x1bc\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07".encode() + b"\r\n\t\x08\x7f\x9b1m\xff\xfe" + "\u202eowned\u2066\u200b\u2028".encode(),
    b"</script><script>alert(1)</script><!--</title>&amp;\"'><img src=x onerror=alert(1)>;__proto__;{{x}}%s",
    b"[red]rich[/red] ;; \\u001b[2J $(reboot) `reboot` ../../etc/passwd",
)
"""What a terminal, a page or a reader of folded stacks could take for more than a name. All but the first and the last bracket
of the last are left out, as in Go's tracebacks."""


def hostile_names() -> bytes:
    """An executable whose functions have names of 10 kB, full of what `NASTY` holds, also in the paths of their files."""
    names = [f"f{index}" + chr(97 + index) * LONG for index in range(len(NASTY))]
    module = "hostilenames" + "m" * 200
    calls = [*(f"{name}(n)" for name in names[1:]), "time.Sleep(time.Millisecond)"]
    functions = "".join(
        f"//go:noinline\nfunc {name}(n *int64) {{\n\t{call}\n\tatomic.AddInt64(n, 1)\n}}\n" for name, call in zip(names, calls)
    )
    data = build_text("hostile-names", module, (
        'package main\n\nimport ("fmt"; "io"; "os"; "sync/atomic"; "time")\n\n' + functions
        + "func main() {\n\tvar n int64\n\tfor i := 0; i < 4; i++ {\n\t\tgo func() {\n\t\t\tfor {\n\t\t\t\t" + names[0]
        + "(&n)\n\t\t\t}\n\t\t}()\n\t}\n"
        + '\tfmt.Println("ready")\n\tio.Copy(io.Discard, os.Stdin)\n\tfmt.Println(atomic.LoadInt64(&n))\n}\n'
    ), "1.27.3", "stripped").read_bytes()
    for name, nasty in zip((module, *names), (NASTY[0], *NASTY)):
        assert data.count(name.encode())
        data = data.replace(name.encode(), (nasty * (len(name) // len(nasty))).ljust(len(name), b"x"))
    return data


@pytest.mark.full
def test_names_of_ten_kilobytes(gotrace, tmp_path: Path) -> None:
    """All that is written stays small and is text; a page's scripts are its own."""
    program = tmp_path / "program"
    program.write_bytes(hostile_names())
    program.chmod(0o755)
    outputs = {suffix: tmp_path / f"x{suffix}" for suffix in (".gotrace", *RENDERERS)}
    with Workload(program) as workload:
        result = gotrace("attach", workload.pid, "-d", "1s", *(word for path in outputs.values() for word in ("-o", path)))
        assert result.returncode == 0, result.stderr
        dump = gotrace("dump", workload.pid)
        short = gotrace("attach", workload.pid, "-d", "100ms", "-o", tmp_path / "short.gotrace")
        assert (dump.returncode, short.returncode) == (0, 0), dump.stderr + short.stderr
        assert not probes_of(workload.pid)
        rounds_go_on(workload)
    profile = read_capture(outputs[".gotrace"])
    mine = [stack for stack in profile.stacks if sum(len(frame.name) > LONG // 2 for frame in stack.frames) == len(NASTY) - 1]
    assert profile.complete and sum(stack.distribution.count for stack in mine) > 100
    reports = [gotrace("report", outputs[".gotrace"], *options) for options in ((), ("--tree",), ("-o", "-"), ("--json",))]
    reports.append(gotrace("diff", outputs[".gotrace"], tmp_path / "short.gotrace", "-o", "-"))
    for said in (result, dump, *reports):
        assert said.returncode == 0 and "owned" in said.stdout, said.stderr
        no_escapes(said)
    assert max(len(line) for said in (result, dump, *reports[:2]) for line in said.stdout.splitlines()) < 1000
    assert max(len(frame) for line in reports[2].stdout.splitlines() for frame in line.split(";")) < 1100
    # The page holds a script that is some 100 kB, the summary whole names, a few to a stack.
    assert all(path.stat().st_size < 2_000_000 for path in outputs.values()), {p.name: p.stat().st_size for p in outputs.values()}
    for suffix in (".html", ".svg", ".folded"):
        text = outputs[suffix].read_text("utf-8")
        assert all(char.isprintable() or char in "\n\t" for char in text if ord(char) < 0x100 or char in "\u202e\u2066\u200b\u2028")
        assert suffix == ".folded" or "<script>alert" not in text and "<img src=x" not in text
    ElementTree.fromstring(outputs[".svg"].read_bytes())
    json.loads(outputs[".speedscope.json"].read_bytes())
    gzip.decompress(outputs[".pb.gz"].read_bytes())


@pytest.mark.parametrize("what", ["functab", "truncated", "buildinfo", "headers"])
def test_executables_of_garbage(gotrace, tmp_path: Path, what: str) -> None:
    data = bytearray(build("hostile", "1.27.3", "stripped").read_bytes())
    binary = GoBinary(Image(bytes(data)))
    if what == "functab":
        start = binary.image.file_offset(binary.table.functab)
        data[start : start + 60_000] = os.urandom(60_000)
    elif what == "truncated":
        del data[len(data) // 2 :]
    elif what == "buildinfo":
        section = binary.image.sections[".go.buildinfo"]
        data[section.offset + 32 : section.offset + 64] = b"\xff" * 32
    else:
        data[32:64] = b"\xff" * 32
    path = tmp_path / "garbage"
    path.write_bytes(data)
    result = gotrace("probes", path)
    if what == "buildinfo":
        assert result.returncode == 0, result.stderr
        no_escapes(result)
    else:
        one_error(result, 3)


@pytest.mark.full
def test_paths_that_are_no_plain_files(gotrace, tmp_path: Path) -> None:
    link, loop, fifo = tmp_path / "link", tmp_path / "loop", tmp_path / "fifo"
    link.symlink_to(build("hostile", "1.27.3", "stripped"))
    loop.symlink_to(loop)
    os.mkfifo(fifo)
    assert gotrace("probes", link).returncode == 0
    one_error(gotrace("probes", loop), 1)
    for path in (fifo, "/dev/zero", tmp_path):
        result = gotrace("probes", path)
        one_error(result, 3)
        assert "is not a regular file" in result.stderr
    for path in (fifo, loop, tmp_path, "/dev/zero"):
        one_error(gotrace("report", path), 1)
