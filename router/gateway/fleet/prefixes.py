"""Which worker is likely to have a prompt's beginning in its cache."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np

from router.gateway.fleet.sessions import InSession, Sessions
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


class HashedRequest(Hashable, InSession, Protocol):
    """A request whose prompt may begin like earlier ones."""

    @property
    def block_tokens(self) -> float:
        """Tokens in each of its blocks, over all its sequences."""
        ...


class Prefixes:
    """Fed by what is sent: who comes next with the same beginning finds it there.

    What is sent counts at once, so that those who come together go together; but who leaves before
    its first token takes along what nobody else has brought there.
    """

    def __init__(self) -> None:
        self._index: PrefixIndex[CachingWorker] = PrefixIndex()
        self._sessions = Sessions()
        # Blocks that no first token has shown to be there: how many have brought them; and theirs.
        self._unproven: defaultdict[CachingWorker, Counter[int]] = defaultdict(Counter)
        self._waiting: dict[HashedRequest, tuple[CachingWorker, tuple[int, ...]]] = {}

    def sent(self, request: HashedRequest, worker: CachingWorker) -> None:
        """A prompt with its blocks has gone to `worker`."""
        if not request.blocks or not worker.has_prefix_cache:
            return
        held = self._index.held(request.blocks, [worker])[0]
        unproven = self._unproven[worker]
        brought = *(b for b in request.blocks[:held] if b in unproven), *request.blocks[held:]
        if brought:
            unproven.update(brought)
            self._waiting[request] = worker, brought
        self._index.store(worker, request.blocks, worker.kv_free)

    def begun(self, request: HashedRequest) -> None:
        """Its first token has come: its prompt is there."""
        if (brought := self._waiting.pop(request, None)) is not None:
            worker, blocks = brought
            for block in blocks:
                self._unproven[worker].pop(block, None)

    def answered(self, request: HashedRequest, worker: CachingWorker, tokens: int) -> None:
        """It has ended; its prompt and its answer, of so many tokens, are there."""
        if worker.has_prefix_cache:
            self._sessions.answered(request, worker, tokens)

    def left(self, request: HashedRequest) -> None:
        """It has left its worker; perhaps it had not begun."""
        if (brought := self._waiting.pop(request, None)) is None:
            return
        worker, blocks = brought
        unproven, gone = self._unproven[worker], list[int]()
        for block in blocks:
            if block in unproven:  # else somebody else's first token has come
                unproven[block] -= 1
                if not unproven[block]:
                    del unproven[block]
                    gone.append(block)
        self._index.withdraw(worker, gone)

    def forget(self, worker: CachingWorker) -> None:
        """It is down: when it comes back, its memory is empty."""
        self._index.forget(worker)
        self._unproven.pop(worker, None)
        for request in [one for one, (at, _) in self._waiting.items() if at is worker]:
            del self._waiting[request]

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
                self._sessions.add(request, workers, held, found[i])
        return found


def blocks_of(request: CompletionRequest, prompt_tokens: int) -> tuple[tuple[int, ...], float]:
    """The blocks of a request's prompt, and the tokens in each, over all its choices.

    Several prompts in one request are taken to share nothing with others, and what goes on from an
    answer begins with what is not in it.
    """
    if len(request.prompts) > 1 or request.previous:
        return (), 0.0
    prompt = request.prompts[0]
    if prompt.token_ids is not None:
        blocks, share = id_blocks(prompt.ids, request.model), BLOCK_TOKENS / prompt.token_ids
    else:
        blocks = text_blocks(prompt.text, request.model)
        share = TEXT_BYTES / max(1, prompt.text_bytes)
    return blocks, share * (prompt_tokens - 1)  # the last one always is prefilled
