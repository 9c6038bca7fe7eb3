"""What fits into an engine's memory, and which prompt prefixes it still holds there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Tokens a hashed block, as in the Mooncake traces.
BLOCK_TOKENS = 512
# Share of memory that admission leaves alone, so that an engine that is full does not preempt at
# once (vLLM's watermark).
WATERMARK = 0.01


def count_fitting(needs: Iterable[float], room: float) -> int:
    """How many of the first that need so many tokens fit into `room` tokens.

    Nobody overtakes the first one that does not fit.
    """
    count = 0
    for tokens in needs:
        room -= tokens
        if room < 0:
            break
        count += 1
    return count


@dataclass(frozen=True, slots=True)
class Kept:
    """A prompt's blocks, in order, are in the cache from now on; the first `reused` were before."""

    owner: str
    blocks: tuple[int, ...]
    reused: int


@dataclass(frozen=True, slots=True)
class Gone:
    """These blocks are no longer in the cache."""

    blocks: tuple[int, ...]


class PrefixCache:
    """Blocks of earlier prompts, least recently used first to go.

    A block's hash stands for itself and all before it, so prompts share what their hashes share
    from the front. Only the last block of a prompt may be shorter than `BLOCK_TOKENS`.

    Attributes:
        block_tokens: of each block.
        tokens: held in all.
        changes: what was stored and dropped, in order, for whoever tells of it and takes it from
            there; None: nobody does.
    """

    def __init__(self, block_tokens: int = BLOCK_TOKENS, *, noted: bool = False) -> None:
        self.block_tokens = block_tokens
        self._blocks: OrderedDict[int, int] = OrderedDict()
        self.tokens = 0
        self.changes: list[Kept | Gone] | None = [] if noted else None

    def __iter__(self) -> Iterator[int]:
        """The blocks held."""
        return iter(self._blocks)

    def copy(self) -> PrefixCache:
        """What it holds now, by itself."""
        other = PrefixCache(self.block_tokens)
        other._blocks, other.tokens = self._blocks.copy(), self.tokens
        return other

    def match(self, hash_ids: tuple[int, ...], prompt_tokens: int) -> int:
        """Prompt tokens that need no prefill; the last one always does, as it makes the answer."""
        found = 0
        for block in hash_ids:
            tokens = self._blocks.get(block)
            if tokens is None:
                break
            found += tokens
        return max(0, min(found, prompt_tokens - 1))

    def held(self, hash_ids: tuple[int, ...]) -> int:
        """How many of these blocks, from the front, it holds."""
        count = 0
        for block in hash_ids:
            if block not in self._blocks:
                break
            count += 1
        return count

    def store(
        self, hash_ids: tuple[int, ...], prompt_tokens: int, room_tokens: float, owner: str = ""
    ) -> list[int]:
        """Keep a prompt's blocks; then as many in all as there is room for beside what runs.

        `owner`: whose prompt it is, for whoever is told.

        Returns:
            The blocks that had to go.
        """
        size = self.block_tokens
        if self.changes is not None and hash_ids:
            self.changes.append(Kept(owner, hash_ids, self.held(hash_ids)))
        for k, block in reversed(list(enumerate(hash_ids))):  # the first blocks are the last to go
            tokens = min(size, prompt_tokens - k * size)
            if tokens > 0:
                self.tokens += tokens - self._blocks.pop(block, 0)
                self._blocks[block] = tokens
        return self.trim(room_tokens)

    def drop(self, hash_ids: Iterable[int]) -> None:
        """They turn out not to be there; unknown ones are ignored."""
        for block in hash_ids:
            self.tokens -= self._blocks.pop(block, 0)

    def trim(self, room_tokens: float) -> list[int]:
        """Drop what there is no room for beside what runs; tells which blocks that were."""
        gone: list[int] = []
        while self._blocks and self.tokens > room_tokens:
            block, tokens = self._blocks.popitem(last=False)
            self.tokens -= tokens
            gone.append(block)
        if self.changes is not None and gone:
            self.changes.append(Gone(tuple(gone)))
        return gone
