"""What goroutines wait for in Go: the numbers that both sides give it, and which wait reasons have an object."""

from __future__ import annotations

import re

from gotrace.common.vocabulary import StartKind
from gotrace.gobin.waitlayout import WaitLayout
from gotrace.kernel import waited
from gotrace.kernel.program import source_folder
from gotrace.kernel.records import RowKey
from gotrace.kernel.rows import mixed
from gotrace.kernel.waited import ObjectLayout, is_of_go, number_of_select, reasons_of

REASONS = (
    "", "GC assist marking", "IO wait", "chan receive (nil chan)", "chan send (nil chan)", "select", "select (no cases)", "chan receive",
    "chan send", "semacquire", "sleep", "sync.Cond.Wait", "sync.Mutex.Lock", "sync.RWMutex.RLock", "sync.WaitGroup.Wait",
    "chan receive (durable)", "select (durable)", "selecting a colour",
)


def texts(mask: int) -> list[str]:
    return [text for number, text in enumerate(REASONS) if mask >> number & 1]


def test_which_reasons_have_objects() -> None:
    found = reasons_of(REASONS)
    assert texts(found.channels) == ["chan receive", "chan send", "chan receive (durable)"]
    assert texts(found.selects) == ["select", "select (durable)"]
    assert texts(found.semaphores) == ["semacquire", "sync.Mutex.Lock", "sync.RWMutex.RLock", "sync.WaitGroup.Wait"]
    assert texts(found.conds) == ["sync.Cond.Wait"]
    kinds = {text: found.kind(number) for number, text in enumerate(REASONS)}
    assert (kinds["chan send"], kinds["select"], kinds["semacquire"], kinds["sync.Cond.Wait"]) == ("chan", "select", "semaphore", "cond")
    assert kinds["sleep"] == kinds["IO wait"] == kinds["chan send (nil chan)"] == kinds["select (no cases)"] == ""


def test_more_reasons_than_bits_are_left_out() -> None:
    assert reasons_of(["x"] * 70 + ["chan receive"]).channels == 0


def test_the_kernel_side_has_the_same_numbers() -> None:
    source = (source_folder() / "waited.c").read_text()
    defined = {name: value for name, value in re.findall(r"^#define (\w+) (\d+)\b", source, re.MULTILINE)}
    for name in ("NOT_READ", "NO_ROOM", "MOST_CASES", "COND_LOCK"):
        assert int(defined[name]) == getattr(waited, name), name
    assert "#define OF_SELECT (1ULL << 63)" in source and waited.OF_SELECT == 1 << 63


def test_a_select_s_number_is_no_address_and_depends_on_its_first_cases() -> None:
    channels = [0xC000010000 + 0x60 * number for number in range(20)]
    number = number_of_select(channels)
    assert number >> 63 and number == number_of_select(channels[: waited.MOST_CASES]) != number_of_select(channels[:15])
    assert number_of_select([7, 8]) == mixed(mixed(0, 7), 8) | 1 << 63


def test_what_is_not_known_is_left_out() -> None:
    class Known:
        m_waitlock, g_m = 632, 48

    reasons = reasons_of(REASONS)
    nothing = ObjectLayout(reasons, WaitLayout(), 0).constants(Known(), 200)  # type: ignore[arg-type]
    assert nothing["CHANNEL_REASONS"] == nothing["SELECT_REASONS"] == nothing["SEMAPHORE_REASONS"] == 0 != nothing["COND_REASONS"]
    wait = WaitLayout(g_waiting=312, sudog_elem=24, sudog_waitlink=64, sudog_c=80)
    known = ObjectLayout(reasons, wait, 0x500000).constants(Known(), 200)  # type: ignore[arg-type]
    assert known["SUDOG_READ"] == 88 and known["CHANNEL_REASONS"] == reasons.channels and known["SEMAPHORE_REASONS"] == reasons.semaphores
    assert not ObjectLayout(reasons, wait, 0).constants(Known(), 200)["SEMAPHORE_REASONS"]  # type: ignore[arg-type]
    assert waited.NO_OBJECTS.keys() == known.keys()


def test_files_are_told_from_what_is_go_s() -> None:
    def row(kind: StartKind, reason: int) -> RowKey:
        return RowKey(1, 0, 0, 5, 0, 0, reason, kind, 0, 0)

    assert is_of_go(row(StartKind.PARK, 7)) and is_of_go(row(StartKind.BEFORE, 12))
    assert not is_of_go(row(StartKind.PARK, 2)) and not is_of_go(row(StartKind.SYSCALL, 0))
