"""Which worker has a prompt's beginning in its cache, as its engine tells, or as is likely."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

import numpy as np

from router.gateway.fleet.kv.caches import WorkerCache
from router.gateway.fleet.sessions import InSession, Sessions
from router.http.schemas import CompletionRequest
from router.kv_wire import tail_of
from solver.arrays import FloatArray
from solver.routing.foreseen import Coming
from solver.routing.marks import NO_PROMPT, Beginnings, Hashed, hash_ids, hash_text
from solver.routing.prefixes import BLOCK_TOKENS, TEXT_BYTES, PrefixIndex


class CachingWorker(Hashable, Protocol):
    """A worker, as far as its cache goes."""

    @property
    def place(self) -> str:
        """Where it is, for all who send there."""
        ...

    @property
    def has_prefix_cache(self) -> bool:
        """Whether it has one."""
        ...

    @property
    def kv_free(self) -> float:
        """Tokens that it has room for."""
        ...

    @property
    def cache_room(self) -> float:
        """Tokens of all of its cache, of which running requests hold theirs; infinite: unknown."""
        ...

    @property
    def told_cache(self) -> WorkerCache | None:
        """What its engine tells of its cache; None: nothing, or nothing any more."""
        ...


class HashedRequest(Hashable, InSession, Protocol):
    """A request whose prompt may begin like earlier ones."""

    @property
    def block_tokens(self) -> float:
        """Tokens in each of its blocks, over all its sequences."""
        ...

    @property
    def beginnings(self) -> Beginnings:
        """Its prompt, as engines tell of it."""
        ...

    @property
    def sequences(self) -> int:
        """How many it has."""
        ...


class Told(Protocol):
    """Others who send to the same workers, and are told what is sent here."""

    def sent(self, request: HashedRequest, place: str, *, marks: bool) -> None:
        """A prompt goes to a worker; `marks`: that one's engine tells of its cache by them."""
        ...

    def begun(self, request: HashedRequest) -> None:
        """Its first token has come."""
        ...

    def left(self, request: HashedRequest, made: int) -> None:
        """It has left, however; see `Prefixes.left`."""
        ...


# Blocks, and how many requests have brought each.
Brought = dict[int, int]


def _bring(brought: Brought, blocks: Iterable[int]) -> None:
    """One more request brings these."""
    for block in blocks:
        brought[block] = brought.get(block, 0) + 1


def _take(brought: Brought, blocks: Iterable[int]) -> list[int]:
    """One request fewer does; those that nobody brings any more.

    What is not there is known to be in a cache: somebody's first token has come.
    """
    gone = list[int]()
    for block in blocks:
        count = brought.get(block, 0)
        if count > 1:
            brought[block] = count - 1
        elif count:
            del brought[block]
            gone.append(block)
    return gone


class Prefixes:
    """Of engines that tell, what they tell; of others, what is sent to them.

    Who comes next with the same beginning finds it there. What is sent counts at once, so that
    those who come together go together; but who leaves before its first token takes along what
    nobody else has brought there. So it is with what others have sent, as far as they tell.
    """

    def __init__(self, others: Told | None = None, key: str = "") -> None:
        """`others` are told of all that is sent here; by `key` prompts are named (`hashed`)."""
        self._others, self.key = others, key
        self._index: PrefixIndex[CachingWorker] = PrefixIndex()
        self._sessions = Sessions()
        # Blocks that no first token has shown to be there: how many have brought them; and theirs.
        self._unproven: defaultdict[CachingWorker, Brought] = defaultdict(dict)
        self._waiting: dict[HashedRequest, tuple[CachingWorker, tuple[int, ...]]] = {}
        # Of engines that tell: what each request there is foreseen to bring.
        self._told: dict[HashedRequest, tuple[WorkerCache, list[Coming]]] = {}

    def sent(self, request: HashedRequest, worker: CachingWorker) -> None:
        """A prompt with its blocks has gone to `worker`."""
        self.book(request, worker)
        if self._others is not None:
            self._others.sent(request, worker.place, marks=worker.told_cache is not None)

    def book(self, request: HashedRequest, worker: CachingWorker) -> None:
        """The same, whoever has sent it."""
        told = worker.told_cache
        if told is not None and request.marks:
            tokens = request.prompt_tokens // request.sequences
            self._told[request] = told, told.expect(request.beginnings, tokens, worker.cache_room)
        if not (worker.has_prefix_cache and request.blocks):
            return
        held = self._index.held(request.blocks, [worker])[0]
        unproven = self._unproven[worker]
        brought = *(b for b in request.blocks[:held] if b in unproven), *request.blocks[held:]
        if brought:
            _bring(unproven, brought)
            self._waiting[request] = worker, brought
        self._index.store(worker, request.blocks, worker.kv_free)

    def begun(self, request: HashedRequest) -> None:
        """Its first token has come: its prompt is there."""
        if self._others is not None:
            self._others.begun(request)
        if (there := self._told.get(request)) is not None:
            told, coming = there
            told.begun(coming)
        if (brought := self._waiting.pop(request, None)) is not None:
            worker, blocks = brought
            for block in blocks:
                self._unproven[worker].pop(block, None)

    def answered(self, request: HashedRequest, worker: CachingWorker, tokens: int) -> None:
        """It has ended; its prompt and its answer, of so many tokens, are there."""
        if worker.has_prefix_cache:
            self._sessions.answered(request, worker, tokens)

    def left(self, request: HashedRequest, made: int = 0) -> None:
        """It has left its worker; perhaps it had not begun.

        `made`: tokens of its one answer, if that is whole and the engine has counted them; else 0.
        """
        if self._others is not None:
            self._others.left(request, made)
        if (there := self._told.pop(request, None)) is not None:
            told, coming = there
            told.left(coming, made)
        if (brought := self._waiting.pop(request, None)) is None:
            return
        worker, blocks = brought
        self._index.withdraw(worker, _take(self._unproven[worker], blocks))

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
        tell = {j: told for j, one in enumerate(workers) if (told := one.told_cache) is not None}
        if not (tell or self._index):
            return None
        for i, request in enumerate(requests):
            blocks = request.blocks
            if not (blocks or (tell and request.marks)):
                continue
            held = self._index.held(blocks, workers)
            if any(held) or tell:
                found = np.zeros((len(requests), len(workers))) if found is None else found
                found[i] = np.array(held) * request.block_tokens
                self._sessions.add(request, workers, held, found[i])
            if found is not None and tell:
                self._take_word(request, workers, tell, found[i])
        return found

    def _take_word(
        self,
        request: HashedRequest,
        workers: Sequence[CachingWorker],
        tell: dict[int, WorkerCache],
        cached: FloatArray,
    ) -> None:
        """Of those that `tell`, what they tell and what is on its way there; `cached` is (m,)."""
        marks, last = request.marks, self._sessions.last(request)
        each = request.block_tokens / request.sequences
        most = request.prompt_tokens - request.sequences  # the last token makes the answer
        for j, told in tell.items():
            room = workers[j].cache_room
            tokens = told.held_tokens(marks, None, each, room)
            if last is not None and last.worker is workers[j]:
                before = marks[: last.marks]
                tail = tail_of(last.attempt)
                tokens = max(tokens, told.held_tokens(before, tail, 0.0, room))
            cached[j] = max(0.0, min(tokens * request.sequences, most))


def hashed(request: CompletionRequest, prompt_tokens: int, key: str) -> tuple[Hashed, float]:
    """A request's prompt as far as caches go, and tokens in each block, over all its choices.

    Its names are made with the `key`: who has another has other names for it.

    Several prompts in one request are taken to share nothing with others, what goes on from an
    answer begins with what is not in it, and of some nobody knows what an engine finds.
    """
    if len(request.prompts) > 1 or request.previous or request.unknown:
        return NO_PROMPT, 0.0
    prompt, salt = request.prompts[0], key + request.model + request.apart
    if prompt.token_ids is not None:
        found, share = hash_ids(prompt.ids, salt), BLOCK_TOKENS / prompt.token_ids
    else:
        found, share = (
            hash_text(prompt.named or prompt.text, salt),
            TEXT_BYTES / max(1, prompt.text_bytes),
        )
    return found, share * (prompt_tokens - 1)  # the last one always is prefilled
