"""What descriptors are open on, whatever names other processes give their sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from gotrace.proc.descriptors import Descriptors


def test_a_socket_whose_path_looks_like_lines_of_the_table(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hostile, socket.socket(socket.AF_UNIX) as honest:
        hostile.bind(str(tmp_path / "a\n1: 2 3 4 5 6 \u00b2 x"))
        honest.bind(str(tmp_path / "b"))
        inode = os.fstat(honest.fileno()).st_ino
        assert Descriptors(os.getpid()).unix_path(inode) == str(tmp_path / "b")
