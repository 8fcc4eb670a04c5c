"""Text for people: makes untrusted strings safe. Durations and shares are in `gotrace.common.units`."""

from __future__ import annotations

from gotrace.common.units import format_duration, format_share

__all__ = ("ERROR_LIMIT", "NAME_LIMIT", "TOLD_LIMIT", "format_duration", "format_share", "sanitize")

NAME_LIMIT = 160
"""The most characters of a symbol, path or process name on a terminal."""
ERROR_LIMIT = 1000
"""The most characters of an error or a hint, which may contain paths and a command to copy."""
TOLD_LIMIT = 600
"""The most characters of a line on what a trace went without."""


def sanitize(text: str, limit: int = NAME_LIMIT) -> str:
    """`text` as one line of at most `limit` characters that can't control a terminal.

    Unprintable characters (control characters, escapes, line ends, bidi and other format characters, lone surrogates) become their
    Python escape, such as ``\\x1b``. A text that is too long loses its middle: the package and the method both stay.
    """
    # A symbol may be megabytes: cut before escaping, which multiplies the length by at most ten.
    if len(text) > 2 * limit:
        text = _shorten(text, 2 * limit)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escape(char) for char in text)
    return _shorten(text, limit)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return text[: limit - 1 - tail] + "…" + text[len(text) - tail :]
