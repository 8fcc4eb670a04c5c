"""Colours of static pictures: the interactive page's in its light theme."""

from __future__ import annotations

import colorsys
import re

from gotrace.common.vocabulary import FrameKind, State

PROCESS = "process"
"""Kind of the frame that stands for a process; not part of the public vocabulary."""

# Hues after Okabe and Ito, which colour-blind readers can tell apart: hue, saturation, lightness.
_KIND = {
    FrameKind.GO: (204, 72, 79),
    FrameKind.RUNTIME: (212, 10, 84),
    FrameKind.CGO: (52, 80, 68),
    FrameKind.SYSCALL: (40, 96, 52),
    FrameKind.KERNEL: (18, 84, 60),
    FrameKind.WAKER: (310, 44, 80),
    FrameKind.REASON: (164, 30, 92),
    FrameKind.LOST: (0, 0, 25),
    FrameKind.LABEL: (270, 55, 84),
    PROCESS: (220, 8, 88),
}

STATE = {
    State.WAITING: "#4a90c2",
    State.NETPOLL: "#2a9d7f",
    State.RUNNABLE: "#e6c52e",
    State.RUNQUEUE: "#9c6b1f",
    State.SYSCALL: "#dd6a3a",
    State.PREEMPTED: "#8b8f98",
}

MEANING = {
    FrameKind.GO: "Go code",
    FrameKind.RUNTIME: "Go runtime",
    FrameKind.CGO: "C code",
    FrameKind.SYSCALL: "into the kernel",
    FrameKind.KERNEL: "kernel",
    FrameKind.WAKER: "who woke it",
    FrameKind.REASON: "why it stopped",
    FrameKind.LOST: "not known",
    FrameKind.LABEL: "label",
    PROCESS: "process",
}


def frame_colours(kind: str, name: str = "") -> tuple[str, str]:
    """Fill and ink, ``#rrggbb``. In Go code and the runtime the package selects a shade, so that a change of package is visible."""
    hue, saturation, lightness = _KIND.get(kind, _KIND[FrameKind.LOST])
    shade = _hash(package_of(name)) % 7 - 3 if name and kind in (FrameKind.GO, FrameKind.RUNTIME) else 0
    rgb = colorsys.hls_to_rgb((hue + shade * 2) / 360, (lightness + shade * 1.2) / 100, saturation / 100)
    # Relative luminance of WCAG 2.1: letters are dark or light, whichever has more contrast.
    red, green, blue = (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb)
    ink = "#06101a" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "#ffffff"
    return "#" + "".join(f"{round(255 * v):02x}" for v in rgb), ink


def package_of(name: str) -> str:
    """The import path of a Go function's name. Slashes after the first bracket belong to a type argument."""
    slash = re.split(r"[\[(]", name, maxsplit=1)[0].rfind("/")
    dot = name.find(".", slash + 1)
    return name[:dot] if dot >= 0 else ""


def _hash(text: str) -> int:
    value = 0
    for char in text:
        value = (value * 31 + ord(char)) & 0xFFFF_FFFF
    return abs(value - (1 << 32) if value & 0x8000_0000 else value)
