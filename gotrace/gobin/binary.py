"""A Go executable: version, functions, layout, wait reasons and globals, each read at the first request."""

from __future__ import annotations

import itertools
import re
from functools import cached_property

from gotrace.common.errors import BadBinary
from gotrace.gobin import layout as layouts
from gotrace.gobin.buildinfo import BuildInfo, GoVersion, parse_version, read_buildinfo
from gotrace.gobin.derive import CodeFacts, derive, find_allgs, find_thread_local_g
from gotrace.gobin.dwarf import RuntimeTypes
from gotrace.gobin.functions import Function
from gotrace.gobin.globals import Globals
from gotrace.gobin.image import Image
from gotrace.gobin.moduledata import MAGIC_120
from gotrace.gobin.pclntab import Pclntab
from gotrace.gobin.schedlayout import SchedLayout, of_release, sched_layout
from gotrace.gobin.semtable import find_semtable
from gotrace.gobin.symbols import Symbols
from gotrace.gobin.waitlayout import WaitLayout, wait_layout
from gotrace.gobin.waitreasons import read_stop_reasons, read_wait_reasons

OLDEST = GoVersion(19)
_MAX_TEXTS = 512
_VERSION_TEXT = re.compile(rb"go1\.\d{1,3}(?:\.\d{1,3})?(?:rc\d+|beta\d+)?")


class GoBinary:
    """What gotrace knows of one Go executable. Pure: works on the bytes of the file.

    Raises:
        BadBinary: not a Go executable for linux/amd64 with a readable function table (constructor), or the requested piece is missing
            or contradicts the rest (properties).
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.table = Pclntab(image)
        self.symbols = Symbols(image)
        self.build_info: BuildInfo | None = read_buildinfo(image)
        self.misfits: list[str] = []
        self.version, self.version_source = self._find_version()
        if self.version is not None and self.version < OLDEST:
            raise BadBinary(
                f"{image.name} was built with {self.version}, which gotrace does not support",
                "gotrace supports Go 1.19 and later",
            )

    def _find_version(self) -> tuple[GoVersion | None, str]:
        if self.build_info is not None:
            return self.build_info.version, "build info"
        version = self._version_variable()
        return (version, "runtime.buildVersion") if version else (None, "unknown")

    def _version_variable(self) -> GoVersion | None:
        # runtime.buildVersion is a string variable: a {pointer, length} pair in a data segment that points to the text. Other version
        # texts in the file (error messages, test data) have no such header with exactly their length.
        image, found = self.image, set()
        texts = {}
        for address, text in itertools.islice(image.search(_VERSION_TEXT), _MAX_TEXTS):
            texts[address] = text
        if image.pie:
            for at, target in image.relocations.items():
                if target in texts and int.from_bytes(image.read_up_to(at + 8, 8), "little") == len(texts[target]):
                    found.add(texts[target])
        for address, text in texts.items():
            pattern = address.to_bytes(8, "little") + len(text).to_bytes(8, "little")
            if next(image.find_all(pattern, writable=True), None) is not None:
                found.add(text)
        versions = {str(parse_version(text.decode())) for text in found}
        return parse_version(versions.pop()) if len(versions) == 1 else None

    # -- facts -----------------------------------------------------------------------------------------------------------

    @property
    def stripped(self) -> bool:
        """Whether there is no ELF symbol table (-ldflags=-s)."""
        return not self.symbols.present

    @property
    def pie(self) -> bool:
        """Whether it is position independent."""
        return self.image.pie

    @cached_property
    def cgo(self) -> bool:
        """Whether it links package runtime/cgo, whatever CGO_ENABLED was at build time."""
        # crosscall2 is C's way into Go (runtime/cgo/asm_amd64.s): linked exactly when package runtime/cgo is.
        return bool(self.table.functions_named("crosscall2"))

    @cached_property
    def code_facts(self) -> CodeFacts:
        """What the machine code tells of the layout."""
        return derive(self.image, self.table)

    @cached_property
    def layout(self) -> layouts.Layout:
        """Field offsets; raises BadBinary if no source knows them or all contradict the code."""
        if self.version is None and self.table.magic != MAGIC_120:
            return layouts.choose(GoVersion(19), RuntimeTypes(self.image), self.code_facts, self.image.name)
        return layouts.choose(self.version, RuntimeTypes(self.image), self.code_facts, self.image.name)

    def fit(self, layout: layouts.Layout, misfits: list[str]) -> None:
        """Uses `layout` from now on, which a live process has confirmed; `misfits` are lines that say what it lacks for that reason."""
        self.layout, self.misfits = layout, misfits

    @cached_property
    def wait_reasons(self) -> tuple[str, ...]:
        """The version's wait reason texts by number."""
        return read_wait_reasons(self.image)

    @cached_property
    def stop_reasons(self) -> tuple[str, ...]:
        """The version's reasons to stop the world by number; () before Go 1.21."""
        return read_stop_reasons(self.image)

    @cached_property
    def allgs(self) -> int:
        """Link-time address of runtime.allgs; symbol and code must agree if both exist.

        Raises:
            BadBinary: not found, or they disagree.
        """
        symbol, code = self.symbols.address("runtime.allgs"), find_allgs(self.image, self.table)
        if symbol is not None and code is not None and symbol != code:
            raise BadBinary(f"{self.image.name}: runtime.allgs is {symbol:#x} by symbol, {code:#x} by the code")
        address = symbol if symbol is not None else code
        if address is None:
            raise BadBinary(f"{self.image.name}: runtime.allgs was not found")
        return address

    @cached_property
    def semtable(self) -> int | None:
        """Link-time address of runtime.semtable, None if it was not found."""
        return find_semtable(self.image, self.table, self.symbols)

    @cached_property
    def wait_layout(self) -> WaitLayout:
        """Fields of the runtime's records of waits; which are known may differ by binary."""
        return wait_layout(self.version, RuntimeTypes(self.image))

    @cached_property
    def sched_layout(self) -> SchedLayout:
        """Fields of the scheduler's tables: by release if that is in the table, which is quicker than DWARF, else by DWARF."""
        known = of_release(self.version) if self.version is not None else SchedLayout()
        return known if known.source else sched_layout(self.version, RuntimeTypes(self.image))

    @cached_property
    def globals(self) -> Globals:
        """The scheduler's variables."""
        return Globals(self, self.sched_layout)

    @cached_property
    def thread_local_g(self) -> int | None:
        """Offset of the thread-local g from the FS base, None if the code does not tell."""
        return find_thread_local_g(self.image, self.table)

    def check(self) -> None:
        """Refuses now what would otherwise be found missing when the first stack is shown: raises BadBinary."""
        _ = self.wait_reasons, self.stop_reasons, self.cgo, self.table.gofunc, self.table.wrapper_id

    def function(self, name: str) -> tuple[Function, str] | None:
        """The function `name` (``runtime.gopark``) and where it was found, or None.

        The function table is authoritative; an ELF symbol, if there is one, must give the same address.

        Raises:
            BadBinary: several functions have the name, or symbol and table disagree.
        """
        found = self.table.functions_named(name)
        if len(found) > 1:
            found = [function for function in found if function.func_id != self.table.wrapper_id]
        if not found:
            return None
        if len(found) > 1:
            raise BadBinary(f"{self.image.name}: {len(found)} functions are called {name}")
        symbols = [self.symbols.address(name), self.symbols.address(name + ".abi0")]
        if any(symbols) and found[0].entry not in symbols:
            raise BadBinary(f"{self.image.name}: {name} is at {found[0].entry:#x} in the function table, elsewhere by symbol")
        return found[0], "ELF symbol and function table" if any(symbols) else "function table"
