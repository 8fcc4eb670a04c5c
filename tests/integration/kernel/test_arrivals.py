"""Who sends to a waiting goroutine is told by the kernel's stack where the data arrived: one for each way to send, in any order, on
descriptors that are used again."""

from __future__ import annotations

import os
import random
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from attach import Attached
from gobuild import GO_VERSIONS, build
from kernelsymbols import NO_ARRIVALS, sees_arrivals
from summaries import count, names
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.skipif(not sees_arrivals(), reason=NO_ARRIVALS)]

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
# What a system call is called in the kernel, in any of the stacks of its kind.
WAYS = {
    "ksys_write": lambda client: os.write(client.fileno(), REQUEST),
    "do_writev": lambda client: os.writev(client.fileno(), [REQUEST[:9], REQUEST[9:]]),
    "__sys_sendto": lambda client: client.send(REQUEST),
    "__sys_sendmsg": lambda client: client.sendmsg([REQUEST]),
}
EACH = 60


def test_each_way_to_send_has_its_own_stack(tmp_path: Path) -> None:
    order = [way for way in WAYS for _ in range(EACH)]
    random.Random(0).shuffle(order)
    with Workload(build("load", GO_VERSIONS[-1], "plain"), "serve") as server:
        address = server.ready.split()[1].rsplit(":", 1)
        with socket.create_connection((address[0], int(address[1]))) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with Attached(server.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
                for way in order:
                    WAYS[way](client)
                    assert client.recv(4096).startswith(b"HTTP/1.1 200")
                    time.sleep(0.002)  # it waits again
                summary = trace.end_json()
    woken = [stack for stack in summary["stacks"] if stack["reason"] == "IO wait" and "net/http.(*conn).serve" in names(stack, "go")]
    found = Counter()
    for stack in woken:
        for way in WAYS:
            found[way] += stack["count"] * (way in names(stack, "waker"))
    # A reader that finds its request there already does not wait for it.
    assert all(0.9 * EACH <= found[way] <= EACH for way in WAYS), (found, count(woken))
    assert sum(found.values()) <= count(woken) <= len(order) + 2


def test_a_descriptor_that_is_used_again_has_its_own_peer(tmp_path: Path) -> None:
    ports = []
    with Workload(build("load", GO_VERSIONS[-1], "plain"), "serve") as server:
        host, _, port = server.ready.split()[1].rpartition(":")
        with Attached(server.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
            for _ in range(30):
                with socket.create_connection((host, int(port))) as client:
                    ports.append(client.getsockname()[1])
                    for _ in range(2):
                        client.send(REQUEST)
                        assert client.recv(4096).startswith(b"HTTP/1.1 200")
                        time.sleep(0.004)
                time.sleep(0.004)
            summary = trace.end_json()
    waits = [stack for stack in summary["stacks"] if stack["reason"] == "IO wait" and "net/http.(*conn).serve" in names(stack, "go")]
    objects = Counter()
    for stack in waits:
        for name in names(stack):
            objects[name] += stack["count"]
    missing = [own for own in ports if not any(f":{own}" in name for name in objects)]
    assert not missing, (missing, objects)
    # Each connection waits for its second request and for its end, no other's waits are counted there.
    assert all(sum(number for name, number in objects.items() if f":{own}" in name) <= 3 for own in ports), objects
