"""The Go version and build settings that the linker writes into every binary (debug/buildinfo, Go 1.18 and later)."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

from gotrace.gobin.image import Image

_MAGIC = b"\xff Go buildinf:"
_VERSION = re.compile(rb"go1\.(\d{1,3})(?:\.(\d{1,3}))?(?:(?:rc|beta)\d+)?")
_MAX_MODINFO = 1 << 20
_MAX_FOUND = 64


@dataclass(frozen=True, order=True)
class GoVersion:
    """A Go release, comparable. `patch` is 0 for go1.N, release candidates and betas."""

    minor: int
    patch: int = 0
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text or f"go1.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class BuildInfo:
    """The contents of the build info. `settings` has keys such as ``CGO_ENABLED``, ``-buildmode``, ``-ldflags``."""

    version: GoVersion
    path: str
    settings: dict[str, str]


def parse_version(text: str) -> GoVersion | None:
    """``go1.22.10``, also within ``devel go1.28-abcdef`` or ``go1.24.3 X:boringcrypto``; None if there is none."""
    match = _VERSION.search(text.encode("utf-8", "replace"))
    if not match:
        return None
    return GoVersion(int(match.group(1)), int(match.group(2) or 0), match.group(0).decode())


def read_buildinfo(image: Image) -> BuildInfo | None:
    """The build info of `image`, or None if it is missing, from before Go 1.18, or garbled.

    Layout: src/debug/buildinfo/buildinfo.go: magic, pointer size, flags; with flag 2 two varint-counted strings at +32.
    """
    section = image.sections.get(".go.buildinfo")
    if section:
        return _read(image, section.offset)
    # Without section headers: it is aligned to 16 bytes, in a segment that is writable when the program starts
    # (cmd/link/internal/ld/data.go: buildinfo). Those of other programs that the file contains are usually elsewhere.
    found = []
    for address in itertools.islice(image.find_all(_MAGIC, writable=True), _MAX_FOUND):
        offset = image.file_offset(address)
        if address % 16 == 0 and offset is not None and (info := _read(image, offset)) is not None:
            found.append(info)
    return found[0] if len({str(info.version) for info in found}) == 1 else None


def _read(image: Image, start: int) -> BuildInfo | None:
    if image.data[start : start + 14] != _MAGIC or start + 33 > len(image.data):
        return None
    if not image.data[start + 15] & 2:
        return None
    version_bytes, position = _string(image, start + 32, 256)
    modinfo, _ = _string(image, position, _MAX_MODINFO)
    version = parse_version(version_bytes.decode("utf-8", "replace"))
    if version is None:
        return None
    # The module info is between two 16-byte markers (runtime/debug/mod.go, cmd/go/internal/modload/build.go).
    text = modinfo[16:-16].decode("utf-8", "replace") if len(modinfo) >= 33 else ""
    path, settings = "", {}
    for line in text.split("\n"):
        kind, _, value = line.partition("\t")
        if kind == "path":
            path = value
        elif kind == "build":
            key, _, setting = value.partition("=")
            settings[key] = setting
    return BuildInfo(version, path, settings)


def _string(image: Image, position: int, limit: int) -> tuple[bytes, int]:
    size = shift = 0
    while position < len(image.data) and shift < 35:
        byte = image.data[position]
        position += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if size > limit:
        return b"", position
    return image.data[position : position + size], position + size
