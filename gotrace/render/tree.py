"""The stacks as a tree of text: from the goroutine's first function to the wait, the largest branch first.

A path without a fork runs straight down; only forks indent. The hottest path, which takes the largest branch at every fork, is marked
with ``▶``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from gotrace.common.vocabulary import FrameKind
from gotrace.profile.frames import folded_frames, is_background, is_program, label_frames, plain_name, without_waker
from gotrace.profile.told import nothing_line
from gotrace.profile.types import Frame, Profile
from gotrace.render.frames import reason_label
from gotrace.render.text import TOLD_LIMIT, format_duration, format_share, sanitize

LEAST_SHARE = 0.01
"""Branches below this share of all off-CPU time are summed up in one line."""
DEEPEST = 12
"""Below this many forks a branch is not opened: its indentation would leave no room for names."""
RUNTIME_GOROUTINES = "runtime goroutines (GC, scavenger, …)"
_MARK = "▶ "
_STYLE = {
    FrameKind.RUNTIME: "dim", FrameKind.SYSCALL: "yellow", FrameKind.KERNEL: "red", FrameKind.REASON: "cyan", FrameKind.LOST: "bold red",
    FrameKind.LABEL: "magenta",
}


@dataclass
class _Node:
    frame: Frame
    total_ns: int = 0
    children: dict[tuple[str, FrameKind], _Node] = field(default_factory=dict)
    one_line: bool = True
    """All stacks pass through the same line of the function, and it is known."""

    def child(self, frame: Frame) -> _Node:
        key = (frame.name, frame.kind)
        found = self.children.get(key)
        if found is None:
            found = self.children[key] = _Node(frame, one_line=bool(frame.file))
        elif (frame.file, frame.line) != (found.frame.file, found.frame.line):
            found.one_line = False
        return found

    def ranked(self) -> list[_Node]:
        return sorted(self.children.values(), key=lambda node: -node.total_ns)


def print_tree(profile: Profile, console: Console, branches: int = 10, runtime: bool = False) -> None:
    """Prints the tree: at each fork at most `branches`, each of at least `LEAST_SHARE`. `runtime`: with the runtime's frames, and with its
    own goroutines opened. Names omit files and sockets, stacks omit wakers."""
    root = _grow(profile, runtime)
    hottest = ("  hottest path: ", "dim"), (_MARK.strip(), "red")
    console.print(Text.assemble(("Off the CPU: ", "bold"), format_duration(root.total_ns), *hottest))
    if not profile.stacks and profile.selected is not None:
        console.print(Text(sanitize(nothing_line(profile), TOLD_LIMIT), "yellow"), soft_wrap=True)
    if root.total_ns:
        _Printer(console, root.total_ns, branches).fork(root, "", True, 0)


def _grow(profile: Profile, runtime: bool) -> _Node:
    root = _Node(Frame("all"))
    several = len(profile.targets) > 1
    comm = {target.pid: target.comm for target in profile.targets}
    for stack in profile.stacks:
        path = [Frame(f"{comm.get(stack.pid, '?')} ({stack.pid})", kind=FrameKind.REASON)] if several else []
        path += label_frames(stack)
        if not runtime and is_background(stack):
            path.append(Frame(RUNTIME_GOROUTINES, kind=FrameKind.RUNTIME))
        else:
            frames = without_waker(stack.frames)
            path += [_bare(frame) for frame in reversed(frames if runtime else folded_frames(frames))]
            path.append(Frame(reason_label(stack), kind=FrameKind.REASON))
        node, total_ns = root, stack.distribution.total_ns
        root.total_ns += total_ns
        for frame in path:
            node = node.child(frame)
            node.total_ns += total_ns
    return root


def _bare(frame: Frame) -> Frame:
    return Frame(frame.name.partition("(")[0], kind=frame.kind) if frame.kind is FrameKind.SYSCALL else frame


@dataclass
class _Printer:
    console: Console
    whole_ns: int
    branches: int

    def fork(self, node: _Node, indent: str, hot: bool, depth: int) -> None:
        """Prints the branches of `node`, below `indent`."""
        shown = self._worth(node, hot, depth)
        # Not the runtime's own goroutines, unless there are no others.
        hottest = next((child for child in shown if child.frame.name != RUNTIME_GOROUTINES), shown[0]) if hot and shown else None
        rest_ns = node.total_ns - sum(child.total_ns for child in shown)
        rest = len(node.children) - len(shown) if rest_ns >= self._least() else 0
        for index, child in enumerate(shown):
            last = index == len(shown) - 1 and not rest
            self._branch(child, indent, "└─ " if last else "├─ ", "   " if last else "│  ", child is hottest, depth)
        if rest:
            count = f"{rest:,} {'more ' if shown else ''}branch{'' if rest == 1 else 'es'}"
            self._line(Text(f"{indent}└─ {format_share(rest_ns, self.whole_ns):>7}  {format_duration(rest_ns):>7}    {count}", "dim"))

    def _least(self) -> float:
        return LEAST_SHARE * self.whole_ns

    def _worth(self, node: _Node, hot: bool, depth: int) -> list[_Node]:
        """The children to show: the large ones, and on the hottest path always the largest."""
        ranked = node.ranked()
        if depth >= DEEPEST:
            return []
        return [child for child in ranked[: self.branches] if child.total_ns >= self._least()] or (ranked[:1] if hot else [])

    def _branch(self, node: _Node, indent: str, joint: str, below: str, hot: bool, depth: int) -> None:
        line = Text(indent + joint, "dim")
        share, total = format_share(node.total_ns, self.whole_ns), format_duration(node.total_ns)
        line.append(f"{share:>7}  {total:>7}  ", "not dim bold" if hot else "not dim")
        self._name(line, node, hot)
        indent += below
        # What is not shown beside a single child makes no fork.
        while len(next_ones := self._worth(node, hot, depth)) == 1 and node.total_ns - next_ones[0].total_ns < self._least():
            node = next_ones[0]
            self._name(Text(indent + " " * 18, "dim"), node, hot)
        self.fork(node, indent, hot, depth + 1)

    def _name(self, line: Text, node: _Node, hot: bool) -> None:
        frame = node.frame
        line.append(_MARK if hot else " " * len(_MARK), "red not dim")
        where = f"  {sanitize(frame.file.rsplit('/', 1)[-1], 30)}:{frame.line}" if node.one_line and is_program(frame) else ""
        room = self.console.width - line.cell_len
        if room - len(where) < min(30, len(plain_name(frame.name))):
            where = ""
        style = _STYLE.get(frame.kind, "bold" if is_program(frame) else "")
        name = frame.name if frame.kind is FrameKind.LABEL else plain_name(frame.name)
        line.append(sanitize(name, max(8, room - len(where))), f"not dim {style}".strip())
        line.append(where, "not dim green")
        self._line(line)

    def _line(self, line: Text) -> None:
        self.console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
