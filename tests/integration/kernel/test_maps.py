"""BPF maps through the kernel's own system call."""

from __future__ import annotations

import ctypes as ct
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from attach import Attached
from gobuild import GO_VERSIONS, build
from workload import Workload

from gotrace.kernel.bpf import BpfError, MapType, create_map, delete_element, read_element, read_table, write_element
from gotrace.kernel.host.features import maps_may_grow
from gotrace.kernel.program import Options, map_entries
from gotrace.kernel.structs import IntervalKey, IntervalValue, Stack
from gotrace.kernel.tables import Tables

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


@pytest.fixture
def table() -> Iterator[int]:
    fd = create_map(MapType.HASH, 4, 8, 64, "table")
    yield fd
    os.close(fd)


def test_a_deleted_element_is_gone(table: int) -> None:
    for number in range(3):
        write_element(table, struct.pack("<I", number), struct.pack("<Q", 10 * number))
    delete_element(table, struct.pack("<I", 1))
    delete_element(table, struct.pack("<I", 1))  # it is absent: nothing to do
    with pytest.raises(BpfError) as raised:
        read_element(table, struct.pack("<I", 1), 8)
    assert raised.value.errno == errno.ENOENT
    assert {key: bytes(value) for key, value in read_table(table, 4, 8)} == {
        struct.pack("<I", number): struct.pack("<Q", 10 * number) for number in (0, 2)
    }


def test_what_is_no_map_is_refused() -> None:
    with open(os.devnull) as file, pytest.raises(BpfError):
        delete_element(file.fileno(), bytes(4))


def test_a_map_on_demand_takes_memory_for_what_is_in_it() -> None:
    entries = 1 << 20
    taken = {}
    for on_demand in (False, True):
        fd = create_map(MapType.HASH, 8, 256, entries, "large", on_demand)
        try:
            for number in range(1000):
                write_element(fd, struct.pack("<Q", number), bytes(256))
            assert len([key for key, _ in read_table(fd, 8, 256)]) == 1000
            with open(f"/proc/self/fdinfo/{fd}") as file:
                taken[on_demand] = next(int(line.split()[1]) for line in file if line.startswith("memlock"))
        finally:
            os.close(fd)
    assert taken[True] < taken[False] // 4


def test_tables_are_bounded_whatever_the_target_says_of_itself() -> None:
    modest, vast = map_entries(Options(), True), map_entries(Options(max_goroutines=1 << 25), True)
    assert max(vast.values()) <= 1 << 24
    assert all(vast[name] >= modest[name] for name in modest)


@pytest.mark.full
def test_tens_of_thousands_of_stacks_with_their_wakers_are_recorded_or_counted(tmp_path: Path) -> None:
    with Workload(build("load", GO_VERSIONS[-1], "plain"), "work", "stacks", "5000") as workload:
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
            workload.send("run 0ns 3000000000ns")
            workload.read_json(60)
            summary = trace.end_json()
    losses = summary["losses"]
    assert losses["goroutine_set_full"] == 0
    if maps_may_grow():
        # Such a map can be out of memory for a moment, where interrupts are off.
        assert len(summary["stacks"]) > 1 << 14 and losses["stack_table_full"] < 10
    else:
        assert len(summary["stacks"]) <= 1 << 14 and losses["stack_table_full"] > 1000


@pytest.fixture
def rows() -> Iterator[dict[str, int]]:
    shapes = {"intervals": (IntervalKey, IntervalValue), "more_intervals": (IntervalKey, IntervalValue), "stacks": (ct.c_uint64, Stack)}
    fds = {name: create_map(MapType.HASH, ct.sizeof(key), ct.sizeof(value), 1024, name) for name, (key, value) in shapes.items()}
    yield fds | {"more_stacks": fds["stacks"]}
    for fd in fds.values():
        os.close(fd)


def test_rows_that_are_read_a_few_at_a_time_are_all_read(rows: dict[str, int]) -> None:
    def put(name: str, numbers: range, count: int) -> None:
        for number in numbers:
            write_element(rows[name], bytes(IntervalKey(stack=number)), bytes(IntervalValue(count=count, total_ns=number)))

    def passed() -> list[tuple[int, int]]:
        found = []
        while some := tables.read_rows(at_most=7):
            found += [(row.key.stack, row.count) for row in some]
            if len(some) < 7:
                break
        return sorted(found)

    put("intervals", range(100), 1)
    put("more_intervals", range(100, 130), 1)
    tables = Tables(rows)
    assert passed() == [(number, 1) for number in range(130)]
    assert passed() == []
    put("intervals", range(50), 2)
    assert passed() == [(number, 2) for number in range(50)]
    # What moves all the time at the table's beginning does not keep the rest from being read; a whole read is of this moment.
    put("intervals", range(100), 3)
    some = tables.read_rows(at_most=7)
    for count in range(4, 18):
        put("intervals", range(100), count)
        some += tables.read_rows(at_most=7)
    assert {row.key.stack for row in some} == set(range(100))
    assert {row.count for row in tables.read_rows()} == {17}
