"""What a file descriptor was, in words: ``fd 7 → tcp 127.0.0.1:40312→127.0.0.1:6379``, or ``fd * → tcp 127.0.0.1:*→127.0.0.1:6379``."""

from __future__ import annotations

import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from gotrace.kernel.records import KernelObject

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM = 1, 2
_LISTEN = 10
_FOLDED = 0x100
"""The state of an object that stands for many connections (bpf/shared.h: OBJECT_FOLDED)."""
_FAMILIES = {AF_UNIX: "unix", AF_NETLINK: "netlink", 17: "packet", 40: "vsock"}


class Names(Protocol):
    """The names of open files, as /proc has them (`gotrace.proc.descriptors`)."""

    def name(self, fd: int, ino: int) -> str:
        """The name of the file behind `fd`, "" if it is no longer inode `ino`."""

    def unix_path(self, ino: int) -> str:
        """The path that the unix socket with that inode is bound to, "" if none."""


def describe(thing: KernelObject, names: Names) -> str:
    """The descriptor with its file or socket."""
    what = _socket(thing, names) if stat.S_ISSOCK(thing.mode) else _file(thing, names)
    fd = "*" if thing.state == _FOLDED else str(thing.fd)
    return f"fd {fd} → {what}" if what else f"fd {fd}"


def folded(thing: KernelObject) -> KernelObject:
    """What stands for all connections that differ from `thing` in their client's port alone; other things as they are. Where it is not
    known which end is the client's, it is the one with the larger port, as in bpf/objects.c: fold_ports."""
    if thing.family not in (AF_INET, AF_INET6) or thing.state in (_LISTEN, _FOLDED) or not thing.peer_port:
        return thing
    accepted = thing.peer_port > thing.local_port if thing.accepted is None else thing.accepted
    local_port, peer_port = (thing.local_port, 0) if accepted else (0, thing.peer_port)
    return replace(thing, fd=0, ino=0, state=_FOLDED, accepted=None, local_port=local_port, peer_port=peer_port)


def _socket(thing: KernelObject, names: Names) -> str:
    if thing.family in (AF_INET, AF_INET6):
        protocol = {_STREAM: "tcp", _DATAGRAM: "udp"}.get(thing.type & 0xF, "ip")
        if thing.state == _FOLDED:
            ends = ((thing.local, thing.local_port), (thing.peer, thing.peer_port))
            return f"{protocol} {'→'.join(_address(thing.family, raw, port or '*') for raw, port in ends)}"
        local = _address(thing.family, thing.local, thing.local_port)
        if thing.state == _LISTEN and thing.type == _STREAM:
            return f"{protocol} listening on {local}"
        if not thing.peer_port:
            return f"{protocol} {local}"
        return f"{protocol} {local}→{_address(thing.family, thing.peer, thing.peer_port)}"
    if thing.family == AF_UNIX:
        path = thing.path or names.unix_path(thing.ino)
        return f"unix {path}" if path else "unix"
    name = names.name(thing.fd, thing.ino)
    kind = _FAMILIES.get(thing.family, f"socket of family {thing.family}" if thing.family else "socket")
    return f"{kind} {name}".strip() if not name.startswith("socket:") else kind


def _address(family: int, raw: bytes, port: int | str) -> str:
    if family == AF_INET:
        return f"{IPv4Address(raw[:4])}:{port}"
    address = IPv6Address(raw[:16])
    if address.ipv4_mapped is not None:
        return f"{address.ipv4_mapped}:{port}"
    return f"[{address}]:{port}"


def _file(thing: KernelObject, names: Names) -> str:
    name = names.name(thing.fd, thing.ino)
    if stat.S_ISFIFO(thing.mode):
        return "pipe" if not name or name.startswith("pipe:") else f"fifo {name}"
    if name.startswith("anon_inode:"):
        return name.removeprefix("anon_inode:").strip("[]")
    if name:
        return name
    for test, text in (
        (stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISCHR, "character device"), (stat.S_ISBLK, "block device"),
    ):
        if test(thing.mode):
            return f"{text} (inode {thing.ino})"
    return ""
