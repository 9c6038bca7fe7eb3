"""What a dispatcher knows of a worker's prefix cache, who sees it through others' eyes.

Rules:
- `exact`: what it holds now, as an engine tells of each block that it stores or drops;
- `estimated`: what was sent to it, forgotten as a cache of the memory beside what is there would;
- `stale:SECONDS`: what it held at the last multiple of so many seconds;
- whoever sends knows what is on its way: prompts count from then on, as those that come together
  and begin alike belong together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import floor, inf
from typing import Protocol

from solver.batching.kv import PrefixCache
from solver.errors import ProblemError

KNOWLEDGE = "exact, estimated or stale:SECONDS"


class CacheView(Protocol):
    """What is known of one worker's cache."""

    def sent(self, hash_ids: tuple[int, ...], prompt_tokens: int) -> None:
        """A request with this prompt goes there."""
        ...

    def prefilled(self, hash_ids: tuple[int, ...]) -> None:
        """One that was sent has been prefilled."""
        ...

    def match(self, hash_ids: tuple[int, ...], prompt_tokens: int, now: float) -> int:
        """Of a prompt, the tokens that are taken to need no prefill there."""
        ...


class Told:
    """What an engine tells, and what is on its way there; `period_s`: between two looks at that."""

    def __init__(self, cache: PrefixCache, period_s: float = 0.0) -> None:
        self._cache, self._period_s = cache, period_s
        self._look, self._seen = -1, PrefixCache() if period_s else cache
        self._under_way: Counter[int] = Counter()

    def sent(self, hash_ids: tuple[int, ...], prompt_tokens: int) -> None:  # noqa: ARG002
        """It is on its way."""
        self._under_way.update(hash_ids)

    def prefilled(self, hash_ids: tuple[int, ...]) -> None:
        """From now on its engine's word counts."""
        for block in hash_ids:
            self._under_way[block] -= 1
            if not self._under_way[block]:
                del self._under_way[block]

    def match(self, hash_ids: tuple[int, ...], prompt_tokens: int, now: float) -> int:
        """As it was at the last look, and as it is being sent."""
        look = floor(now / self._period_s) if self._period_s else self._look
        if look != self._look:
            self._look, self._seen = look, self._cache.copy()
        found = self._seen.match(hash_ids, prompt_tokens)
        sent = 0
        for block in hash_ids:
            if block not in self._under_way:
                break
            sent += self._cache.block_tokens
        return max(found, min(sent, prompt_tokens - 1))


class Estimated:
    """A cache of what was sent, with the `room` that is left of memory as far as it is known."""

    def __init__(self, room: Callable[[], float]) -> None:
        self._cache, self._room = PrefixCache(), room

    def sent(self, hash_ids: tuple[int, ...], prompt_tokens: int) -> None:
        """Whoever comes next finds it there."""
        self._cache.store(hash_ids, prompt_tokens, self._room())

    def prefilled(self, hash_ids: tuple[int, ...]) -> None:
        """Nobody tells of it."""

    def match(self, hash_ids: tuple[int, ...], prompt_tokens: int, now: float) -> int:  # noqa: ARG002
        """As it was sent."""
        return self._cache.match(hash_ids, prompt_tokens)


def cache_view(knowledge: str, cache: PrefixCache, room: Callable[[], float]) -> CacheView:
    """What is known of a worker's `cache` that has `room` for so many tokens.

    Raises:
        ProblemError: if there is no such knowledge.
    """
    if knowledge == "exact":
        return Told(cache)
    if knowledge == "estimated":
        return Estimated(room)
    return Told(cache, stale_s(knowledge))


def stale_s(knowledge: str) -> float:
    """The period of what is ``stale:SECONDS``.

    Raises:
        ProblemError: if it is something else, or no period.
    """
    kind, _, seconds = knowledge.partition(":")
    try:
        period_s = float(seconds)
    except ValueError:
        period_s = 0.0
    if kind != "stale" or not 0 < period_s < inf:
        raise ProblemError(f"cache knowledge: {knowledge!r} is not {KNOWLEDGE}, seconds above 0")
    return period_s
