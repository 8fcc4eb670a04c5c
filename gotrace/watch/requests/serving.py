"""Which requests a goroutine serves, as its stack tells: those of the span functions that it is in."""

from __future__ import annotations

from gotrace.gobin.binary import GoBinary
from gotrace.kernel.records import RawStack
from gotrace.plan.probes import Plan

_MOST = 1 << 14


class Serving:
    """Of one process, whose code is loaded at `bias`. Span functions have no inlined copies: what is in one is in a call of it."""

    def __init__(self, plan: Plan, binary: GoBinary, bias: int) -> None:
        self._numbers = {span.entry: span.number for span in plan.spans}
        self._begins = {span.entry: span.begin.probe.site.address for span in plan.spans}
        self._table = binary.table
        self._bias = bias
        self._known: dict[tuple[tuple[int, ...], bool], frozenset[int]] = {}

    def functions(self, stack: RawStack) -> frozenset[int]:
        """The numbers of the span functions of which the stack has a call that has begun, as a probe would have seen it."""
        key = stack.pcs, stack.exact
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            numbers = (self._number(pc, stack.exact, leaf=not place) for place, pc in enumerate(stack.pcs))
            found = self._known[key] = frozenset(number for number in numbers if number is not None)
        return found

    def _number(self, pc: int, exact: bool, leaf: bool) -> int | None:
        # All but the leaf are return addresses, which may be those of a function's last instruction.
        at = pc - self._bias - (not (leaf and exact))
        function = self._table.function_at(at)
        if function is None or function.entry not in self._numbers:
            return None
        if leaf and exact and at <= self._begins[function.entry]:
            return None
        if leaf and not exact and not self._table.stack_delta(at):
            return None  # without a frame: it asks for more stack, then starts again
        return self._numbers[function.entry]
