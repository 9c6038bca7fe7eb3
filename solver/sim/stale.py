"""What a router that polls knows of engines: their state as of its last look.

Rules:
- all engines are looked at together, at multiples of the period;
- what was sent since is known and counted: whoever routes knows what it has sent (vLLM's client
  adds to the counts that it gets, smg credits tokens in flight, llm-d counts its own requests);
- what has ended, begun or been made since is not known;
- prefix caches are known as `solver.sim.cache_views` has it, and what does not change is known:
  slots, memory and speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor

from solver.routing.dispatchers.base import (
    Arrival,
    Dispatcher,
    Ended,
    Immediate,
    Load,
    Loads,
    Placement,
)


def seen_every(period_s: float, dispatcher: Dispatcher) -> Dispatcher:
    """The same one, looking at workers only so often; one that plans counts itself, and does not.

    At a period of 0 it sees everything at once.
    """
    if period_s <= 0 or not isinstance(dispatcher, Immediate):
        return dispatcher
    return Stale(dispatcher, period_s)


class Stale:
    """A rule that looks at workers every `period_s` seconds."""

    def __init__(self, rule: Immediate, period_s: float) -> None:
        self._rule, self._period_s = rule, period_s
        self._seen: Sequence[Seen] = ()
        self._looks = 0  # so many periods are over at the next look

    def arrive(self, arrival: Arrival, now: float) -> None:
        """It will be placed at the next poll."""
        self._rule.arrive(arrival, now)

    def next_deadline(self) -> float | None:
        """The next look, while there is anything to be seen."""
        busy = any(one.in_flight for one in self._seen)
        return self._looks * self._period_s if busy else None

    def ended(self, ended: Ended, now: float) -> None:
        """Not seen but by the next look."""

    def poll(self, now: float, workers: Loads) -> Iterator[Placement]:
        """As the rule decides by what it has seen."""
        if now >= self._looks * self._period_s:
            self._seen = [Seen(worker) for worker in workers]
            self._looks = max(self._looks, floor(now / self._period_s)) + 1
        for arrival, j in self._rule.poll(now, self._seen):
            self._seen[j].count(arrival)
            yield arrival, j


class Seen:
    """A worker as of some time, and what it was sent since; see `Load`."""

    def __init__(self, worker: Load) -> None:
        self._worker = worker
        self.in_flight, self.waiting, self.running = (
            worker.in_flight,
            worker.waiting,
            worker.running,
        )
        self.tokens, self.kv_used = worker.tokens, worker.kv_used
        self.queued_tokens, self.prefill_tokens = worker.queued_tokens, worker.prefill_tokens
        self.slots, self.kv_capacity = worker.slots, worker.kv_capacity
        self.cost, self.round_s = worker.cost, worker.round_s

    def count(self, arrival: Arrival) -> None:
        """It was sent this one."""
        uncached = arrival.prompt_tokens - self.cached_tokens(arrival)
        self.in_flight += 1
        self.waiting += 1
        self.tokens += arrival.prompt_tokens
        self.queued_tokens += uncached
        self.prefill_tokens += uncached

    def cached_tokens(self, arrival: Arrival) -> int:
        """Of its prompt, what the worker holds now."""
        return self._worker.cached_tokens(arrival)
