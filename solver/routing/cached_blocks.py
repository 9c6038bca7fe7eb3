"""What one engine tells of its prefix cache, tied to prompts as routers know them.

An engine names the blocks of its cache by hashes of its own, of token ids that a router without a
tokenizer cannot compute. But it also tells whose prompt a block is of, and in which order blocks
follow each other; and a router names its prompts' beginnings by hashes of its own
(`solver.routing.prefixes`). So each of the engine's blocks is put where it ends in its prompt.

Rules:
- a prompt's beginnings are looked at up to its *marks*: after each of its first 16 blocks, then
  after every second, fourth and so on, so that long ones take few, and who parts between two of
  them is missed by less than an eighth of what is before;
- a block of the engine is put to the first mark that its end is not after, by the prompt's tokens
  in each of its own blocks; who begins with the text up to that mark has it;
- a block that is told of two prompts is of what both begin with: it goes back to their last common
  mark, so that where tokens end in a text is learnt; a third prompt that parts from them before the
  next mark may have less;
- what was removed is not there, and nothing behind it counts; one hash counts once: an engine that
  stores a block twice and drops it once may still have it, and nobody says so;
- blocks of prompts that nobody has named are not kept, and beyond `most` the oldest go: less is
  known then than the engine has, never more.

Must not know: wires, sockets, clocks, workers. Sums over tiers weigh a token by what it saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from functools import cached_property
from itertools import islice
from sys import maxsize

from solver.routing.prefixes import MOST_BLOCKS


def _marks() -> tuple[int, ...]:
    marks, step = list(range(1, 17)), 2
    while marks[-1] < MOST_BLOCKS:
        marks += range(marks[-1] + step, 2 * marks[-1] + 1, step)
        step *= 2
    return tuple(marks)


# Blocks of a prompt after which it is looked at; 64 of them for the longest.
MARKS = _marks()
# A mark's name is a prompt's hash up to there, without its last bits: a few bytes on the wire, and
# once in 10^8 times the same of two prompts of a million.
MARK_BITS = 48
# A block may end so much after a mark, in a router's blocks, about three tokens: one that ends *at*
# a mark counts there, though how many tokens a text has is rounded.
LATE = 0.02
# Blocks between two marks: each is found among these when it goes.
MOST_AT_A_MARK = 4096
# A dictionary that grows is copied in one go, of a million blocks for more than 50 ms: beyond so
# many it is split into parts, a power of two, that grow one by one.
MOST_IN_ONE, PARTS = 1 << 17, 16
# Of the oldest, what goes at once where there are too many: a few milliseconds each time.
DROPPED_SHARE = 1 / 512


class Tier(IntEnum):
    """Where an engine has a block, best first."""

    GPU = 0
    CPU = 1
    DISK = 2


# Share of a block's prefill that is saved by having it there: 70B models keep 0.3 MB a token, which
# PCIe moves some ten times as fast as it is computed (25 GB/s), a disk or a network hardly twice.
SAVES = {Tier.GPU: 1.0, Tier.CPU: 0.9, Tier.DISK: 0.5}


class Beginnings:
    """A prompt, as far as caches go: its marks' names, and tokens in each of its blocks.

    `tail` names what is behind its last mark, its answer too.
    """

    def __init__(self, marks: Sequence[int], block_tokens: float, tail: int = 0) -> None:
        self.marks, self.block_tokens, self.tail = tuple(marks), block_tokens, tail

    @cached_property
    def places(self) -> dict[int, int]:
        """Which of its marks each is."""
        return {mark: place for place, mark in enumerate(self.marks)}


def marks_of(blocks: Sequence[int]) -> tuple[int, ...]:
    """The names of a prompt's marks, from the 64-bit hashes of its blocks."""
    return tuple(blocks[depth - 1] >> (64 - MARK_BITS) for depth in MARKS if depth <= len(blocks))


class _Node:
    """A mark, and the engine's blocks that end between the one before and it.

    Attributes:
        place: which mark of its prompts it is; -1 of what all begin with.
        first: which block of its prompts is the first of these.
        blocks: in order; None where one is missing.
        missing: how many are.
        is_tail: it is what is behind a prompt's last mark.
    """

    __slots__ = ("blocks", "children", "first", "is_tail", "key", "missing", "parent", "place")

    def __init__(self, key: int, place: int, parent: _Node | None, *, is_tail: bool) -> None:
        self.key, self.place, self.parent, self.is_tail = key, place, parent, is_tail
        self.children = self.first = self.missing = 0
        self.blocks: list[int | None] = []

    def put(self, number: int, block: int) -> bool:
        """Block `number` of its prompts; whether there is a place for it."""
        if not self.blocks:
            self.first = number
        at = number - self.first
        if at == len(self.blocks) < MOST_AT_A_MARK:
            self.blocks.append(block)
        elif 0 <= at < len(self.blocks) and self.blocks[at] is None:
            self.blocks[at] = block
            self.missing -= 1
        else:
            return False
        return True

    def extend(self, number: int, blocks: Sequence[int]) -> bool:
        """Blocks from `number` on, where they go on from what is there; whether they do."""
        if not self.blocks:
            self.first = number
        elif number != self.first + len(self.blocks):
            return False
        if len(self.blocks) + len(blocks) > MOST_AT_A_MARK:
            return False
        self.blocks.extend(blocks)
        return True

    def take(self, block: int) -> None:
        """It is there no more."""
        if self.blocks[-1] == block:  # ends of prompts go first
            self.blocks.pop()
        else:
            self.blocks[self.blocks.index(block)] = None
            self.missing += 1
        while self.blocks and self.blocks[-1] is None:
            self.blocks.pop()
            self.missing -= 1

    def take_first(self) -> None:
        """The first one belongs elsewhere."""
        del self.blocks[0]
        self.first += 1


class _Where:
    """At which mark each block is: a dictionary, or many where one would take too long to grow."""

    def __init__(self) -> None:
        self._parts: list[dict[int, _Node]] = [{}]
        self._last = 0  # of the parts; a block is in the one that its last bits name

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __contains__(self, block: int) -> bool:
        return block in self._parts[block & self._last]

    def get(self, block: int) -> _Node | None:
        return self._parts[block & self._last].get(block)

    def pop(self, block: int) -> _Node | None:
        return self._parts[block & self._last].pop(block, None)

    def lacks(self, blocks: Sequence[int]) -> bool:
        """Whether none of them is there."""
        parts, last = self._parts, self._last
        if not last:
            return parts[0].keys().isdisjoint(blocks)
        return not any(block in parts[block & last] for block in blocks)

    def put(self, blocks: Sequence[int], node: _Node) -> None:
        """They are all there."""
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


class CachedBlocks:
    """One engine's blocks; see the module.

    Attributes:
        unknown: blocks told of that nobody's prompt was named for, so far.
        overflowed: more were told of than are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.unknown = 0
        self.clear()

    def clear(self) -> None:
        """It has nothing, and what it has from now on is known."""
        self._root = _Node(0, -1, None, is_tail=False)
        self._nodes: dict[int, _Node] = {}
        self._where = _Where()
        # Of blocks that are not on the GPU alone: where they are, a bit for each tier.
        self._tiers: dict[int, int] = {}
        self._block_tokens = 0
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._where)

    def store(
        self,
        blocks: Sequence[int],
        parent: int | None,
        block_tokens: int,
        prompt: Beginnings | None,
        tier: Tier = Tier.GPU,
    ) -> None:
        """These follow `parent` in a prompt, or begin it; without a `prompt`, nobody knows whose.

        They are stored, or have been found to be.
        """
        if prompt is None:
            self.unknown += sum(not self._seen_again(block, tier) for block in blocks)
            return
        if self._block_tokens != block_tokens:  # another engine's, or another model's
            self.clear()
            self._block_tokens = block_tokens
        begin = self._number_after(parent)
        if begin is None:
            self.unknown += len(blocks)
            return
        self._lay(blocks, begin, self._node_of(parent, prompt), prompt)
        if tier is not Tier.GPU or self._tiers:
            for block in blocks:
                self._mark_tier(block, tier)
        if len(self._where) > self._most or len(self._nodes) > self._most:
            self._bound()

    def _lay(self, blocks: Sequence[int], begin: int, node: _Node, prompt: Beginnings) -> None:
        """Put them to their marks, from `node` on: all of a mark's at once where they are new."""
        place, number = node.place, begin
        new = len(set(blocks)) == len(blocks) and self._where.lacks(blocks)
        while number < begin + len(blocks):
            reached, behind = self._reach(prompt, max(0, place), number)
            while place < reached:
                place += 1
                node = self._child(node, prompt, place)
            part = blocks[number - begin : behind - begin]
            if new and node.extend(number, part):
                self._where.put(part, node)
            else:
                for k, block in enumerate(part, number):
                    self._put(block, k, node, prompt)
            number += len(part)

    def _reach(self, prompt: Beginnings, place: int, number: int) -> tuple[int, int]:
        """The mark, from `place` on, that block `number` is put to, and the first that is not."""
        of_a_block = prompt.block_tokens / self._block_tokens
        for reached in range(place, len(prompt.marks)):
            behind = int((MARKS[reached] + LATE) * of_a_block)
            if behind > number:
                return reached, behind
        return len(prompt.marks), maxsize

    def _node_of(self, block: int | None, prompt: Beginnings) -> _Node:
        """Where a block is, if that is of this prompt, too; else what all begin with."""
        node = (None if block is None else self._where.get(block)) or self._root
        marks, place = (*prompt.marks, prompt.tail), node.place
        return node if 0 <= place < len(marks) and marks[place] == node.key else self._root

    def _seen_again(self, block: int, tier: Tier) -> bool:
        if block not in self._where:
            return False
        self._mark_tier(block, tier)
        return True

    def _mark_tier(self, block: int, tier: Tier) -> None:
        if tier is Tier.GPU and block not in self._tiers:
            return
        if block in self._where:
            self._tiers[block] = self._tiers.get(block, 0) | 1 << tier
            if self._tiers[block] == 1 << Tier.GPU:
                del self._tiers[block]

    def _number_after(self, parent: int | None) -> int | None:
        """Which block of its prompt the one after `parent` is; within a mark's, about."""
        if parent is None:
            return 0
        node = self._where.get(parent)
        return None if node is None else node.first + node.blocks.index(parent) + 1

    def _child(self, parent: _Node, prompt: Beginnings, place: int) -> _Node:
        """The node of a prompt's mark at `place`; beyond the last, that of its tail."""
        is_tail = place == len(prompt.marks)
        key = prompt.tail if is_tail else prompt.marks[place]
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = _Node(key, place, parent, is_tail=is_tail)
            parent.children += 1
        return node

    def _put(self, block: int, number: int, node: _Node, prompt: Beginnings) -> None:
        now = self._where.get(block)
        if now is node:
            return
        if now is not None:
            if now.place < 0 or prompt.places.get(now.key) == now.place:
                return  # it is of a mark of this prompt's, too
            node = self._common(now, node, prompt)
            if (
                node is now
                or now.blocks[0] != block
                or (node.blocks and not _goes_on(node, number))
            ):
                return
            now.take_first()
            self._prune(now)
        if node.put(number, block):
            self._where.put((block,), node)
        elif now is not None:
            self._where.pop(block)
            self._tiers.pop(block, None)

    def _common(self, now: _Node, node: _Node, prompt: Beginnings) -> _Node:
        """Where a block belongs that was of `now`, and is of a prompt that has it at `node`."""
        common: _Node = self._root
        above = now.parent
        while above is not None:
            if above.place >= 0 and prompt.places.get(above.key) == above.place:
                common = above
                break
            above = above.parent
        if common.place + 1 == min(node.place, len(prompt.marks)):
            return common
        return node if now.is_tail else now

    def remove(self, blocks: Iterable[int], tier: Tier = Tier.GPU) -> int:
        """It has them there no more; how many of them were known."""
        if self._tiers or tier is not Tier.GPU:
            return sum(self._remove(block, tier) for block in blocks)
        known = 0
        for block in blocks:
            node = self._where.pop(block)
            if node is not None:
                known += 1
                node.take(block)
                if not node.blocks:
                    self._prune(node)
        return known

    def _remove(self, block: int, tier: Tier) -> bool:
        node = self._where.get(block)
        if node is None:
            return False
        left = self._tiers.get(block, 1 << Tier.GPU) & ~(1 << tier)
        if left:
            self._tiers[block] = left
            if left == 1 << Tier.GPU:
                del self._tiers[block]
            return True
        self._forget(block)
        return True

    def _forget(self, block: int) -> None:
        node = self._where.pop(block)
        assert node is not None, "whoever has seen it there forgets it"
        self._tiers.pop(block, None)
        node.take(block)
        self._prune(node)

    def _prune(self, node: _Node) -> None:
        while not node.blocks and not node.children and node.parent is not None:
            self._nodes.pop(node.key, None)
            node.parent.children -= 1
            node = node.parent

    def _bound(self) -> None:
        while len(self._where) > self._most or len(self._nodes) > self._most:
            self.overflowed = True
            count = max(1, int(self._most * DROPPED_SHARE))
            oldest = self._where.oldest(count)
            for block in oldest:
                self._forget(block)

    def held_tokens(self, marks: Sequence[int], tail: int | None = None) -> float:
        """Tokens of a prompt of these marks that need no prefill, each as much as it saves there.

        With a `tail`: and of what followed the prompt that had it, if all before is there.
        """
        saved, number = 0.0, 0
        for node in self._path(marks, tail):
            if not node.blocks:
                continue
            if node.first > number:
                break
            count = node.blocks.index(None) if node.missing else len(node.blocks)
            # What others share behind the mark before is not of this prompt, which has its own.
            saved += self._saved(node.blocks, count) - (number - node.first)
            number = node.first + count
            if node.missing:
                break
        return saved * self._block_tokens

    def _path(self, marks: Sequence[int], tail: int | None) -> Iterator[_Node]:
        yield self._root
        for key in marks if tail is None else (*marks, tail):
            node = self._nodes.get(key)
            if node is None:
                return
            yield node

    def _saved(self, blocks: Sequence[int | None], count: int) -> float:
        if not self._tiers:
            return float(count)
        return sum(
            SAVES[_best(self._tiers[block])] if block in self._tiers else 1.0
            for block in islice(blocks, count)
            if block is not None
        )


def _goes_on(node: _Node, number: int) -> bool:
    return number == node.first + len(node.blocks)


def _best(tiers: int) -> Tier:
    return next(tier for tier in Tier if tiers >> tier & 1)
