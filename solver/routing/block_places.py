"""At which nodes of a tree of prompts an engine's blocks are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from solver.routing.block_tree import FEW, Node

# A dictionary that grows is copied in one go, of a million blocks for more than 50 ms: beyond so
# many it is split into parts, a power of two, that grow one by one.
MOST_IN_ONE, PARTS = 1 << 17, 16
# Nodes that have one block beside the first: all are gone through when it goes. Of a prompt's first
# blocks, as a template puts before all of them, many.
MOST_NODES, FIRST, MOST_OF_FIRST = 16, 4, 1 << 14


class Where:
    """At which node each block is: a dictionary, or many where one would take too long to grow.

    A few are at several nodes: those of prompts that have them in common, and no mark before them.
    """

    def __init__(self) -> None:
        self._parts: list[dict[int, Node]] = [{}]
        self._last = 0  # of the parts; a block is in the one that its last bits name
        self._also: dict[int, dict[Node, None]] = {}  # the other nodes of those at several
        self.more = 0  # of these

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __contains__(self, block: int) -> bool:
        return block in self._parts[block & self._last]

    def get(self, block: int) -> Node | None:
        """Where it is, or one of its nodes."""
        return self._parts[block & self._last].get(block)

    def few(self, block: int) -> tuple[Node, ...]:
        """Some of the nodes where it is."""
        node = self.get(block)
        return () if node is None else (node, *islice(self._also.get(block, ()), FEW - 1))

    def is_at(self, block: int, node: Node) -> bool:
        """Whether it is there, too."""
        return self.get(block) is node or node in self._also.get(block, ())

    def is_along(self, block: int, path: Sequence[Node]) -> bool:
        """Whether it is at one of these."""
        node, also = self.get(block), self._also.get(block)
        if node is None or node in path:
            return node is not None
        return also is not None and any(one in also for one in path)

    def pop(self, block: int) -> tuple[Node, ...]:
        """Where it was: it is there no more."""
        if not self._also:  # as nearly always
            node = self._parts[block & self._last].pop(block, None)
            return () if node is None else (node,)
        node, also = self._parts[block & self._last].pop(block, None), self._also.pop(block, ())
        self.more -= len(also)
        return () if node is None else (node, *also)

    def lacks(self, blocks: Sequence[int]) -> bool:
        """Whether none of them is there."""
        parts, last = self._parts, self._last
        if not last:
            return parts[0].keys().isdisjoint(blocks)
        return not any(block in parts[block & last] for block in blocks)

    def has_room(self, block: int, number: int) -> bool:
        """Whether it may be at one node more, as block `number`."""
        most = MOST_OF_FIRST if number < FIRST else MOST_NODES
        return len(self._also.get(block, ())) < most

    def add(self, block: int, node: Node) -> None:
        """It is there, too, if it is somewhere."""
        if block not in self:
            self.put((block,), node)
            return
        self._also.setdefault(block, {})[node] = None
        self.more += 1

    def has_any(self, blocks: Iterable[int | None], node: Node) -> bool:
        """Whether one of them, which are at another node, is at this one, too."""
        if not self.more:
            return False
        return any(self.is_at(block, node) for block in blocks if block is not None)

    def has_own(self, node: Node) -> bool:
        """Whether it has blocks that are not others' first, too; it has none at all then.

        Those are never evicted, and outlive all that a prompt has of its own.
        """
        blocks = node.blocks
        if not blocks or not self.more or len(blocks) > FIRST:
            return bool(blocks)
        kept = [block for block in blocks if block is not None]
        if any(self.get(block) is node for block in kept):
            return True
        for block in kept:
            del self._also[block][node]
            self.more -= 1
            node.take(block)
        return False

    def move(self, blocks: Iterable[int | None], old: Node, new: Node) -> None:
        """They are at another node instead."""
        for block in blocks:
            if block is None:
                continue
            part = self._parts[block & self._last]
            if part[block] is old:
                part[block] = new
            else:
                also = self._also[block]
                del also[old]
                also[new] = None

    def put(self, blocks: Sequence[int], node: Node) -> None:
        """They are all there, and nowhere else."""
        parts, last = self._parts, self._last
        if last:
            for block in blocks:
                parts[block & last][block] = node
            return
        part = parts[0]
        for block in blocks:
            part[block] = node
        if len(part) > MOST_IN_ONE:
            self._last = PARTS - 1
            self._parts = [{} for _ in range(PARTS)]
            for block, at in part.items():
                self._parts[block & self._last][block] = at

    def oldest(self, count: int) -> list[int]:
        """So many, of each part the oldest."""
        each = -(-count // len(self._parts))
        return [block for part in self._parts for block in islice(part, each)][:count]
