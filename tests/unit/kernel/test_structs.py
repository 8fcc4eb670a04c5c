"""The C side and its Python mirrors: sizes, offsets, constants and the histogram's buckets, compiled by gcc and compared."""

from __future__ import annotations

import ctypes as ct
import subprocess
from pathlib import Path

import pytest

from gotrace.common import histogram
from gotrace.common.vocabulary import Part
from gotrace.kernel import structs
from gotrace.kernel.program import source_folder
from gotrace.kernel.waited import Waited

MIRRORS = {
    "config": structs.Config, "knobs": structs.Knobs, "goroutine": structs.Goroutine, "interval_key": structs.IntervalKey,
    "interval_value": structs.IntervalValue, "member_key": structs.MemberKey, "event": structs.Event,
    "thread": structs.Thread, "stack": structs.Stack, "object": structs.Object, "world": structs.World,
    "pause": structs.Pause, "arrival": structs.Arrival, "unix_path": structs.UnixPath, "waited": Waited,
    "label_values": structs.WantedLabels, "labelled": structs.Labelled,
}
DEFINED = [
    f"-DMAX_FRAMES={structs.MAX_FRAMES}", f"-DBUCKETS={histogram.BUCKETS}", f"-DSUBBITS={histogram.SUBBITS}",
    f"-DSUBBUCKETS={histogram.SUBBUCKETS}", f"-DMAX_BITS={histogram.MAX_BITS}",
]
TYPES = "typedef unsigned long long u64; typedef unsigned int u32; typedef unsigned short u16; typedef unsigned char u8;\n"


def compiled(folder: Path, text: str, *flags: str) -> Path:
    source, out = folder / "x.c", folder / "x.out"
    source.write_text(text)
    subprocess.run(["gcc", *DEFINED, f"-I{source_folder()}", *flags, "-o", out, source], check=True, capture_output=True)
    return out


def test_structs(tmp_path: Path) -> None:
    lines = []
    for name, mirror in MIRRORS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        lines += [f'printf("{name}.{field[0]} %zu\\n", offsetof(struct {name}, {field[0]}));' for field in mirror._fields_]
    for constant in ("PHASE_OFF", "PHASE_TRACE", "STACK_TRUNCATED", "STACK_UNREADABLE", "STACK_IN_PROLOGUE", "STACK_LEAF_CALLER", "STACK_KERNEL", "STACK_EXACT", "GOROUTINE_BORN", "GOROUTINE_UNSURE", "GOROUTINE_ENDED", "STACK_IN_TRANSIT", "LEAF_BLOCK_BITS", "BY_SIZES", "BY_LEAF_SIZES", "ASYNC_AT", "SELECT_CASES", "PARTS", "WANTED_LABELS", "WANTED_KEY", "LABEL_VALUE", "LABEL_ABSENT", "LABELS_OTHER", "LABELS_UNREAD", *(f"PART_{part.name}" for part in Part)):
        lines.append(f'printf("{constant} %u\\n", {constant});')
    program = compiled(
        tmp_path,
        f'#include <stddef.h>\n#include <stdio.h>\n{TYPES}#include "shared.h"\nint main(void) {{ {" ".join(lines)} }}',
    )
    said = dict(line.rsplit(" ", 1) for line in subprocess.check_output([program], text=True).splitlines())
    for name, mirror in MIRRORS.items():
        assert int(said[name]) == ct.sizeof(mirror), name
        for field in mirror._fields_:
            assert int(said[f"{name}.{field[0]}"]) == getattr(mirror, field[0]).offset, f"{name}.{field[0]}"
    for constant in (name for name in said if name.isupper()):
        expected = Part[constant[5:]] if constant.startswith("PART_") else getattr(structs, constant)
        assert int(said[constant]) == expected


@pytest.fixture(scope="module")
def c_bucket_of(tmp_path_factory: pytest.TempPathFactory) -> ct._CFuncPtr:
    text = (source_folder() / "record.c").read_text()
    start = text.index("static __always_inline u32 bucket_of")
    body = text[start : text.index("\n}\n", start) + 3].replace("static __always_inline", "")
    library = compiled(tmp_path_factory.mktemp("bucket"), TYPES + body, "-shared", "-fPIC")
    function = ct.CDLL(str(library)).bucket_of
    function.argtypes, function.restype = [ct.c_uint64], ct.c_uint32
    return function


def test_the_kernel_s_buckets_are_ours(c_bucket_of: ct._CFuncPtr) -> None:
    values = [*range(5000), *(1 << bit for bit in range(63)), *((1 << bit) - 1 for bit in range(1, 63)), 10**9 + 7, 3 * 10**12]
    for value in values:
        assert c_bucket_of(value) == histogram.bucket_of(value), value
