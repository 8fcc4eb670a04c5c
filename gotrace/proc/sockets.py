"""The internet sockets of a process's network namespace, as /proc/PID/net lists them."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from gotrace.proc.memory import living_thread

_MOST_LINES = 1 << 18
_LISTEN = "0A"
_TABLES = (("tcp", 2, 1), ("tcp6", 10, 1), ("udp", 2, 2), ("udp6", 10, 2))


@dataclass(frozen=True)
class Socket:
    """`family` and `type` as in socket(2); addresses raw, as on the wire; `state` as in include/net/tcp_states.h. `accepted`: somebody
    listens at its port; None where nobody can."""

    family: int
    type: int
    state: int
    local: bytes
    local_port: int
    peer: bytes
    peer_port: int
    accepted: bool | None


def internet_sockets(pid: int, inodes: set[int]) -> dict[int, Socket]:
    """The sockets with one of `inodes`, by inode; those that are gone are missing."""
    found: dict[int, Socket] = {}
    listening: set[int] = set()
    pid = living_thread(pid) or pid  # a main thread that has ended is in no network namespace any more
    for table, family, kind in _TABLES:
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii", errors="replace") as file:
                next(file, None)
                for _, line in zip(range(_MOST_LINES), file, strict=False):
                    # sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
                    fields = line.split(None, 10)
                    if len(fields) > 3 and fields[3] == _LISTEN and kind == socket.SOCK_STREAM:
                        listening.add(_address(fields[1])[1])  # the list begins with them (net/ipv4/tcp_ipv4.c: tcp_get_idx)
                    if len(fields) > 9 and fields[9].isdigit() and int(fields[9]) in inodes:
                        local, local_port = _address(fields[1])
                        peer, peer_port = _address(fields[2])
                        accepted = local_port in listening if kind == socket.SOCK_STREAM else None
                        found[int(fields[9])] = Socket(family, kind, int(fields[3], 16), local, local_port, peer, peer_port, accepted)
        except (OSError, ValueError):
            continue
        if len(found) == len(inodes):
            break
    return found


def _address(text: str) -> tuple[bytes, int]:
    # 32-bit words in the host's byte order (net/ipv4/tcp_ipv4.c: get_tcp4_sock), the port in ours.
    address, _, port = text.partition(":")
    raw = bytes.fromhex(address)
    return b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4)), int(port, 16)
