"""Whether a request that a worker has not answered is to be asked of another one.

Rules:
- never refused is who could be served by a worker that is well and that it has not tried;
- else it has so many tries, and each takes one out of the retry budget: a share of all requests, so
  that an outage does not become a storm;
- where no connection comes about, nothing was sent: who finds out so waits for a place again, as if
  it had never been given one, and that is no retry;
- who meets a full worker is planned again for as long as it may wait for a worker at all;
- who waits beyond its patience at a worker that sends nothing, leaves it for one that is well; how
  long it is, follows from what was predicted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf

from router.gateway.explanations.choice import Choice
from router.gateway.fleet.stalls import LEAST_PATIENCE_S, Watched
from router.gateway.fleet.worker import Worker
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.ticket import Ticket
from router.http.asgi import Responder
from router.settings.gateway import GatewayTuning

# Retries in a row, if there were none for long: a worker's slots' worth fails at once.
MOST_SAVED = 32.0
# Times what was predicted that a request waits for a worker that sends nothing at all, and at least
# so many seconds where there is an agent: whether its engine is busy or away that tells by its
# state; only what it cannot see is left to our patience.
PATIENCE, LEAST_AGENT_S = 3.0, 5.0
# An answer in one piece may be much longer than predicted, but not each of several: a worker that
# has shown that it lives, and has nobody else's to send, gets the time of one in a hundred, and
# half of it more, within bounds.
LONG_ANSWER, LONG_PATIENCE, MOST_PATIENCE = 0.99, 1.5, 6.0


class RetryBudget:
    """Each request adds its share, each retry takes one out; what is saved up is bounded.

    A clock has no part in it: without traffic there is nothing to retry.
    """

    def __init__(self, share: float) -> None:
        self._share, self._saved = share, MOST_SAVED if share else 0.0

    def earn(self) -> None:
        """A request has come."""
        self._saved = min(MOST_SAVED, self._saved + self._share)

    def spend(self) -> bool:
        """Take one retry out, if there is one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


@dataclass(slots=True)
class Tries:
    """What has come of one request: how often it failed, whom it left, and since when all are full.

    Who was left for its silence may have been slow only: where nobody else is left, it is asked
    again. `served`: the worker that it is at has begun to answer it well.
    """

    failures: int = 0
    left: frozenset[Worker] = frozenset()
    full_since_s: float | None = None
    served: bool = False


class Retries:
    """Decides; see the module."""

    def __init__(self, tuning: GatewayTuning, dispatcher: Dispatcher) -> None:
        self._most, self._wait_s = tuning.retries, tuning.wait_for_worker_s
        self._budget, self._dispatcher = RetryBudget(tuning.retry_share), dispatcher

    def begin(self) -> Tries:
        """A request has come."""
        self._budget.earn()
        return Tries()

    def after_failure(self, ticket: Ticket, worker: Worker, tries: Tries) -> bool:
        """Whether it goes on, now that `worker` has failed it."""
        tries.failures += 1
        if not self._most:
            return False
        others = self._dispatcher.others(ticket, worker)
        if not others and tries.left:
            ticket.excluded -= tries.left - {worker}
            others = self._dispatcher.others(ticket, worker)
        if any(other.health.well for other in others):
            return True
        comes_back = worker.down and self._wait_s > 0
        may = bool(others) or comes_back
        return may and tries.failures <= self._most and self._budget.spend()

    def while_unsent(self) -> bool:
        """Whether it waits for another place, now that no connection to its worker came about."""
        return bool(self._most)

    def after_silence(self, ticket: Ticket, worker: Worker, tries: Tries) -> bool:
        """Whether it need not wait for a silent worker, as another is well."""
        others = self._dispatcher.others(ticket, worker)
        well = any(other.ready and other.health.rank == 0 for other in others)
        return well and len({one.address for one in tries.left}) < self._most

    def while_full(
        self, ticket: Ticket, worker: Worker, tries: Tries, full_s: float, *, alone: bool
    ) -> bool:
        """Whether it is planned again, now that `worker` takes nothing for `full_s` seconds.

        `alone`: though there is nobody else.
        """
        now = time.monotonic()
        if tries.full_since_s is None:
            tries.full_since_s = now
        left_s = tries.full_since_s + self._wait_s - now
        if self._most and left_s > 0 and self._dispatcher.others(ticket, worker):
            return True
        return alone and full_s < left_s


class Waiting(Watched):
    """A request at its worker: how long it waits there, and whether it may leave."""

    def __init__(
        self,
        retries: Retries,
        ticket: Ticket,
        worker: Worker,
        tries: Tries,
        choice: Choice,
        out: Responder,
    ) -> None:
        least_s = LEAST_PATIENCE_S if worker.state is None else LEAST_AGENT_S
        super().__init__(worker.stall_guard, least_s, out, trial=ticket.trial)
        self._retries, self._ticket, self._worker = retries, ticket, worker
        self._tries, self._choice = tries, choice

    def may_leave(self) -> bool:
        """Part of `Watched`."""
        return self._retries.after_silence(self._ticket, self._worker, self._tries)

    def patience(self) -> float:
        """Part of `Watched`: for how long its worker may send nothing at all before it begins."""
        job, worker = self._ticket.job, self._worker
        if self._ticket.streamed:
            return max(self.least_s, PATIENCE * self._choice.first_token_s(job.weight))
        times = PATIENCE
        alone = worker.load.sequences <= job.sequences and worker.up
        if alone and worker.stall_guard.heard_s > -inf and job.lengths is not None:
            long = job.lengths.quantile(LONG_ANSWER) / max(1.0, job.lengths.mean)
            times = min(MOST_PATIENCE, max(PATIENCE, LONG_PATIENCE * long))
        return max(self.least_s, times * self._choice.finish_s)
