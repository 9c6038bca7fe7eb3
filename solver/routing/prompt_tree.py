"""Whose an engine's blocks are: in a tree of prompts by their marks, its nodes have blocks.

Rules:
- prompts that begin alike are one path of a tree up to their last common mark, and what an engine
  has of that is there for all of them (`solver.routing.prompt_paths`);
- how many of the engine's blocks end before that mark is reckoned until a second prompt shows it:
  what is told of both is of what both begin with, and what is not, is not;
- but no further than that text can go: an engine may have the same blocks for prompts that a router
  tells apart (it trims them, puts the same before them, passes over a field). These are each such
  prompt's by itself, and never the beginning of all that have the few marks before, or none;
- where they part is remembered when the blocks are gone (`Partings`), as it is the text's, not the
  cache's;
- what is told is kept: where another block has its place, further on.

Must not know: whether blocks are all that an engine has, and what they save.
"""

from __future__ import annotations

from collections.abc import Sequence

from solver.routing.block_tree import MOST_AT_A_NODE, Node
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings, Partings
from solver.routing.prompt_paths import Path, Paths

# Behind a mark, what is of a prompt of which no further mark is known; no attempt is called so.
NOBODYS = 1
# A prompt's beginning may have so many times the tokens that it has by the prompt's length.
DENSEST = 2.0


class PromptTree:
    """Of blocks of so many tokens; see the module.

    Attributes:
        paths: of the prompts.
        where: each block, and at which nodes it is.
        partial: for some of what was told there was no place.
        copied: blocks gone through beside those that were told, until somebody has counted them.
        last: where the last blocks that were told were put.
    """

    def __init__(self, partings: Partings, block_tokens: int) -> None:
        self._partings, self._block_tokens = partings, block_tokens
        self.paths = Paths(partings, block_tokens)
        self.where, self.partial, self.copied = self.paths.where, False, 0
        self.last: Node | None = None
        self._prompt: Beginnings | None = None  # whose those were

    def put(self, blocks: Sequence[int], parent: int | None, prompt: Beginnings) -> bool:
        """They follow `parent` in a prompt, or begin it; whether it is known where that is."""
        return self._goes_on(blocks, parent, prompt) or self._place(blocks, parent, prompt)

    def take(self, block: int, *, evicted: bool = True) -> bool:
        """It is there no more, as the engine needed its room, or is not kept; whether it was."""
        nodes = self.where.pop(block)
        for node in nodes:
            node.take(block)
            if evicted:
                self.paths.age(node)
        for node in nodes:  # one may be another's parent
            self.paths.prune(node)
        return bool(nodes)

    def _goes_on(self, blocks: Sequence[int], parent: int | None, prompt: Beginnings) -> bool:
        """Whether they have their place behind those that were told last, as most have."""
        node = self.last
        if node is None or prompt is not self._prompt or not node.blocks:
            return False
        number = node.first + len(node.blocks)
        if node.blocks[-1] != parent or number + len(blocks) > node.until:
            return False
        if not self._are_new(blocks) or not node.extend(number, blocks):
            return False
        self.where.put(blocks, node)
        self.paths.use(node)
        return True

    def _are_new(self, blocks: Sequence[int]) -> bool:
        return len(set(blocks)) == len(blocks) and self.where.lacks(blocks)

    def _known_first(self, blocks: Sequence[int]) -> int:
        """Behind how many of them there are only new ones."""
        if self._are_new(blocks):
            return 0
        count = len(blocks)
        if len(set(blocks)) == count:
            while blocks[count - 1] not in self.where:
                count -= 1
        return count

    def _place(self, blocks: Sequence[int], parent: int | None, prompt: Beginnings) -> bool:
        """Put them where they are in a prompt; whether that is known."""
        begin = self._number_after(parent)
        if begin is None:
            return False
        path = self.paths.path(prompt, begin + len(blocks), parent)
        known = parent is None or self._take_before(parent, begin - 1, path)
        if known:
            self._lay(blocks, begin, path)
            self.paths.use(path[-1])
        self.paths.prune(path[-1])
        return known

    def _number_after(self, parent: int | None) -> int | None:
        """Which block of its prompt the one after `parent` is."""
        if parent is None:
            return 0
        node = self.where.get(parent)
        return None if node is None else node.number_of(parent) + 1

    def _take_before(self, parent: int, number: int, path: Path) -> bool:
        """Block `number` and all before it are this prompt's, too, whosever they were.

        Whether they are: if not, what follows would count for nothing, behind what is missing.
        """
        at = self.paths.at(number, 0, path)
        if self.where.is_along(parent, path) or self._share(parent, number, path, at):
            return True
        if number >= MOST_AT_A_NODE or not self.where.has_room(parent, number):
            self.partial = True
            return False
        chain, node = list[Node](), self.where.few(parent)[0]
        while node not in path and node.parent is not None:
            chain.append(node)
            node = node.parent
        at = 0
        for one in reversed(chain):
            for n, block in enumerate(tuple(one.blocks[: number + 1 - one.first]), one.first):
                if block is None:
                    continue
                self.copied += 1
                further = self._put(block, n, self.paths.at(n, at, path), path)
                if further is None:
                    return False
                at = further
        return True

    def _lay(self, blocks: Sequence[int], begin: int, path: Path) -> None:
        """Put them to a prompt's nodes: all of a node's at once where only new ones follow."""
        at, number, behind = 0, begin, begin + len(blocks)
        new = begin + self._known_first(blocks)
        while number < behind:
            at = self.paths.at(number, at, path)
            node = path[at]
            part = blocks[number - begin : node.until - begin]
            begins = not node.blocks
            if number >= new and node.extend(number, part):
                self.where.put(part, node)
                if begins:
                    self._learn(node, path.prompt)
                number += len(part)
            else:
                further = self._put(part[0], number, at, path)
                if further is None:
                    break
                at, number = further, number + 1
        self.last, self._prompt = path[at], path.prompt

    def _put(self, block: int, number: int, at: int, path: Path) -> int | None:
        """Put it to one of a path's nodes, from `at` on; where what follows it may be.

        None: it is at too many others, and what follows it would count for nothing.
        """
        where = self.where
        if where.is_along(block, path):
            return at
        now = where.get(block)
        if now is not None and self._share(block, number, path, at):
            return at
        if now is not None and not now.is_number(block, number):  # no engine has it at two places
            self.partial = True
            return at
        return self._add(block, number, at, path)

    def _add(self, block: int, number: int, at: int, path: Path) -> int | None:
        """Put it where no other is, of other prompts that may have that place."""
        where = self.where
        while path[at].has(number):  # whose is it, as it is not this prompt's?
            if path[at].is_tail:
                path[at] = self.paths.tail(path[at], path.prompt.tail)
                continue
            self._part(number, at, path)
            at = self.paths.at(number, at + 1, path)
        node = path[at]
        if where.is_at(block, node):
            return at
        has_room, begins = where.has_room(block, number), not node.blocks
        if has_room and node.put(number, block):
            where.add(block, node)
            if begins:
                self._learn(node, path.prompt)
        else:
            self.partial = True
        return at if has_room else None

    def _share(self, block: int, number: int, path: Path, at: int) -> bool:
        """A block that is known of other prompts is this one's, too, and so are all before it.

        Whether they are so for all that begin as these do.
        """
        common, now = max(
            ((_common(one, path), one) for one in self.where.few(block)),
            key=lambda pair: pair[0].end,
        )
        goes_on = now.is_tail and not path[at].is_tail  # from what was an answer
        node, first = path[at] if goes_on else common, now.first
        if not now.is_number(block, number):
            return False
        if node.blocks and node.first + len(node.blocks) != first:
            return False
        if not goes_on and number >= self._most_before(common, path.prompt):
            return False
        if len(node.blocks) + number + 1 - first > MOST_AT_A_NODE:
            return False
        if self._overlap(now.blocks[: number + 1 - first], now, node, path):
            return False
        own = now.take_first(number + 1 - first)
        node.extend(first, own)
        self.where.move(own, now, node)
        node.miss(own.count(None))
        node.until = max(node.until, number + 1)
        self.paths.prune(now, common)
        return True

    def _most_before(self, node: Node, prompt: Beginnings) -> float:
        """How many blocks can end in what all of a node's prompts begin with, at most."""
        if not node.end:
            return 0.0
        next_mark = MARKS[min(node.end, len(MARKS) - 1)]
        return DENSEST * next_mark * prompt.block_tokens / self._block_tokens

    def _overlap(self, blocks: Sequence[int | None], node: Node, other: Node, path: Path) -> bool:
        """Whether one of a node's blocks is another's, too; asked once where it is so."""
        if (node, other) not in path.overlaps and self.where.has_any(blocks, other):
            path.overlaps.add((node, other))
        return (node, other) in path.overlaps

    def _part(self, number: int, at: int, path: Path) -> None:
        """A prompt has another block `number` than those that its node there has it of.

        From there on they are not what all have that come by: who goes on so has them, if anybody.
        """
        node = path[at]
        others = node.others(path[at + 1] if at + 1 < len(path) else None)
        if len(others) > 1:
            return  # it is several others', who part later
        if not others and DENSEST * number < node.until:
            return  # no text is that dense: an engine tells apart what a router does not
        other = others[0] if others else self.paths.tail(node, NOBODYS)
        if other.blocks and other.first != node.first + len(node.blocks):
            return
        if not self._overlap(node.blocks[number - node.first :], node, other, path):
            own = node.take_from(number)
            other.put_first(number, own)
            self.where.move(own, node, other)
            self.paths.has_less(path, node.end, number + 1)
            node.until = number

    def _learn(self, node: Node, prompt: Beginnings) -> None:
        """A node's first block has come: are all before it what its prompts share with others?"""
        parent, number = node.parent, node.first
        if parent is None or not parent.end:
            return
        marks = prompt.marks[: parent.end * NAME_BYTES]
        known = self._partings.shared(marks, self._block_tokens)
        if known == number or any(
            one.blocks and one.first == number for one in parent.others(node)
        ):
            self._partings.learn(marks, self._block_tokens, number)
            parent.until = number


def _common(node: Node, path: Path) -> Node:
    """Where prompts that have a node part from a path; the root, at the latest."""
    while node not in path:
        assert node.parent is not None
        node = node.parent
    return node
