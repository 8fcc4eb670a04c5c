"""An executable of which only what is needed is in memory, once it is known (`Image.leave_in_file`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gobuild import build

from gotrace.common.errors import BadBinary
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import FileBytes, read_file


def named(binary: GoBinary) -> list[object]:
    entries = [found[0].entry for name in ("main.main", "runtime.gopark") if (found := binary.function(name))]
    return [[(call.function, call.file, call.line) for call in binary.table.expand(entry + 5, is_return_address=True)] for entry in entries]


def test_functions_and_lines_are_the_same() -> None:
    path = build("parked", "1.27.3", "stripped")
    whole, left = (GoBinary(read_file(os.open(path, os.O_RDONLY), str(path))) for _ in range(2))
    fd = os.open(path, os.O_RDONLY)
    left.image.leave_in_file(fd)
    os.close(fd)  # it has its own
    assert isinstance(left.image.data, FileBytes) and isinstance(whole.image.data, bytes)
    assert len(named(whole)) == 2 and named(left) == named(whole)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = build("parked", "1.27.3", "stripped")
    image = read_file(os.open(path, os.O_RDONLY), str(path))
    (tmp_path / "other").write_bytes(b"\x7fELF")
    with pytest.raises(BadBinary, match="another size"):
        image.leave_in_file(os.open(tmp_path / "other", os.O_RDONLY))
