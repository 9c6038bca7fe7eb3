"""Prompts as chains of hashed blocks, and who holds which: what a router can know of prefix caches.

A router sees no engine's memory; it remembers what it has sent where, and forgets it as an engine
with that much memory would. A block's hash stands for itself and all before it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

from solver.batching.kv import PrefixCache
from solver.cost.estimators import BYTES_PER_TOKEN

# Tokens a block: what two prompts must share at least for it to matter to a plan.
BLOCK_TOKENS = 128
TEXT_BYTES = int(BLOCK_TOKENS * BYTES_PER_TOKEN)
ID_BYTES = 4
ID_BLOCK_BYTES = BLOCK_TOKENS * ID_BYTES
# Of longer prompts only so many blocks are told apart: a millisecond of hashing.
MOST_BLOCKS = 1024

W = TypeVar("W", bound=Hashable)


def text_blocks(text: str, salt: str = "") -> tuple[int, ...]:
    """The hashes of a prompt of text; prompts of different `salt` share nothing."""
    if len(text) * 4 < TEXT_BYTES:
        return ()
    return chain(text_data(text), TEXT_BYTES, salt)


def id_blocks(ids: bytes, salt: str = "") -> tuple[int, ...]:
    """The hashes of a prompt of token ids, `ID_BYTES` bytes each."""
    return chain(ids, ID_BLOCK_BYTES, salt)


def text_data(text: str) -> bytes:
    """As much of a prompt of text as is looked at."""
    return text[: MOST_BLOCKS * TEXT_BYTES].encode("utf-8", "surrogatepass")


def chain(data: bytes, size: int, salt: str = "") -> tuple[int, ...]:
    """The hashes of a prompt's blocks of `size` bytes.

    Full blocks only: what comes after them may go on differently.
    """
    if len(data) < size:
        return ()
    found: list[int] = []
    last = salt.encode("utf-8", "surrogatepass")
    for start in range(0, min(len(data) - size + 1, MOST_BLOCKS * size), size):
        last = blake2b(data[start : start + size] + last, digest_size=8).digest()
        found.append(int.from_bytes(last))
    return tuple(found)


class PrefixIndex(Generic[W]):
    """Who is likely to hold which blocks: a cache a worker, and all holders of a block at once."""

    def __init__(self) -> None:
        self._bits: dict[W, int] = {}
        self._caches: dict[W, PrefixCache] = {}
        self._holders: dict[int, int] = {}

    def __bool__(self) -> bool:
        """Whether anybody is likely to hold anything."""
        return bool(self._holders)

    def store(self, worker: W, blocks: tuple[int, ...], room_tokens: float) -> None:
        """`worker` is given a prompt with these blocks, and has room for `room_tokens` to keep."""
        cache = self._caches.setdefault(worker, PrefixCache(BLOCK_TOKENS))
        bit = self._bits.setdefault(worker, 1 << len(self._bits))
        for block in blocks:
            self._holders[block] = self._holders.get(block, 0) | bit
        for block in cache.store(blocks, len(blocks) * BLOCK_TOKENS, room_tokens):
            self._drop(block, bit)

    def withdraw(self, worker: W, blocks: Sequence[int]) -> None:
        """It has not come to prefill these."""
        if worker in self._caches:
            self._caches[worker].drop(blocks)
            for block in blocks:
                self._drop(block, self._bits[worker])

    def forget(self, worker: W) -> None:
        """It has lost its memory."""
        for block in self._caches.pop(worker, ()):
            self._drop(block, self._bits[worker])

    def _drop(self, block: int, bit: int) -> None:
        left = self._holders.get(block, 0) & ~bit
        if left:
            self._holders[block] = left
        else:
            self._holders.pop(block, None)

    def held(self, blocks: tuple[int, ...], workers: Sequence[W]) -> list[int]:
        """How many of `blocks`, from the front, each of `workers` holds."""
        bits = [self._bits.get(worker, 0) for worker in workers]
        found, left = [0] * len(workers), sum(bits)
        for count, block in enumerate((*blocks, None)):
            still = left & self._holders.get(block, 0) if block is not None else 0
            if still != left:
                for j, bit in enumerate(bits):
                    if bit & left & ~still:
                        found[j] = count
                left = still
            if not left:
                break
        return found
