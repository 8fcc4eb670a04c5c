"""Every file format in which a dump can be written, by suffix."""

from __future__ import annotations

from collections.abc import Callable

from gotrace.common.errors import UsageError
from gotrace.dump.folded import dump_folded
from gotrace.dump.page import dump_html
from gotrace.dump.pprof import dump_pprof
from gotrace.dump.text import dump_json
from gotrace.dump.types import Dump

RENDERERS: dict[str, Callable[[Dump], bytes]] = {
    ".folded": lambda dump: dump_folded(dump).encode(),
    ".html": dump_html,
    ".json": lambda dump: dump_json(dump).encode(),
    ".pb.gz": dump_pprof,
}


def format_of_dump(path: str) -> str:
    """The key of `RENDERERS` for `path`; ``-`` is folded text.

    Raises:
        UsageError: no format has that suffix.
    """
    suffix = ".folded" if path == "-" else next((suffix for suffix in RENDERERS if path.lower().endswith(suffix)), "")
    if not suffix:
        raise UsageError(
            f"cannot tell a format of dumps from the output's name: {path!r}", f"end the name in one of {' '.join(RENDERERS)}"
        )
    return suffix
