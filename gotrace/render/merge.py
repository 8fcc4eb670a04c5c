"""Stacks merged into a tree from their roots on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Tree(Generic[Key]):
    """Nodes are numbers, 0 is the root, a parent's number is less than its children's. A node is a function in the context of its
    callers; `total_ns` and `count` are those of all stacks that pass through it.

    Columns, not objects: with a hundred thousand objects Python's garbage collector would take longer than the merging.
    """

    def __init__(self, root: Key) -> None:
        self.key: list[Key] = [root]
        self.parent: list[int] = [-1]
        self.total_ns: list[int] = [0]
        self.count: list[int] = [0]
        self._numbers: dict[Key, int] = {}
        self._children: dict[int, int] = {}

    def add(self, path: Iterable[Key], total_ns: int, count: int = 0) -> None:
        """Adds a stack; `path` is root first."""
        numbers, children, totals, counts = self._numbers, self._children, self.total_ns, self.count
        node = 0
        totals[0] += total_ns
        counts[0] += count
        for key in path:
            edge = node << 32 | numbers.setdefault(key, len(numbers))
            child = children.get(edge)
            if child is None:
                child = children[edge] = len(totals)
                self.key.append(key)
                self.parent.append(node)
                totals.append(0)
                counts.append(0)
            node = child
            totals[node] += total_ns
            counts[node] += count

    def __len__(self) -> int:
        return len(self.key)

    def heaviest_first(self) -> list[Sequence[int]]:
        """Each node's children, largest total first; those with equal totals in the order in which they were added."""
        children: list[Sequence[int]] = [()] * len(self)
        # Sorted by total once for all nodes: each list is then filled in order.
        for node in sorted(range(1, len(self)), key=lambda node: -self.total_ns[node]):
            siblings = children[self.parent[node]]
            if isinstance(siblings, list):
                siblings.append(node)
            else:
                children[self.parent[node]] = [node]
        return children

    def sizes(self) -> list[int]:
        """For each node the number of nodes in its subtree, itself included."""
        sizes = [1] * len(self)
        for node in range(len(self) - 1, 0, -1):
            sizes[self.parent[node]] += sizes[node]
        return sizes
