"""Runs bcc in a process of its own: C in, instructions and map shapes out. Not imported: `gotrace.kernel.program` starts it as a
script, so that LLVM's memory (some 100 MB) is freed with it and the target's binary is read in parallel.

Reads one JSON object from stdin: ``{"folder": PATH, "sources": [FILE...], "flags": [FLAG...], "programs": [NAME...], "parent":
PID}``; the kernel kills the compiler when the parent, which started it, ends.
Writes one to stdout: ``{"bcc": VERSION, "maps": [[NAME, TYPE, KEY_SIZE, VALUE_SIZE, ENTRIES]...], "programs": {NAME: HEX}}``. The
immediate of an instruction that refers to a map is the map's index in ``maps``. In case of an error it writes
``{"error": TEXT, "hint": TEXT}``. The compiler's own messages go to stderr.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TypedDict

_LDDW = 0x18
_PSEUDO_MAP_FD = 1
_PR_SET_PDEATHSIG = 1


class _Request(TypedDict):
    folder: str
    sources: list[str]
    flags: list[str]
    programs: list[str]
    parent: int


def _import_bcc() -> ModuleType | dict[str, str]:
    """The module, or the answer that tells why there is none."""
    try:
        import bcc
        from bcc import BPF, lib  # noqa: F401 - PyPI's package of this name has neither
    except ModuleNotFoundError as error:
        why = "" if error.name == "bcc" else f": {error}"
        return {
            "error": f"Python's bcc module is not installed for {sys.executable}{why}",
            "hint": "sudo apt-get install python3-bpfcc, and a Python that sees the system's packages (./scripts/install)",
        }
    except ImportError as error:
        return {
            "error": f"the installed bcc module is not the BPF Compiler Collection: {error}",
            "hint": "pip uninstall bcc; sudo apt-get install python3-bpfcc (PyPI's bcc is an unrelated package)",
        }
    except OSError as error:
        return {"error": f"bcc's library can't be loaded: {error}", "hint": "apt-get install --reinstall libbpfcc"}
    module: ModuleType = bcc
    return module


def _compile(bcc: ModuleType, request: _Request) -> dict[str, object]:
    folder = request["folder"]
    os.environ["BCC_KERNEL_SOURCE"] = os.path.join(folder, "include")
    source = b""
    for name in request["sources"]:
        with open(os.path.join(folder, name), "rb") as file:
            source += file.read()
    # The maps that bcc creates here have one entry and disappear with this process.
    bpf = bcc.BPF(text=source, cflags=["-I" + folder, *request["flags"]])
    maps: list[tuple[str, int, int, int, int]] = []
    index_of_fd: dict[int, int] = {}
    lib = bcc.lib
    lib.bpf_num_tables.argtypes, lib.bpf_num_tables.restype = [ctypes.c_void_p], ctypes.c_size_t
    for name, result in (
        ("name", ctypes.c_char_p), ("fd_id", ctypes.c_int), ("type_id", ctypes.c_int), ("key_size_id", ctypes.c_size_t),
        ("leaf_size_id", ctypes.c_size_t), ("max_entries_id", ctypes.c_int),
    ):
        function = getattr(lib, "bpf_table_" + name)
        # bcc declares only those functions that its own classes call.
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t], result
    for index in range(lib.bpf_num_tables(bpf.module)):
        name = lib.bpf_table_name(bpf.module, index).decode()
        index_of_fd[lib.bpf_table_fd_id(bpf.module, index)] = index
        maps.append((
            name, lib.bpf_table_type_id(bpf.module, index),
            lib.bpf_table_key_size_id(bpf.module, index), lib.bpf_table_leaf_size_id(bpf.module, index),
            lib.bpf_table_max_entries_id(bpf.module, index),
        ))
    programs = {}
    for name in request["programs"]:
        code = bytearray(bpf.dump_func(name.encode()))
        for at in range(0, len(code), 8):
            opcode, registers, immediate = code[at], code[at + 1], struct.unpack_from("<i", code, at + 4)[0]
            if opcode == _LDDW and registers >> 4 == _PSEUDO_MAP_FD:
                struct.pack_into("<i", code, at + 4, index_of_fd[immediate])
        programs[name] = code.hex()
    return {"bcc": getattr(bcc, "__version__", "unknown"), "maps": maps, "programs": programs}


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had already ended
        os._exit(1)


def main() -> None:
    request: _Request = json.load(sys.stdin)
    _end_with(request["parent"])
    bcc = _import_bcc()
    answer: Mapping[str, object]
    if isinstance(bcc, ModuleType):
        try:
            answer = _compile(bcc, request)
        except Exception as error:  # bcc raises bare Exception
            version = getattr(bcc, "__version__", "unknown")
            answer = {"error": f"the BPF program was not compiled by bcc {version}: {error}", "hint": ""}
    else:
        answer = bcc
    try:
        json.dump(answer, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    # bcc's clean-up at exit writes to tracefs, which need not be mounted; the kernel closes everything.
    os._exit(0)


if __name__ == "__main__":
    main()
