"""What scripts/fuzz feeds with bytes, by name. An error that is not a GotraceError is a finding, and so are 5 s of CPU time and 512 MB."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import struct
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

from gotrace.capture.reader import read_capture
from gotrace.capture.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES
from gotrace.common.errors import BadBinary, GotraceError
from gotrace.dump.compare import changes_json
from gotrace.dump.formats import RENDERERS as DUMP_RENDERERS
from gotrace.dump.load import load_dump
from gotrace.dump.objects import waited_object
from gotrace.export import RENDERERS, render
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.buildinfo import GoVersion, read_buildinfo
from gotrace.gobin.dwarf import RuntimeTypes
from gotrace.gobin.image import Image
from gotrace.gobin.layout import from_dwarf
from gotrace.gobin.symbols import Symbols
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.structs import NO_SYSCALL
from gotrace.live.ahead import Ahead
from gotrace.live.channels import Channels
from gotrace.live.conds import Conds
from gotrace.live.goroutines import OFF_CPU, GoroutineReader, Unwinder
from gotrace.live.gstruct import Status
from gotrace.live.labels import read_labels, wanted_values
from gotrace.live.objects import ObjectReader, Parked
from gotrace.live.pages import Pages
from gotrace.live.polled import Polled
from gotrace.live.scan import Scanner
from gotrace.live.semaphores import waiters
from gotrace.live.timers import Timers
from gotrace.live.typenames import TypeNames
from gotrace.model.snapshots import interpret
from gotrace.model.stacks import StackModel
from gotrace.plan.makeplan import make_plan
from gotrace.proc.otel import LONGEST_VALUE, MOST_ATTRIBUTES, context_attributes, from_environment
from gotrace.profile.hotspots import find_hotspots
from gotrace.render.plan import plan_dict

CORPUS = Path(__file__).with_name("corpus")
HEAP = 0xC000000000
_ALLGS_AT = 16
_MOST_PCS = 200


def binary(data: bytes) -> None:
    """All that attach and probes ask of an executable before they touch the process."""
    try:
        found = GoBinary(Image(data, "hostile"))
        _ = found.cgo, found.image.build_id, found.stop_reasons
        step = max(1, (found.table.etext - found.table.text) // _MOST_PCS)
        with suppress(GotraceError):
            for pc in range(found.table.text, found.table.etext, step):
                found.table.stack_delta(pc)
                found.table.expand(pc)
        plan = make_plan(found, requests=True)
        with suppress(GotraceError):
            make_plan(found, spans=["runtime.newproc1", "main.main"])
        _ = found.layout, found.allgs, found.wait_reasons
        with suppress(GotraceError):
            found.check()
        json.dumps(plan_dict(found, plan, False))
        for probe in plan.probes:
            found.table.expand(probe.site.address)
    except GotraceError:
        pass


def sections(data: bytes) -> None:
    """Headers, build info, notes and the symbol table of a file that need not be a Go program."""
    try:
        image = Image(data, "hostile")
        _ = image.sections, image.build_id, image.relocations
        read_buildinfo(image)
        for name in ("runtime.allgs", "main.main", ""):
            Symbols(image).address(name)
        for segment in image.segments:
            image.read_up_to(segment.address, 64)
            image.file_offset(segment.address + segment.file_size)
    except GotraceError:
        pass


def dwarf(data: bytes) -> None:
    """Abbreviations, after a 16-bit length, then .debug_info."""
    if len(data) < 2:
        return
    length, = struct.unpack_from("<H", data)
    try:
        from_dwarf(RuntimeTypes(Image(elf({".debug_abbrev": data[2 : 2 + length], ".debug_info": data[2 + length :]}))))
    except GotraceError:
        pass


class HostileMemory:
    """A target's memory: `data` at the place where Go's heap begins, and once more, as pointer and length, in allgs."""

    def __init__(self, data: bytes, allgs: int) -> None:
        self._data = data
        self._allgs = allgs
        self.pid = os.getpid()

    def read(self, address: int, size: int) -> bytes | None:
        """As gotrace.proc.memory.Memory.read."""
        for base, raw in ((self._allgs, self._data[:_ALLGS_AT]), (HEAP, self._data)):
            start = address - base
            if 0 <= start and start + size <= len(raw):
                return raw[start : start + size]
        return None

    def read_many(self, ranges: list[tuple[int, int]]) -> list[bytes | None]:
        """As gotrace.proc.memory.Memory.read_many."""
        return [self.read(*pair) for pair in ranges]

    def read_into(self, buffer: bytearray, total: int, remote: array[int]) -> int:
        """As gotrace.proc.memory.Memory.read_into."""
        assert sum(remote[1::2]) == total <= len(buffer) and len(remote) <= 2048
        position = 0
        for address, size in zip(remote[0::2], remote[1::2]):
            raw = self.read(address, size)
            if raw is None:
                break
            buffer[position : position + size] = raw
            position += size
        return position

    def u64(self, address: int) -> int | None:
        """As gotrace.proc.memory.Memory.u64."""
        raw = self.read(address, 8)
        return None if raw is None else int.from_bytes(raw, "little")

    def fixed(self, ranges: list[tuple[int, int]], buffer: bytearray) -> HostileRanges:
        """As gotrace.proc.memory.Memory.fixed."""
        assert sum(size for _, size in ranges) <= len(buffer) and len(ranges) <= 1024
        return HostileRanges(self, ranges)


class HostileRanges:
    """As gotrace.proc.memory.FixedRanges."""

    def __init__(self, memory: HostileMemory, ranges: list[tuple[int, int]]) -> None:
        self._memory = memory
        self._ranges = ranges

    def read(self) -> bytes | None:
        """All ranges, or None."""
        raws = self.read_each()
        return None if None in raws else b"".join(raws)

    def read_each(self) -> list[bytes | None]:
        """Range by range."""
        return self._memory.read_many(self._ranges)


@cache
def _genuine() -> GoBinary:
    path = CORPUS / "binary" / "go-1.27.3-stripped"
    return GoBinary(Image(path.read_bytes(), path.name))


def goroutines(data: bytes) -> None:
    """The g structs and stacks of a process whose memory is `data`; its first 16 bytes are the header of allgs."""
    found = _genuine()
    memory = HostileMemory(data, found.allgs)
    reader = GoroutineReader(memory, found, 0)
    if reader.count() <= 256:
        scanner = Scanner(memory, reader, Unwinder(found, 0), found.layout)
        changed, left = scanner.sample(), list[int]()
        crowds = list(scanner.crowds(changed, left, 400, fewest=1))
        assert sorted([*left, *(index for crowd in crowds for index in crowd.indexes)]) == sorted(changed)
        walked = {index: crowd.pcs for crowd in crowds for index in crowd.indexes}
        snapshots = scanner.snapshots(changed)
        assert all(snapshots[index].pcs == pcs for index, pcs in walked.items())
        for snapshot in snapshots.values():
            if snapshot.head.status not in OFF_CPU | {Status.SYSCALL}:
                continue
            with suppress(BadBinary):  # of the inlined calls nothing is left in the seed
                interpret(StackModel(found, 0), snapshot.head, snapshot.pcs, NO_SYSCALL)
    for goroutine in reader.read(reader.addresses()[:64]):
        reader.stack(goroutine)
        reader.first_frames(goroutine)
        reader.thread_of(goroutine)
    try:
        reader.check_layout()
    except GotraceError:
        pass


def labels(data: bytes) -> None:
    """The labels of a goroutine, in the form of Go 1.24 and later and in the one before, in a process whose memory is `data`."""
    for version in (27, 23):
        found = read_labels(HostileMemory(data, 0), HEAP, GoVersion(version))
        assert found is None or len(found) <= 256 and all(len(text) <= 1024 for pair in found.items() for text in pair)
        values = wanted_values(HostileMemory(data, 0), HEAP, version >= 24, (b"tenant", b"shard"), 64)
        assert values is None or all(value is None or len(value[0]) <= 64 and value[1] <= 1 << 20 for value in values)


_G, _SUDOG = HEAP, HEAP + 0x200


def objects(data: bytes) -> None:
    """What goroutines wait for, in a process whose memory is `data`: the first g's list of sudogs begins at 0x200, a Cond's address may be
    anywhere on its stack, which is the first kilobyte, and all of it is a table of semaphores and a type."""
    found, memory = _genuine(), HostileMemory(data, 0)
    pages, layout = Pages(memory), found.wait_layout
    types = TypeNames(pages, found, 0)
    types.base = HEAP
    allp = found.globals.allp or 0
    channels = Channels(pages, layout, types, Timers(pages, found, HEAP + 0x600 - allp))
    for cases in channels.cases({_G: _SUDOG, _G + 8: _SUDOG + 8, 1: 1 << 63}).values():
        assert len(cases) <= 1 << 16 and all(case.op in ("", "receive", "send") for case in cases)
        assert all(len(case.channel.elem) <= 512 for case in cases)
    channels.channel(HEAP + 0x400)
    for g, address in waiters(memory, pages, HEAP, layout).items():
        assert g and address
    cond = Conds(pages).of(_G, data[:1024])
    assert cond is None or cond.waiters
    reader = ObjectReader(memory, found, 0)
    reasons = ("chan receive", "select", "sync.Cond.Wait", "sleep", "sync.Mutex.Lock", "IO wait", "")
    parked = [Parked(_G + 8 * index, reason, ["sync.(*Mutex).lockSlow"], _SUDOG, HEAP, 0, data) for index, reason in enumerate(reasons)]
    for waited in reader.objects(parked, {_G + 40: Polled(1, HEAP, False, None)}).values():
        recorded = waited_object(waited, 1, ())
        json.dumps([recorded.kind, recorded.address, recorded.detail])


def ahead(data: bytes) -> None:
    """The code that goroutines will run, followed in the true executable from anywhere, with `data` as the stack and the heap."""
    found, memory = _genuine(), HostileMemory(data, 0)
    table = found.table
    words = struct.unpack(f"<{min(len(data), 256) // 8}Q", data[: min(len(data), 256) // 8 * 8])
    pcs = [table.text + word % (table.etext - table.text) for word in words]
    with suppress(BadBinary):  # of the inlined calls nothing is left in the seed
        for operation in Ahead(found, 0, memory.u64).operations(pcs, HEAP, HEAP):
            assert operation.address >= 0


def dumpfile(data: bytes) -> None:
    """A file that claims to be a dump."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(data)
        file.flush()
        try:
            loaded = load_dump(Path(file.name))
            for suffix in DUMP_RENDERERS:
                DUMP_RENDERERS[suffix](loaded)
            changes_json([loaded, loaded])
        except GotraceError:
            pass


def capture(data: bytes) -> None:
    """A file that claims to be a capture."""
    with tempfile.NamedTemporaryFile(suffix=".gotrace") as file:
        file.write(data)
        file.flush()
        _report(Path(file.name))


_NASTY: tuple[object, ...] = (
    None, 0, 1, -1, 2, 255, 1 << 31, (1 << 63) - 1, -(1 << 63), 1 << 64, 1 << 200, 0.5, -0.0, 1e308, float("nan"), float("inf"), True,
    "", "x", "\x1b[2J\x07\r\n", "main.f" * 2000, "\ud800", "</script>;", "[bold]", "2026-01-01T00:00:00", "waiting", "go", "waker",
    [], [1], [[]], [999999], {}, {"x": 1}, {"0": 1}, {"-5": 1}, {"9999": 1 << 70}, {"1": -1},
)


def rows(data: bytes) -> None:
    """A capture of which some cells, also inside its JSON, hold something else: each three bytes name a cell and a value."""
    content = json.loads((CORPUS / "capture.json").read_text())
    slots = list(_slots(content))
    for at in range(0, min(len(data) - 2, 96), 3):
        holder, key = slots[int.from_bytes(data[at : at + 2], "little") % len(slots)]
        holder[key] = _NASTY[data[at + 2] % len(_NASTY)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gotrace")
        write_rows(path, content)
        _report(path)


def _slots(value: object) -> Iterator[tuple]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _slots(value[key])  # type: ignore[index]


def write_rows(path: Path, content: dict[str, list]) -> None:
    """A capture with these rows, as far as SQLite takes them."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {TABLES}"
        )
        for table, of_table in content.items():
            for row in of_table if isinstance(of_table, list) else ():
                cells = [json.dumps(c) if isinstance(c, dict | list) else c for c in row] if isinstance(row, list) else []
                if table == "meta" and len(cells) == 2:
                    cells[1] = json.dumps(row[1])
                with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                    # Rows of an older version have fewer columns.
                    columns = [column for _, column, *_ in db.execute(f"PRAGMA table_info({table})")][: len(cells)]
                    db.execute(f"INSERT INTO {table}({','.join(columns)}) VALUES ({','.join('?' * len(cells))})", cells)


def _report(path: Path) -> None:
    from rich.console import Console

    from gotrace.render.summary import print_summary
    from gotrace.render.tree import print_tree

    try:
        profile = read_capture(path)
        profile.hotspots = find_hotspots(profile)
        console = Console(file=io.StringIO(), width=100)
        print_summary(profile, console)
        print_tree(profile, console)
        for suffix in RENDERERS:
            render(profile, suffix)
    except GotraceError:
        pass


def kallsyms(data: bytes) -> None:
    """A table of kernel symbols."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        symbols = KernelSymbols(Path(file.name))
        _ = symbols.restricted
        for address in (0, 1, 0xFFFFFFFF81000000, (1 << 64) - 1):
            symbols.function(address)
        symbols.address("schedule")
        symbols.address("")


def declared(data: bytes) -> None:
    """What a process says of itself for OpenTelemetry: as it is published, and as a variable has it."""
    for found in (context_attributes(data), from_environment(data), from_environment(b"OTEL_RESOURCE_ATTRIBUTES=" + data)):
        assert len(found) <= MOST_ATTRIBUTES and all(0 < len(value) <= LONGEST_VALUE for value in found.values())


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (binary, sections, dwarf, goroutines, labels, objects, ahead, dumpfile, capture, rows, kallsyms, declared)
}


def elf(contents: dict[str, bytes]) -> bytes:
    """An executable with sections and one segment that holds nothing."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in contents) + b".shstrtab\0"
    body, found, at = bytearray(), [(0, 0, 0, 0)], 1
    for name, content in (*contents.items(), (".shstrtab", names)):
        found.append((at, 3 if name == ".shstrtab" else 1, 120 + len(body), len(content)))
        at += len(name) + 1
        body += content
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 120 + len(body), 0, 64, 56, 1, 64, len(found), len(found) - 1
    )
    segment = struct.pack("<IIQQQQQQ", 1, 4, 0, 0x400000, 0, 0, 0, 4096)
    table = b"".join(struct.pack("<IIQQQQIIQQ", n, t, 0, 0, o, s, 0, 0, 1, 0) for n, t, o, s in found)
    return header + segment + bytes(body) + table

