"""Executables that carry other programs, tables or very much data along; and obfuscated ones."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from gobuild import build

from gotrace.common.errors import BadBinary
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import FileBytes, Image, read_file
from gotrace.gobin.moduledata import MAGIC_118, MAGIC_120
from gotrace.plan.makeplan import make_plan

PT_LOAD, PT_GNU_STACK = 1, 0x6474E551
PLACE = 0x20000000


def with_segment(data: bytes, more: bytes, writable: bool, size: int = 0) -> bytes:
    """The executable with one more segment, which the header of the stack's gives its place for."""
    changed = bytearray(data)
    phoff, = struct.unpack_from("<Q", changed, 32)
    count, = struct.unpack_from("<H", changed, 56)
    at = next(phoff + 56 * i for i in range(count) if struct.unpack_from("<I", changed, phoff + 56 * i)[0] == PT_GNU_STACK)
    changed += bytes(-len(changed) % 4096)
    size = size or len(more)
    struct.pack_into("<IIQQQQQQ", changed, at, PT_LOAD, 4 | 2 * writable, len(changed), PLACE, PLACE, size, size, 4096)
    return bytes(changed) + more


def without_sections(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[40:48] = bytes(8)
    changed[58:64] = bytes(6)
    return bytes(changed)


def facts(data: bytes) -> tuple:
    binary = GoBinary(Image(data, "carrier"))
    plan = make_plan(binary)
    return str(binary.version), binary.table.base, binary.table.text, binary.wait_reasons, binary.stop_reasons, [p.symbol for p in plan.probes]


def carried(version: str) -> dict[str, bytes]:
    other = build("churn", version, "plain").read_bytes()
    info = other.index(b"\xff Go buildinf:")
    return {
        "a program": other,
        "headers": struct.pack("<IBBBB", MAGIC_120, 0, 0, 1, 8) * 100_000,
        "old headers": struct.pack("<IBBBB", 0xFFFFFFFB, 0, 0, 1, 8) * 100,
        "a build info": other[info : info + 600],
        "lengths": struct.pack("<Q", 17) * 600_000 + struct.pack("<Q", 19) * 600_000,
        "texts": b"GC assist marking\0GC mark termination\0go1.20.1\0" * 20,
    }


@pytest.mark.parametrize("what", ["a program", "headers", "old headers", "a build info", "lengths", "texts"])
@pytest.mark.parametrize("writable", [False, True], ids=["constant", "variable"])
@pytest.mark.parametrize("sections", [True, False], ids=["sections", "no-sections"])
@pytest.mark.parametrize("variant", ["stripped", "pie"])
def test_what_is_carried_along_is_not_taken_for_the_programs_own(what: str, writable: bool, sections: bool, variant: str) -> None:
    own = build("selftimed", "1.27.3", variant).read_bytes()
    data = with_segment(own, carried("1.21.13")[what], writable)
    found = facts(data if sections else without_sections(data))
    # Of two build infos in variables either could be the program's: then it is the version variable that tells, or neither.
    if not (what in ("a build info", "a program") and writable and not sections):
        assert found[0] == "go1.27.3"
    assert found[1:] == facts(own)[1:]


@pytest.mark.parametrize("version", ["1.19", "1.21.13", "1.27.3"])
@pytest.mark.parametrize("sections", [True, False], ids=["sections", "no-sections"])
def test_a_table_with_another_magic_is_told_by_its_structure(version: str, sections: bool) -> None:
    own = build("selftimed", version, "stripped").read_bytes()
    at = GoBinary(Image(own)).image.file_offset(GoBinary(Image(own)).table.base)
    changed = own[:at] + struct.pack("<I", 0x5EED1234) + own[at + 4 :]
    binary = GoBinary(Image(changed if sections else without_sections(changed), "obfuscated"))
    assert binary.table.magic == (MAGIC_118 if version == "1.19" else MAGIC_120)
    assert facts(changed) == facts(own)


def test_a_table_that_can_not_be_read_is_that_of_a_go_program_all_the_same() -> None:
    own = build("selftimed", "1.27.3", "stripped").read_bytes()
    table = GoBinary(Image(own)).table
    at, functions = table.image.file_offset(table.base), table.image.file_offset(table.functab)
    renamed = own[:at] + struct.pack("<I", 0x5EED1234) + own[at + 4 :]
    scrambled = bytearray(renamed)
    for place in range(functions, functions + 4096):
        scrambled[place] ^= 0x5A
    for data in (bytes(scrambled), renamed[: at + 4] + b"\xff" * 68 + renamed[at + 72 :]):
        with pytest.raises(BadBinary, match=r"is a Go binary \(go1.27.3 by build info\).*magic.*0x5eed1234"):
            GoBinary(Image(data, "obfuscated"))
    with pytest.raises(BadBinary, match="is not a Go binary"):
        GoBinary(Image(Path("/bin/true").read_bytes(), "true"))


def test_parts_of_a_file_are_what_its_bytes_are(tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    (tmp_path / "file").write_bytes(data)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    parts = FileBytes(fd, len(data))
    os.close(fd)
    edge = 1 << 20
    for start, end in ((0, 4), (edge - 2, edge + 2), (100, 100), (3 * edge, 3 * edge + 7), (5, 4 * edge), (len(data) - 3, len(data) + 9)):
        assert parts[start:end] == data[start:end]
        for pattern in (data[start : start + 8], data[end - 8 : end], b"not there"):
            assert parts.find(pattern) == data.find(pattern)
            assert parts.find(pattern, start, end) == data.find(pattern, start, end)
            assert parts.find(pattern, start + 1) == data.find(pattern, start + 1)
    assert parts[edge] == data[edge] and len(parts) == len(data)
    assert parts.find(data[4 * edge - 4 : 4 * edge + 4]) == 4 * edge - 4  # across the portions of a search
    os.truncate(tmp_path / "file", edge)
    with pytest.raises(BadBinary, match="truncated"):
        parts[2 * edge : 2 * edge + 8]


@pytest.mark.full
@pytest.mark.parametrize("sections", [True, False], ids=["sections", "no-sections"])
def test_two_gigabytes_in_little_memory(sections: bool, tmp_path: Path) -> None:
    own = build("selftimed", "1.27.3", "stripped").read_bytes()
    size = 2_000_000_000
    data = with_segment(own if sections else without_sections(own), b"", writable=False, size=size)
    path = tmp_path / "large"
    path.write_bytes(data)
    os.truncate(path, len(data) + size)  # a hole: it takes no room
    measured = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run([sys.executable, '-m', 'gotrace', 'probes', sys.argv[1]]).returncode\n"
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", measured, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "go1.27.3" in done.stdout and "runtime.park_m" in done.stdout
    assert int(done.stdout.split()[-1]) * 1024 < 200 << 20
    fd = os.open(path, os.O_RDONLY)
    try:
        assert isinstance(read_file(fd, "large").data, FileBytes)
    finally:
        os.close(fd)
