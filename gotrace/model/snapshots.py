"""From a goroutine read in memory to the same stacks, states and reasons as from probes."""

from __future__ import annotations

from gotrace.common.vocabulary import Part, StartKind, State
from gotrace.kernel.records import IntervalRow, KernelObject, RawStack, RowKey
from gotrace.live.gstruct import Head, Status
from gotrace.live.scan import waits_for_first_turn
from gotrace.model.stacks import GoStack, StackModel

KIND_OF_STATUS: dict[int, StartKind] = {
    Status.WAITING: StartKind.PARK, Status.LEAKED: StartKind.PARK, Status.PREEMPTED: StartKind.PREEMPT_PARK,
    Status.SYSCALL: StartKind.SYSCALL,
}
"""How a goroutine in that state left the CPU. RUNNABLE does not tell."""


def interpret(
    model: StackModel, head: Head, pcs: tuple[int, ...] | None, call: int, goid: int = 0, thing: KernelObject | None = None,
    kind: StartKind | None = None, kernel: tuple[int, ...] = (), own: RawStack | None = None,
) -> tuple[IntervalRow, GoStack]:
    """Returns a goroutine off the CPU as the row that a probe would have recorded, with that row's stack.

    `pcs` is None if the stack could not be read; `call` is the number of the system call that it is in, `thing` the file concerned. If its
    thread sleeps in the kernel, `kind` says in what, `kernel` are the kernel functions that it is in, and `own` is its stack if it was
    found by the thread's registers.
    """
    created = waits_for_first_turn(head)
    if kind is None:
        kind = StartKind.CREATED if created else KIND_OF_STATUS.get(Status(head.status), StartKind.BEFORE)
    stack = own or RawStack(pcs or (head.pc,), exact=created, unreadable=pcs is None)
    in_kernel = RawStack(kernel, kernel=True) if kernel else None
    row = IntervalRow(RowKey(0, 0, 0, 0, goid, 0, head.reason, kind, Part.MAIN, call), stack, in_kernel, object=thing)
    found = model.interpret(row)
    if kind is StartKind.BEFORE and found.state is State.WAITING:
        # It has waited and is runnable: the stack is still that of the wait.
        row = IntervalRow(row.key._replace(part=Part.RUNNABLE), stack)
        found = model.interpret(row)
    return row, found
