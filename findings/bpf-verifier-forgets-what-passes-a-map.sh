#!/usr/bin/env bash
# The BPF verifier follows every way through a program of which it remembers a different number.
#
# Ways that meet again are one for the verifier only if it knows the same of all registers that matter. A number that differs by the way,
# and is used for an address later, makes twenty branches a million ways: "BPF program is too large". Written to a map's value and read
# back, the number is unknown, so all ways are one; a mask then bounds it. The program does the same with two instructions more. Of what
# lies in maps the verifier remembers nothing, unlike of the stack. Seen on Linux 6.18 with 20 branches: E2BIG after 1,000,001
# instructions, and verified after 201 with the two instructions. Needs root (bpf).
set -euo pipefail

python3 - <<'PY'
import ctypes
import errno
import re
import struct

BPF = 321  # x86-64
BRANCHES = 20
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """A descriptor, or the negative errno."""
    result = libc.syscall(BPF, command, attributes.ljust(128, b"\0"), 128)
    return result if result >= 0 else -ctypes.get_errno()


def instruction(code: int, to: int, of: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, to | of << 4, offset, value)


def program(table: int, through_the_map: bool) -> bytes:
    code = [
        instruction(0x62, 10, 0, -4, 0),  # key = 0
        instruction(0x18, 1, 1, 0, table), instruction(0, 0),
        instruction(0xBF, 2, 10), instruction(0x07, 2, value=-4),
        instruction(0x85, 0, value=1),  # bpf_map_lookup_elem
        instruction(0x55, 0, 0, 1, 0), instruction(0x95, 0),  # not found: end
        instruction(0xBF, 9, 0),
        instruction(0xB7, 7, value=0)]
    for bit in range(BRANCHES):
        code += [
            instruction(0x85, 0, value=7),  # bpf_get_prandom_u32
            instruction(0x65, 0, 0, 1, 5),  # if r0 > 5, skip
            instruction(0x07, 7, value=1 << bit)]
    if through_the_map:
        code += [instruction(0x7B, 9, 7), instruction(0x79, 7, 9)]
    code += [
        instruction(0x57, 7, value=4095),
        instruction(0x0F, 9, 7), instruction(0x71, 0, 9),  # a byte of the map's value
        instruction(0xB7, 0, value=0), instruction(0x95, 0)]
    return b"".join(code)


def load(code: bytes) -> tuple[str, int]:
    """What became of it, and how many instructions the verifier followed."""
    text, licence, log = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(1 << 16)
    result = bpf(5, struct.pack("IIQQIIQ", 1, len(code) // 8, ctypes.addressof(text), ctypes.addressof(licence), 4, len(log),
                                ctypes.addressof(log)))
    followed = int(re.search(r"[Pp]rocessed (\d+) insn", log.value.decode()).group(1))
    return "loaded" if result >= 0 else errno.errorcode[-result], followed


table = bpf(0, struct.pack("IIII", 2, 4, 8192, 1))
assert table >= 0, errno.errorcode[-table]
plain, passed = load(program(table, False)), load(program(table, True))
print(f"{BRANCHES} branches: {plain[0]} after {plain[1]} instructions; the number through a map: {passed[0]} after {passed[1]}")
raise SystemExit(not (plain[0] == "E2BIG" and passed[0] == "loaded" and passed[1] < 1000))
PY
