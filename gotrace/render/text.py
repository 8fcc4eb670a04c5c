"""Text for people: untrusted strings made safe, durations and shares made readable."""

from __future__ import annotations

NAME_LIMIT = 160
"""Characters of a symbol, path or process name that reach a terminal."""

_UNITS = ((1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s"))
_MINUTE = 60 * 1_000_000_000
_HOUR = 60 * _MINUTE


def sanitize(text: str, limit: int = NAME_LIMIT) -> str:
    """`text` as one line of at most `limit` characters that no terminal acts upon.

    What is not printable (control characters, escapes, line ends, bidi and other format characters, lone surrogates)
    becomes its Python escape, as ``\\x1b``. Too long a text loses its middle: the package and the method both stay.
    """
    # A symbol may be megabytes: cut before escaping, which multiplies the length by ten at most.
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


def format_duration(duration_ns: int) -> str:
    """Three significant digits and a unit: ``870 ns``, ``1.23 ms``, ``30.0 s``, ``12.5 min``, ``3.40 h``."""
    if duration_ns >= 2 * _HOUR:
        return f"{_three_digits(duration_ns / _HOUR)} h"
    if duration_ns >= 10 * _MINUTE:
        return f"{_three_digits(duration_ns / _MINUTE)} min"
    if duration_ns < 1_000:
        return f"{duration_ns} ns"
    for scale, unit in _UNITS:
        # 999,500 of a unit's thousandth would round to "1000": it belongs to the next unit.
        if duration_ns < 999.5 * scale:
            return f"{_three_digits(duration_ns / scale)} {unit}"
    return f"{duration_ns / 1_000_000_000:.0f} s"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def format_share(part: int, whole: int) -> str:
    """`part` of `whole` in per cent, ``12.3 %``; ``<0.1 %`` rather than a nought that is none."""
    if not whole:
        return "0.0 %"
    percent = 100 * part / whole
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"
