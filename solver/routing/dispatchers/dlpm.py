"""The longest cached prefix among the tenants, and for each the workers, that are not in debt.

Decides: holds requests until a worker has room. Of the tenants with a quantum left the request with
the longest prefix in a cache goes, of equals the one that came first, to the worker that has it,
among those where its tenant has a quantum left; of equals the one with the fewest requests. If all
tenants that wait are in debt each gets a quantum more, and so with a tenant's workers.

Inputs: each request's tenant and weight, prompt tokens, expected output tokens and, at its end,
actual ones; each worker's room, requests in flight, and how much of the prompt its cache holds.

Parameters:
- `QUANTUM`: 8,192 tokens by weight: some requests in a row may go where their prefix is; the source
  takes what a few requests need, and less is fairer.
- `PROMPT_WEIGHT`, `OUTPUT_WEIGHT`: 1 and 2, of an uncached prompt token and of an output token.
- `LOOK`: the first 64 of each tenant are compared.

Trade-off: conversations stay where their caches are warm as long as their tenant is not far ahead
of the others. Tokens are not time, and workers' speeds are not seen.

When not to use it: with one tenant, or where workers differ in speed.

Source: D2LPM, arXiv:2501.14312, by its abstract and algorithm; reconstructed are the quantum's size
and that answers are charged as expected when sent and settled at their end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from solver.routing.dispatchers.base import Arrival, Ended, Placement, Workers
from solver.routing.fair import Weight, alike

QUANTUM = 8192.0
PROMPT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
LOOK = 64


class _Sent(NamedTuple):
    tenant: str
    worker: int
    expected: float


class Dlpm:
    """Deficits over the longest prefix; see the module."""

    def __init__(self, weight: Weight = alike) -> None:
        self._weight = weight
        self._waiting: dict[str, dict[int, Arrival]] = {}
        self._left: defaultdict[str, float] = defaultdict(float)
        self._left_at: defaultdict[tuple[str, int], float] = defaultdict(float)
        self._sent: dict[int, _Sent] = {}

    def arrive(self, arrival: Arrival, now: float) -> None:  # noqa: ARG002
        """It waits."""
        self._waiting.setdefault(arrival.tenant, {})[arrival.number] = arrival

    def poll(self, now: float, workers: Workers) -> Iterator[Placement]:  # noqa: ARG002
        """As long as somebody has room."""
        while self._waiting:
            free = [j for j, worker in enumerate(workers) if worker.room > 0]
            if not free:
                return
            arrival, j = self._next(free, workers)
            tenant = arrival.tenant
            del self._waiting[tenant][arrival.number]
            if not self._waiting[tenant]:
                del self._waiting[tenant]
            self._sent[arrival.number] = _Sent(tenant, j, arrival.expected_tokens)
            uncached = arrival.prompt_tokens - workers[j].cached_tokens(arrival)
            output = OUTPUT_WEIGHT * arrival.expected_tokens
            self._charge(tenant, j, PROMPT_WEIGHT * uncached + output)
            arrival.ahead_s = 0.0
            yield arrival, j

    def next_deadline(self) -> float | None:
        """Somebody goes when somebody ends."""
        return None

    def ended(self, ended: Ended, now: float) -> None:  # noqa: ARG002
        """The answer was longer, or shorter."""
        tenant, worker, expected = self._sent.pop(ended.number)
        self._charge(tenant, worker, OUTPUT_WEIGHT * (ended.output_tokens - expected))

    def _next(self, free: Sequence[int], workers: Workers) -> Placement:
        while not (rich := [one for one in self._waiting if self._left[one] > 0]):
            for tenant in self._waiting:
                self._left[tenant] += QUANTUM * self._weight(tenant)
        places = {tenant: self._places(tenant, free) for tenant in rich}
        return max(
            (
                (arrival, j)
                for tenant in rich
                for arrival in islice(self._waiting[tenant].values(), LOOK)
                for j in places[tenant]
            ),
            key=lambda one: (
                workers[one[1]].cached_tokens(one[0]) if one[0].hash_ids else 0,
                -one[0].number,
                -workers[one[1]].in_flight,
            ),
        )

    def _places(self, tenant: str, free: Sequence[int]) -> list[int]:
        while not (places := [j for j in free if self._left_at[tenant, j] > 0]):
            for j in free:
                self._left_at[tenant, j] += QUANTUM * self._weight(tenant)
        return places

    def _charge(self, tenant: str, worker: int, tokens: float) -> None:
        self._left[tenant] -= tokens
        self._left_at[tenant, worker] -= tokens
