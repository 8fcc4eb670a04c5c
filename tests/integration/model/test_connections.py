"""What lies behind a socket, where connections are many and short."""

from __future__ import annotations

import re
import time

import pytest
from gobuild import build
from workload import Workload

from gotrace.common.vocabulary import FrameKind, Loss
from gotrace.profile.types import Profile
from gotrace.run.options import AttachOptions
from gotrace.run.session import Session

pytestmark = [pytest.mark.bpf, pytest.mark.beside]


def traced(workload: Workload, fold_ports: bool) -> Profile:
    options = AttachOptions((workload.pid,), duration_ns=2_000_000_000, outputs=(), fold_ports=fold_ports)
    with Session(options) as session:
        session.prepare()
        return session.run()


def connections(profile: Profile) -> set[str]:
    names = {frame.name for stack in profile.stacks for frame in stack.frames if frame.kind is FrameKind.SYSCALL}
    return {name.partition("→ ")[2].removesuffix(")") for name in names if "→ tcp" in name and "listening" not in name}


@pytest.mark.full
def test_connections_that_differ_in_their_client_s_port_alone_are_one() -> None:
    """The program asks itself, half of the time on a new connection, of which each end waits."""
    with Workload(build("faulty", "1.27.3", "stripped")) as workload:
        time.sleep(0.3)
        apart, together = traced(workload, False), traced(workload, True)
    ends = connections(together)
    assert len(connections(apart)) > 100
    [port] = {port for end in ends for port in re.findall(r":(\d+)", end)}
    assert ends == {f"tcp 127.0.0.1:{port}→127.0.0.1:*", f"tcp 127.0.0.1:*→127.0.0.1:{port}"}
    # The kernel's side makes them one: its tables don't grow with the number of connections.
    at_sockets = [sum(any("→ tcp" in frame.name for frame in stack.frames) for stack in one.stacks) for one in (apart, together)]
    assert at_sockets[1] < at_sockets[0] / 5, at_sockets
    waited = [
        sum(stack.distribution.total_ns for stack in one.stacks if stack.reason == "IO wait") / one.window.duration_ns
        for one in (apart, together)
    ]
    assert waited[1] == pytest.approx(waited[0], rel=0.2) and not together.losses[Loss.OBJECT_TABLE_FULL]
