"""Which workers may serve a request: those that can, in the best health that any of them is in."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from router.gateway.fleet.worker import Worker
from router.gateway.planning.ticket import Ticket


class Eligible:
    """Remembers it for the usual request of each model, until workers change."""

    def __init__(self) -> None:
        self._served: Sequence[object] = ()
        self._least_context, self._by_model = inf, dict[str, frozenset[int] | None]()

    def look(self, workers: Sequence[Worker]) -> bool:
        """Whether it has changed who is there, what they serve or how they are."""
        served = [(worker, worker.served, worker.health.rank) for worker in workers]
        if served == self._served:
            return False
        self._served = served
        lengths = (length for worker in workers for _, length in worker.served)
        self._least_context = min((n for n in lengths if n is not None), default=inf)
        self._by_model.clear()
        return True

    def among(self, ticket: Ticket, workers: Sequence[Worker]) -> frozenset[int] | None:
        """Their indices; None: all. Most tickets have failed nowhere, and fit every worker."""
        usual = (
            not ticket.excluded
            and ticket.only is None
            and ticket.near is None
            and ticket.least_tokens <= self._least_context
        )
        if usual and ticket.model in self._by_model:
            return self._by_model[ticket.model]
        able = best_of(workers, ticket)
        if ticket.near is not None:
            able = frozenset(j for j in able if workers[j] is ticket.near) or able
        found = None if able and len(able) == len(workers) else able
        if usual:
            self._by_model[ticket.model] = found
        return found


def best_of(workers: Sequence[Worker], ticket: Ticket) -> frozenset[int]:
    """Of those that may serve it, the ones in the best health that any is in."""
    able = [j for j, worker in enumerate(workers) if ticket.is_eligible_for(worker)]
    rank = min((workers[j].health.rank for j in able), default=0)
    return frozenset(j for j in able if workers[j].health.rank == rank)
