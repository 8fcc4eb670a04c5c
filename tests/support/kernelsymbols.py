"""What the running kernel has, by its own list of names."""

from __future__ import annotations

from pathlib import Path

_SYMBOLS = Path("/proc/kallsyms")


def has_symbol(name: str) -> bool:
    """Whether the kernel has a function or variable of that name."""
    with _SYMBOLS.open() as symbols:
        return any(line.split()[2] == name for line in symbols)


def sees_arrivals() -> bool:
    """Whether the kernel can tell when a socket has data: through a kprobe, else a tracepoint of Linux 6.3 and later."""
    return has_symbol("register_kprobe") or has_symbol("__traceiter_sk_data_ready")


NO_ARRIVALS = "this kernel can't tell when a socket has data (remedy: Linux 6.3, or kprobes: sudo ./scripts/vm test)"
