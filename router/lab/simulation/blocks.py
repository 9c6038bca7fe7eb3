"""Hashes of prompts' blocks, of as many tokens as the simulator's have.

Others hash blocks of 16 tokens, or of another power of two. As a hash tells of all that is before
its block, every so-many-th is one of a block of ours. How many tokens theirs have is told by the
prompt that has the most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log2

from solver.batching.kv import BLOCK_TOKENS
from solver.sim.request import Request

# Of fewer hashes a prompt does not tell how many tokens each has.
LEAST = 4


def block_tokens(requests: Sequence[Request]) -> int:
    """So many have the blocks that were hashed."""
    longest = max(requests, key=lambda one: len(one.hash_ids), default=None)
    if longest is None or len(longest.hash_ids) < LEAST:
        return BLOCK_TOKENS
    each = longest.prompt_tokens / len(longest.hash_ids)
    return min(BLOCK_TOKENS, 1 << max(0, round(log2(each))))


def in_our_blocks(requests: Sequence[Request], size: int) -> list[Request]:
    """Their hashes were of blocks of `size` tokens."""
    many = BLOCK_TOKENS // size
    return [replace(one, hash_ids=one.hash_ids[many - 1 :: many]) for one in requests]
