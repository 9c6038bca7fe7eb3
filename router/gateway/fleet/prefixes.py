"""Which worker is likely to have a prompt's beginning in its cache."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np

from router.http.schemas import CompletionRequest
from solver.arrays import FloatArray
from solver.routing.prefixes import (
    BLOCK_TOKENS,
    TEXT_BYTES,
    PrefixIndex,
    id_blocks,
    text_blocks,
)


class CachingWorker(Hashable, Protocol):
    """A worker, as far as its cache goes."""

    @property
    def has_prefix_cache(self) -> bool:
        """Whether it has one."""
        ...

    @property
    def kv_free(self) -> float:
        """Tokens that it has room for."""
        ...


class HashedRequest(Protocol):
    """A request whose prompt may begin like earlier ones."""

    blocks: tuple[int, ...]
    block_tokens: float


class Prefixes:
    """Fed by what is sent: who comes next with the same beginning finds it there."""

    def __init__(self) -> None:
        self._index: PrefixIndex[CachingWorker] = PrefixIndex()

    def sent(self, blocks: tuple[int, ...], worker: CachingWorker) -> None:
        """A prompt with these blocks has gone to `worker`."""
        if blocks and worker.has_prefix_cache:
            self._index.store(worker, blocks, worker.kv_free)

    def forget(self, worker: CachingWorker) -> None:
        """It is down: when it comes back, its memory is empty."""
        self._index.forget(worker)

    def cached_tokens(
        self, requests: Sequence[HashedRequest], workers: Sequence[CachingWorker]
    ) -> FloatArray | None:
        """(n, m) prompt tokens of each request that each worker would not have to prefill."""
        found: FloatArray | None = None
        for i, request in enumerate(requests):
            if not request.blocks:
                continue
            held = self._index.held(request.blocks, workers)
            if any(held):
                found = np.zeros((len(requests), len(workers))) if found is None else found
                found[i] = np.array(held) * request.block_tokens
        return found


def blocks_of(request: CompletionRequest, prompt_tokens: int) -> tuple[tuple[int, ...], float]:
    """The blocks of a request's prompt, and the tokens in each, over all its choices.

    Several prompts in one request are taken to share nothing with others.
    """
    if len(request.prompts) > 1:
        return (), 0.0
    prompt = request.prompts[0]
    if prompt.token_ids is not None:
        blocks, share = id_blocks(prompt.ids, request.model), BLOCK_TOKENS / prompt.token_ids
    else:
        blocks = text_blocks(prompt.text, request.model)
        share = TEXT_BYTES / max(1, prompt.text_bytes)
    return blocks, share * (prompt_tokens - 1)  # the last one always is prefilled
