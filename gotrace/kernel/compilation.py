"""Has bcc compile bpf/*.c in a process of its own (gotrace/kernel/compiler.py), while this one goes on."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gotrace.common.errors import Refused
from gotrace.kernel.host.features import swaps
from gotrace.kernel.kept import KeptResult
from gotrace.kernel.program import PROGRAMS, SOURCES, definitions, source_folder

_COMPILER = Path(__file__).with_name("compiler.py")
_TIMEOUT_S = 120


@dataclass(frozen=True)
class MapShape:
    """A map of the C source. `kind` is the kernel's enum bpf_map_type."""

    name: str
    kind: int
    key_size: int
    value_size: int
    entries: int


@dataclass(frozen=True)
class CompiledPrograms:
    """The result: instructions by entry point, with indices into `maps` where they refer to a map."""

    bcc_version: str
    maps: tuple[MapShape, ...]
    code: dict[str, bytes]


class Compilation:
    """A running compiler, unless the same request was compiled before. `result` waits for it; `close` ends it. Starting it raises
    only Refused."""

    def __init__(self) -> None:
        folder = source_folder()
        defined = sorted(definitions(swaps()).items())
        self._kept = KeptResult(folder, repr((SOURCES, defined)))
        kept = self._kept.read()
        if kept is not None:
            with contextlib.suppress(KeyError, TypeError, ValueError):  # not what we wrote: compile again
                self._work: CompiledPrograms | _Compiler = _programs(kept)
                return
        flags = ["-Wno-everything", *(f"-D{name}={value}" for name, value in defined)]
        request = {"folder": str(folder), "sources": SOURCES, "flags": flags, "programs": PROGRAMS, "parent": os.getpid()}
        self._work = _Compiler(json.dumps(request).encode())

    def result(self) -> CompiledPrograms:
        """Waits for the compiled programs and returns them.

        Raises:
            Refused: bcc is missing, is PyPI's unrelated package of that name, or rejects the source.
        """
        if isinstance(self._work, _Compiler):
            compiler = self._work
            self._work = self._parse(compiler)
            compiler.close()
        return self._work

    def _parse(self, compiler: _Compiler) -> CompiledPrograms:
        output = compiler.answer()
        said = compiler.said()
        try:
            answer = json.loads(output)
        except ValueError:
            code = compiler.status()
            if code < 0:
                raise Refused(
                    f"the BPF compiler was killed by {signal.Signals(-code).name}",
                    "if the kernel had no memory for it (dmesg): raise the memory limit of gotrace's cgroup (docker: --memory)",
                ) from None
            hint = f"the whole report is in {keep_log(said)}" if said.strip() else "gotrace doctor"
            raise Refused(f"the BPF compiler ended with status {code}: {_first_error(said)}", hint) from None
        if "error" in answer:
            if answer["hint"]:
                raise Refused(answer["error"], answer["hint"])
            raise Refused(f"{answer['error']}: {_first_error(said)}", f"the whole report is in {keep_log(said)}")
        self._kept.write(output)
        return _programs(answer)

    def close(self) -> None:
        """Ends the compiler if it still runs. May be called twice."""
        if isinstance(self._work, _Compiler):
            self._work.close()


class _Compiler:
    """The process that compiles. `close` may be called twice."""

    def __init__(self, request: bytes) -> None:
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # -I: no module from the current directory or the environment gets into a process of root's. A session of its own: Ctrl-C is
            # for the process that waits for it.
            [sys.executable, "-I", str(_COMPILER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        self._answer = self._process.stdout
        try:
            self._process.stdin.write(request)
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it ended at once: `Compilation.result` tells why

    def answer(self) -> bytes:
        """What it writes to stdout, up to the end; raises Refused if nothing comes for `_TIMEOUT_S`."""
        output = bytearray()
        while True:
            if not select.select([self._answer], [], [], _TIMEOUT_S)[0]:
                self._process.kill()
                raise Refused(f"compiling the BPF program took longer than {_TIMEOUT_S} s", "gotrace doctor")
            part = os.read(self._answer.fileno(), 1 << 20)
            if not part:
                return bytes(output)
            output += part

    def said(self) -> str:
        """What it has written to stderr, up to 1 MB."""
        self._said.seek(0)
        return self._said.read(1 << 20).decode("utf-8", "replace")

    def status(self) -> int:
        """Its exit status, or minus the signal that ended it, once it has ended."""
        return self._process.wait()

    def close(self) -> None:
        """Ends it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._answer.close()
        self._said.close()


def _programs(answer: dict[str, Any]) -> CompiledPrograms:
    return CompiledPrograms(
        answer["bcc"], tuple(MapShape(*shape) for shape in answer["maps"]),
        {name: bytes.fromhex(code) for name, code in answer["programs"].items()},
    )


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "it said nothing")[:200]


def keep_log(text: str) -> str:
    """Writes a report to a new file in the temporary directory and returns its path."""
    with tempfile.NamedTemporaryFile("w", prefix="gotrace-bpf-", suffix=".log", delete=False) as file:
        file.write(text)
        return file.name
