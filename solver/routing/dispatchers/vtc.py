"""The tenant that has been served the fewest tokens, at a free slot; the fewest requests there.

Decides: holds requests until a worker has room. Then the tenant with the least counter goes, its
own requests as they came, to the worker with the fewest requests in flight, of equals the first. A
tenant with nothing waiting that comes back is lifted to the least counter of those that wait.

Inputs: each request's tenant and weight, prompt tokens, expected output tokens and, at its end,
actual ones; each worker's room and requests in flight.

Parameters:
- `PROMPT_WEIGHT`, `OUTPUT_WEIGHT`: 1 and 2, of a prompt token and of an output token; the source's.

Trade-off: exact shares of tokens, in whatever order tenants send. Tokens are not time: who sends
long prompts to warm caches, or reads long contexts, pays what it does not take and takes what it
does not pay, and nobody is sent where its prefix is.

When not to use it: with one tenant, or where prompts have prefixes in common.

Source: VTC, arXiv:2401.00588, Algorithm 2, with weights and with predicted lengths as in its
section 4: an answer is charged as expected when it is sent, and settled at its end. The source has
one engine; reconstructed is that of several the least loaded is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from solver.routing.dispatchers.base import Arrival, Ended, Placement, Workers
from solver.routing.fair import Weight, alike

PROMPT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0


class Vtc:
    """Virtual token counters; see the module."""

    def __init__(self, weight: Weight = alike) -> None:
        self._weight = weight
        self._waiting: dict[str, deque[Arrival]] = {}
        self._counters: dict[str, float] = {}
        self._last = 0.0  # the counter of whoever left the queue last
        self._expected: dict[int, tuple[str, float]] = {}

    def arrive(self, arrival: Arrival, now: float) -> None:  # noqa: ARG002
        """It waits for its tenant's turn."""
        tenant = arrival.tenant
        if tenant not in self._waiting:
            others = [self._counters[one] for one in self._waiting]
            own = self._counters.get(tenant, 0.0)
            self._counters[tenant] = max(own, min(others, default=self._last))
            self._waiting[tenant] = deque()
        self._waiting[tenant].append(arrival)

    def poll(self, now: float, workers: Workers) -> Iterator[Placement]:  # noqa: ARG002
        """As long as somebody has room."""
        while self._waiting:
            free = [j for j, worker in enumerate(workers) if worker.room > 0]
            if not free:
                return
            tenant = min(self._waiting, key=self._counters.__getitem__)
            arrival = self._waiting[tenant].popleft()
            if not self._waiting[tenant]:
                del self._waiting[tenant]
                self._last = self._counters[tenant]
            self._expected[arrival.number] = tenant, arrival.expected_tokens
            output = OUTPUT_WEIGHT * arrival.expected_tokens
            self._charge(tenant, PROMPT_WEIGHT * arrival.prompt_tokens + output)
            arrival.ahead_s = 0.0
            yield arrival, min(free, key=lambda j: workers[j].in_flight)

    def next_deadline(self) -> float | None:
        """Somebody goes when somebody ends."""
        return None

    def ended(self, ended: Ended, now: float) -> None:  # noqa: ARG002
        """The answer was longer, or shorter."""
        tenant, expected = self._expected.pop(ended.number)
        self._charge(tenant, OUTPUT_WEIGHT * (ended.output_tokens - expected))

    def _charge(self, tenant: str, tokens: float) -> None:
        self._counters[tenant] += tokens / self._weight(tenant)
