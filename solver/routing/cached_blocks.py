"""What one engine tells of its prefix cache, tied to prompts as routers know them.

An engine names the blocks of its cache by hashes of its own, of token ids that a router without a
tokenizer cannot compute. But it also tells whose prompt a block is of, and in which order blocks
follow each other; and a router names its prompts' beginnings (`solver.routing.marks`). So each of
the engine's blocks is put where it ends in its prompt (`solver.routing.prompt_tree`).

Rules:
- what was removed is not there, and nothing behind it counts; one hash counts once: an engine that
  stores a block twice and drops it once may still have it, and nobody says so;
- blocks of prompts that nobody has named are not kept, and beyond what `most` take in memory, with
  the places where prompts part and of blocks that are missing, the oldest go: less is known then
  than the engine has, never more;
- all blocks that are kept have as many tokens, or they could not be counted: those of another size
  are passed over until as many of them were told in a row as are kept, which go then;
- what is foreseen of prompts on their way (`solver.routing.foreseen`) counts as there, and what
  they will push out as gone: as many blocks as there is no room for, used least lately.

Must not know: wires, sockets, clocks, workers. Sums over tiers weigh a token by what it saves
(`solver.routing.tiers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from solver.routing.block_tree import Node
from solver.routing.ends import Ends
from solver.routing.foreseen import Coming, Foreseen
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings, Partings
from solver.routing.prompt_tree import PromptTree
from solver.routing.tiers import Tier, Tiers

# Of the oldest, what goes at once where there are too many: a few milliseconds each time.
DROPPED_SHARE = 1 / 512
# What a place where prompts part takes in memory, in blocks.
NODE_BLOCKS = 4
# So many places for blocks that are missing take what a block takes.
HOLES_A_BLOCK = 12


class CachedBlocks:
    """One engine's blocks; see the module.

    Attributes:
        unknown: blocks told of that nobody's prompt was named for, so far.
        foreseen: prompts on their way to it.
    """

    def __init__(self, most: int, partings: Partings | None = None) -> None:
        self._most, self._partings = most, partings or Partings()
        self.unknown = 0
        self.foreseen = Foreseen()
        # Where those go along that are in the engine; who was told of last, and whether it is one.
        self._live = dict[Coming | None, Node | None]()
        self._prompt: Beginnings | None = None
        self._coming: Coming | None = None
        self._ends = Ends()
        self.clear()

    def clear(self) -> None:
        """It has nothing, and what it has from now on is known."""
        self.foreseen.clear()
        self._live.clear()
        self._ends.clear()
        self._begin(0)

    def _begin(self, block_tokens: int) -> None:
        self._tiers = Tiers()
        self._tree = PromptTree(self._partings, block_tokens)
        self._where = self._tree.where
        # Of those that count, and how many of another size were the last that were told.
        self._block_tokens, self._others = block_tokens, 0
        self._partial = False
        # Who will lose blocks, and of what need and room that holds; none since a change.
        self._kept_of: tuple[tuple[int, float], dict[Node, int]] | None = None

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
        self._kept_of = None
        if prompt is None:
            known = self._kept(blocks)
            self.unknown += len(blocks) - len(known)
            if tier is not Tier.GPU or self._tiers:
                self._tiers.mark(known, tier, frozenset())
            return
        if prompt is not self._prompt:
            self._begin_prompt(prompt)
        if block_tokens != self._block_tokens and not self._take_size(block_tokens, len(blocks)):
            self.unknown += len(blocks)
            return
        self._others = 0
        new = set[int]()
        if tier is not Tier.GPU:
            new.update(block for block in blocks if block not in self._where)
        if not self._tree.put(blocks, parent, prompt):
            self.unknown += len(blocks)
            return
        if self._coming in self._live:
            self._live[self._coming] = self._tree.last
        if tier is not Tier.GPU or self._tiers:
            self._tiers.mark(self._kept(blocks), tier, new)
        if self._is_full:
            self._bound()

    def _begin_prompt(self, prompt: Beginnings) -> None:
        """It is this prompt's blocks that are told of now."""
        self._prompt, self._coming = prompt, self.foreseen.told(prompt.marks)
        if self._coming is not None:
            self._ends.told(self._coming)

    def _take_size(self, block_tokens: int, count: int) -> bool:
        """So many blocks are of another size: whether that is the one that counts from now on."""
        if self._where:
            self._partial, self._others = True, self._others + count
            if self._others < len(self._where):
                return False
        partial = self.partial
        self._begin(block_tokens)
        self._partial = partial
        return True

    @property
    def partial(self) -> bool:
        """Whether of a prompt that is known more was told than is kept."""
        return self._partial or self._tree.partial

    def take_copied(self) -> int:
        """How many blocks were gone through beside those that were told, since this was asked."""
        copied, self._tree.copied = self._tree.copied, 0
        return copied

    def _kept(self, blocks: Iterable[int]) -> list[int]:
        return [block for block in blocks if block in self._where]

    def remove(self, blocks: Iterable[int], tier: Tier = Tier.GPU) -> int:
        """It has them there no more; how many of them were known."""
        self._kept_of = None
        if self._tiers or tier is not Tier.GPU:
            return sum(self._remove(block, tier) for block in blocks)
        return sum(map(self._tree.take, blocks))

    def _remove(self, block: int, tier: Tier) -> bool:
        known = block in self._where
        if known and not self._tiers.leave(block, tier):
            self._take(block, evicted=True)
        return known

    def _take(self, block: int, *, evicted: bool) -> None:
        self._tiers.pop(block, None)
        self._tree.take(block, evicted=evicted)

    @property
    def _is_full(self) -> bool:
        where, paths = self._where, self._tree.paths
        places = NODE_BLOCKS * paths.nodes + paths.holes.count // HOLES_A_BLOCK
        return len(where) + where.more + places > self._most

    def _bound(self) -> None:
        while self._is_full:
            self._partial = True
            count = max(1, int(self._most * DROPPED_SHARE))
            for block in self._where.oldest(count):
                self._take(block, evicted=False)

    def expect(self, prompt: Beginnings, tokens: int, room: float, *, sure: bool) -> Coming:
        """A prompt of so many tokens is sent there; see `held_tokens` and `Foreseen.sent`."""
        size = max(1, self._block_tokens)
        runs = self._runs(prompt.marks, None, room)
        held = max(self._saved(runs), self._coming_tokens(prompt.marks, prompt.block_tokens))
        need = max(0, -(-tokens // size) * size - int(held))
        coming = self.foreseen.sent(prompt.marks, tokens, need, sure=sure and tokens >= size)
        self._live[coming] = runs[-1][0] if runs else None
        self.foreseen.fit(room)
        self._kept_of = None
        return coming

    def left(self, coming: Coming, made: int = 0) -> None:
        """It is no more in the engine, which has made so many tokens of it, if somebody says so.

        What is there of it is the last to go from now on, but for that of who has ended behind it.
        """
        self.foreseen.left(coming)
        coming.made = made
        if self._live.pop(coming, None) is not None:
            for one in self._ends.ended(coming):
                if runs := self._runs(one.marks, None, inf):
                    self._tree.paths.use(runs[-1][0])
        self._kept_of = None

    def held_tokens(
        self,
        marks: bytes,
        tail: int | None = None,
        block_tokens: float = 0.0,
        room: float = inf,
    ) -> float:
        """Tokens of a prompt of these marks that need no prefill, each as much as it saves there.

        With a `tail`: and of what followed the prompt that had it, if all before is there. With its
        `block_tokens`: and of what is on its way. `room`: tokens that the engine has in all.
        """
        there = self._saved(self._runs(marks, tail, room))
        return max(there, self._coming_tokens(marks, block_tokens)) if block_tokens else there

    def _saved(self, runs: list[tuple[Node, int]]) -> float:
        saved = self._tiers.saved
        return sum([saved(one.blocks, count) for one, count in runs]) * self._block_tokens

    def _runs(self, marks: bytes, tail: int | None, room: float) -> list[tuple[Node, int]]:
        """Where a prompt's first blocks are that are there, and how many at each."""
        runs, number = list[tuple[Node, int]](), 0
        for node, until in self._tree.paths.along(marks, tail):
            if not node.blocks:
                continue
            if node.first > number:
                break
            # What others share behind the mark before is not of this prompt, which has its own.
            while number > node.first:
                before, count = runs.pop()
                number = max(before.first, min(node.first, before.first + count))
                if number > before.first:
                    runs.append((before, number - before.first))
            count = node.blocks.index(None) if node.missing else len(node.blocks)
            count = min(count, until - node.first)
            runs.append((node, count))
            number = node.first + count
            if node.missing:
                break
        return self._left_of(runs, room) if self.foreseen.need and room < inf else runs

    def _left_of(self, runs: list[tuple[Node, int]], room: float) -> list[tuple[Node, int]]:
        """What is left of them once those on their way are there."""
        kept_of = self._pushed_out(room)
        for k, (node, count) in enumerate(runs):
            if (kept := kept_of.get(node, count)) < count:
                return [*runs[:k], *([(node, kept)] if kept else [])]
        return runs

    def _pushed_out(self, room: float) -> dict[Node, int]:
        """Whose blocks those on their way will push out, and how many of each stay."""
        need = self.foreseen.need
        if self._kept_of is None or self._kept_of[0] != (need, room):
            size = max(1, self._block_tokens)
            not_full = sum([one is not None and not one.need for one in self._live])
            free = max(0, int(room) // size - len(self._where) - not_full)
            busy = {one for one in self._live.values() if one is not None}
            kept_of = self._tree.paths.pushed_out(need // size - free, busy)
            self._kept_of = (need, room), kept_of
        return self._kept_of[1]

    def _coming_tokens(self, marks: bytes, block_tokens: float) -> float:
        """Of a prompt with so many tokens in each of a router's blocks, those on their way."""
        end = self.foreseen.common(marks)
        if not end:
            return 0.0
        if not self._block_tokens:  # of none it is known how long they are
            return MARKS[end - 1] * block_tokens
        begin, pace = marks[: end * NAME_BYTES], block_tokens / self._block_tokens
        return float(self._tree.paths.ends_before(begin, pace) * self._block_tokens)
