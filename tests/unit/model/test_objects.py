"""What is said of a file descriptor."""

from __future__ import annotations

import socket
import stat
from dataclasses import replace

import pytest

from gotrace.kernel.records import KernelObject
from gotrace.model.objects import describe, folded

ESTABLISHED, LISTEN = 1, 10
HOST, OTHER = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.7")
V6 = socket.inet_pton(socket.AF_INET6, "fd00::1")


class NoNames:
    def name(self, fd: int, ino: int) -> str:
        return ""

    def unix_path(self, ino: int) -> str:
        return ""


def tcp(local_port: int, peer_port: int, family: int = socket.AF_INET, state: int = ESTABLISHED) -> KernelObject:
    local, peer = (HOST, OTHER) if family == socket.AF_INET else (V6, V6)
    return KernelObject(7, stat.S_IFSOCK, 1234, 8, family, socket.SOCK_STREAM, state, local, local_port, peer, peer_port)


@pytest.mark.parametrize(("thing", "whole", "without"), [
    (tcp(8080, 40312), "fd 7 → tcp 10.0.0.1:8080→10.0.0.7:40312", "fd * → tcp 10.0.0.1:8080→10.0.0.7:*"),
    (tcp(40312, 5432), "fd 7 → tcp 10.0.0.1:40312→10.0.0.7:5432", "fd * → tcp 10.0.0.1:*→10.0.0.7:5432"),
    (tcp(40312, 40312), "fd 7 → tcp 10.0.0.1:40312→10.0.0.7:40312", "fd * → tcp 10.0.0.1:*→10.0.0.7:40312"),
    (tcp(443, 50000, socket.AF_INET6), "fd 7 → tcp [fd00::1]:443→[fd00::1]:50000", "fd * → tcp [fd00::1]:443→[fd00::1]:*"),
    (tcp(8080, 0, state=LISTEN), "fd 7 → tcp listening on 10.0.0.1:8080", "fd 7 → tcp listening on 10.0.0.1:8080"),
    (replace(tcp(40000, 50000), accepted=False), "fd 7 → tcp 10.0.0.1:40000→10.0.0.7:50000", "fd * → tcp 10.0.0.1:*→10.0.0.7:50000"),
    (replace(tcp(50000, 40000), accepted=True), "fd 7 → tcp 10.0.0.1:50000→10.0.0.7:40000", "fd * → tcp 10.0.0.1:50000→10.0.0.7:*"),
    (tcp(0, 0, state=7), "fd 7 → tcp 10.0.0.1:0", "fd 7 → tcp 10.0.0.1:0"),
    (KernelObject(3, stat.S_IFIFO, 9, 1), "fd 3 → pipe", "fd 3 → pipe"),
])
def test_a_client_s_port_can_be_left_out(thing: KernelObject, whole: str, without: str) -> None:
    names = NoNames()
    assert describe(thing, names) == whole
    assert describe(folded(thing), names) == without
    assert folded(folded(thing)) == folded(thing)


def test_all_clients_of_a_server_are_one() -> None:
    assert len({folded(tcp(8080, port)) for port in range(32768, 60999)}) == 1
    assert len({folded(tcp(port, 5432)) for port in range(32768, 60999)}) == 1
