"""Prompts that begin alike as a tree of their marks, and the blocks that an engine has of each.

A node is where prompts go on alike from the one before: they part behind it. What is behind the
last mark of a prompt, its answer too, is a node of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from solver.routing.marks import NAME_BYTES

# Blocks of a node: each is found among these when it goes, where it is not the last, nor the one
# behind the last that went.
MOST_AT_A_NODE = 1 << 12
# By so much the name of one answer's tail differs from the next one's.
ANSWER = 1 << 65
# Children, and nodes of a block, that are looked at for what they have in common.
FEW = 8


class Holes:
    """How many blocks are missing in all of a tree: there is a place for each."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Node:
    """See the module.

    Attributes:
        key: what it is called among its parent's children.
        names: of its marks, those since its parent's; none of a tail's.
        end: how many marks its prompts have up to its own last.
        first: which block of its prompts is the first of its own.
        until: which is the first behind it, as well as is known.
        blocks: in order; None where one is missing.
        missing: how many are; `holes`: and in all of its tree.
        taken: at which place in `blocks` the last one was that went.
        pace: of the prompt that it was made for: the engine's blocks in each of a router's.
        older, newer: those that were used before it and after it; a tree's root is behind the last.
    """

    __slots__ = (
        "blocks",
        "children",
        "end",
        "first",
        "holes",
        "key",
        "missing",
        "names",
        "newer",
        "older",
        "pace",
        "parent",
        "taken",
        "until",
    )

    def __init__(
        self, key: bytes | int, names: bytes, parent: Node | None, end: int, until: int, pace: float
    ) -> None:
        self.key, self.names, self.parent = key, names, parent
        self.end, self.until, self.pace = end, until, pace
        self.first = self.missing = self.taken = 0
        self.holes: Holes = Holes() if parent is None else parent.holes
        self.blocks: list[int | None] = []
        self.children: dict[bytes | int, Node] | None = None
        self.older: Node = self if parent is None else parent
        self.newer: Node = self.older
        if parent is not None:
            parent.adopt(self)

    def use_before(self, other: Node) -> None:
        """It was used just before another one."""
        self.older, self.newer = other.older, other
        self.older.newer = other.older = self

    def unlink(self) -> None:
        """It is no more among those that were used."""
        self.older.newer, self.newer.older = self.newer, self.older

    @property
    def is_tail(self) -> bool:
        """Whether it is what is behind a prompt's last mark."""
        return isinstance(self.key, int)

    def is_tail_of(self, name: int) -> bool:
        """Whether it is one of an attempt's: behind its prompt, several answers may be."""
        return isinstance(self.key, int) and self.key % ANSWER == name % ANSWER

    @property
    def begin(self) -> int:
        """How many marks its prompts have before its own."""
        return self.end - len(self.names) // NAME_BYTES

    def miss(self, count: int) -> None:
        """So many more are missing."""
        self.missing += count
        self.holes.count += count

    def put(self, number: int, block: int) -> bool:
        """Block `number` of its prompts; whether there is a place for it, and room."""
        if not self.blocks:
            self.first = number
        at, blocks = number - self.first, self.blocks
        if at < 0 and len(blocks) - at <= MOST_AT_A_NODE:
            self.put_first(number, [block, *[None] * (-1 - at)])
        elif len(blocks) <= at < MOST_AT_A_NODE:
            self.miss(at - len(blocks))
            blocks += *[None] * (at - len(blocks)), block
        elif 0 <= at < len(blocks) and blocks[at] is None:
            blocks[at] = block
            self.miss(-1)
        else:
            return False
        return True

    def extend(self, number: int, blocks: Sequence[int | None]) -> bool:
        """Blocks from `number` on, where they go on from what is there; whether they do."""
        if not self.blocks:
            self.first = number
        elif number != self.first + len(self.blocks):
            return False
        if len(self.blocks) + len(blocks) > MOST_AT_A_NODE:
            return False
        self.blocks.extend(blocks)
        return True

    def has(self, number: int) -> bool:
        """Whether block `number` of its prompts is there."""
        at = number - self.first
        return 0 <= at < len(self.blocks) and self.blocks[at] is not None

    def is_number(self, block: int, number: int) -> bool:
        """Whether that is its block of that number."""
        at = number - self.first
        return 0 <= at < len(self.blocks) and self.blocks[at] == block

    def number_of(self, block: int) -> int:
        """Which block of its prompts one of its own is."""
        blocks = self.blocks
        at = len(blocks) - 1 if blocks[-1] == block else blocks.index(block)
        return self.first + at

    def take(self, block: int) -> None:
        """It is there no more."""
        blocks, at = self.blocks, self.taken + 1
        if blocks[-1] == block:  # vLLM's begin with a prompt's end, SGLang's with a node's begin
            blocks.pop()
        else:
            self.taken = at = self._index(block, at)
            blocks[at] = None
            self.miss(1)
        self._trim()

    def _index(self, block: int, at: int) -> int:
        """Where it is; most are a little behind the last one that went."""
        try:
            return self.blocks.index(block, at)
        except ValueError:
            return self.blocks.index(block)

    def take_first(self, count: int) -> list[int | None]:
        """The first ones belong elsewhere."""
        taken = self.blocks[:count]
        del self.blocks[:count]
        self.first += len(taken)
        self.miss(-taken.count(None))
        while self.blocks and self.blocks[0] is None:
            del self.blocks[0]
            self.first += 1
            self.miss(-1)
        return taken

    def take_from(self, number: int) -> list[int | None]:
        """Those from block `number` of its prompts on belong elsewhere."""
        at = max(0, number - self.first)
        taken = self.blocks[at:]
        del self.blocks[at:]
        self.miss(-taken.count(None))
        self._trim()
        return taken

    def _trim(self) -> None:
        while self.blocks and self.blocks[-1] is None:
            self.blocks.pop()
            self.miss(-1)

    def put_first(self, number: int, blocks: list[int | None]) -> None:
        """Those from block `number` of its prompts on, up to where its own begin."""
        self.blocks[:0] = blocks
        self.first = number
        self.miss(blocks.count(None))

    def child(self, key: bytes | int) -> Node | None:
        """Where prompts go on so."""
        return None if self.children is None else self.children.get(key)

    def adopt(self, child: Node) -> None:
        """Prompts that go on from it."""
        if self.children is None:
            self.children = {}
        self.children[child.key], child.parent = child, self

    def leave(self) -> Node | None:
        """No prompt goes this way any more; its parent."""
        parent, self.parent = self.parent, None
        if parent is not None and parent.children is not None:
            del parent.children[self.key]
            parent.children = parent.children or None
        return parent

    def others(self, child: Node | None) -> list[Node]:
        """Of its other children, some."""
        few = islice((self.children or {}).values(), FEW)
        return [one for one in few if one is not child]
