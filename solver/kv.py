"""Which prompt prefixes an engine still holds in memory."""

from __future__ import annotations

from collections import OrderedDict

# Tokens a hashed block, as in the Mooncake traces.
BLOCK_TOKENS = 512


class PrefixCache:
    """Blocks of earlier prompts, least recently used first to go.

    A block's hash stands for itself and all before it, so prompts share what their hashes share
    from the front.
    """

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def match(self, hash_ids: tuple[int, ...], prompt_tokens: int) -> int:
        """Prompt tokens that need no prefill; the last one always does, as it makes the answer."""
        blocks = 0
        for block in hash_ids:
            if block not in self._blocks:
                break
            blocks += 1
        return min(blocks * BLOCK_TOKENS, prompt_tokens - 1)

    def store(self, hash_ids: tuple[int, ...], room_tokens: float) -> None:
        """Keep a prompt's blocks; then as many in all as there is room for beside what runs."""
        for block in reversed(hash_ids):  # the first blocks are the last to go
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while self._blocks and len(self._blocks) * BLOCK_TOKENS > room_tokens:
            self._blocks.popitem(last=False)
