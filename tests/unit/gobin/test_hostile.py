"""Executables that lie: whatever their bytes say, the readers answer or refuse; they never crash, hang or eat the memory."""

from __future__ import annotations

import random
import resource
import struct

import pytest
from gobuild import build
from hypothesis import given, settings
from hypothesis import strategies as st

from gotrace.common.errors import BadBinary
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image
from gotrace.plan.makeplan import make_plan


def examine(data: bytes) -> None:
    """Everything that attach asks of a binary before it touches the process."""
    try:
        binary = GoBinary(Image(data, "hostile"))
        plan = make_plan(binary)
        _ = binary.layout, binary.allgs, binary.wait_reasons, binary.image.build_id
        for probe in plan.probes:
            binary.table.expand(probe.site.address)
            binary.table.stack_delta(probe.site.address)
        for pc in range(binary.table.text, binary.table.etext, max(1, (binary.table.etext - binary.table.text) // 200)):
            binary.table.expand(pc)
    except BadBinary:
        pass


@pytest.fixture(scope="module", params=[("1.27.3", "stripped"), ("1.24.11", "pie"), ("1.19", "plain")], ids="-".join)
def genuine(request: pytest.FixtureRequest) -> bytes:
    return build("churn", *request.param).read_bytes()


def regions(data: bytes) -> list[range]:
    """Where lies do most: ELF headers, build info, the function table's header and first entries, the module data."""
    binary = GoBinary(Image(data))
    table, image = binary.table, binary.image
    places = [range(0, 1024), range(len(data) - 4096, len(data))]
    for address, size in ((table.base, 256), (table.functab, 4096), (table.moduledata, 600), (table.base + 100_000, 50_000)):
        offset = image.file_offset(address)
        if offset is not None:
            places.append(range(offset, min(offset + size, len(data))))
    section = image.sections[".go.buildinfo"]
    return [*places, range(section.offset, section.offset + section.size)]


@pytest.mark.full("stripped")
def test_flipped_bytes(genuine: bytes) -> None:
    places = regions(genuine)
    chance = random.Random(1)
    for _ in range(150):
        data = bytearray(genuine)
        for _ in range(chance.choice((1, 4, 32))):
            at = chance.choice(chance.choice(places))
            data[at] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
        examine(bytes(data))


@pytest.mark.full
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_words_of_the_tables(draw: st.DataObject) -> None:
    data = bytearray(build("churn", "1.27.3", "stripped").read_bytes())
    place = draw.draw(st.sampled_from(regions(bytes(data))))
    at = draw.draw(st.integers(place.start, place.stop - 9))
    value = draw.draw(st.sampled_from((0, 1, 0xFFFFFFFF, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1)) | st.integers(0, (1 << 64) - 1))
    struct.pack_into("<Q", data, at, value)
    examine(bytes(data))


def test_memory_is_bounded(genuine: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = bytearray(genuine)
    binary = GoBinary(Image(genuine))
    offset = binary.image.file_offset(binary.table.base)
    for count in (1 << 22, (1 << 22) + 1, 1 << 40, (1 << 64) - 1):
        struct.pack_into("<Q", data, offset + 8, count)
        examine(bytes(data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2048))
def test_any_bytes(data: bytes) -> None:
    examine(data)
    examine(b"\x7fELF\x02\x01\x01" + data)


def test_one_name_for_every_function(genuine: bytes) -> None:
    """It would have each of them disassembled, once for every fact that is looked for."""
    binary = GoBinary(Image(genuine))
    table, data = binary.table, bytearray(genuine)
    gopark = binary.function("runtime.gopark")[0]
    name = genuine[binary.image.file_offset(gopark.address) + 4 :][:4]
    for offset in table.func_offsets[: table.function_count]:
        at = binary.image.file_offset(table.functab + offset)
        data[at + 4 : at + 8] = name
    with pytest.raises(BadBinary, match="share one name"):
        GoBinary(Image(bytes(data))).function("runtime.gopark")
