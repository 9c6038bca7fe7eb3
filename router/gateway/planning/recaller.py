"""Takes back what queues at one worker while another has room; `solver.routing.recall` says what.

From a worker that leaves all is taken back that another may serve, room or not: it waits better
at the gateway.

A request that its agent has given back ends there with a 503 that says so, and whoever holds it
places it again, at most `MOST_RECALLS` times. Which requests have begun the gateway cannot always
see; it names more than it wants, and how many it wants.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Sequence

import aiohttp

from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.ticket import Ticket
from router.http.connections import Connections, read_bounded, told_of
from router.wire import RECALL_PATH, Recall
from solver.batching.queue import longest_first
from solver.routing.problem import build_problem
from solver.routing.recall import find_recalls

log = logging.getLogger(__name__)

# Seconds between recalls: agents report every tenth of a second, and a move should have shown in
# the reports before the next is considered.
RECALL_INTERVAL_S = 0.25
MOST_RECALLS = 3
# Requests looked at together, the last in line: a millisecond or two.
MOST_AT_ONCE = 256
ANSWER_TIMEOUT_S = 2.0
MOST_ANSWER_BYTES = 1 << 17  # the names of some thousand requests


class Recaller:
    """Asked after each dispatch whether to recall anything; see the module."""

    def __init__(self, workers: Workers, connections: Connections) -> None:
        self._workers, self._connections = workers, connections
        self._next_s = 0.0
        self._calls: set[asyncio.Task[None]] = set()

    def maybe_recall(self) -> None:
        """Ask for requests back, if it is time: somebody leaves, or somebody else has room."""
        now = time.monotonic()
        if now < self._next_s:
            return
        holding = [worker for worker in self._workers if worker.state is not None and worker.queued]
        if not holding:
            return
        workers = self._workers.preferred()
        asked = {
            worker: (tickets, len(tickets))
            for worker in holding
            if worker.leaving and (tickets := movable_from(worker, workers))
        }
        loaded = [worker for worker in workers if worker.queued]
        if loaded and any(worker.free_slots and not worker.queued for worker in workers):
            asked |= choose_recalls(workers, loaded, now)
        elif not asked:
            return
        self._next_s = now + RECALL_INTERVAL_S
        for worker, (tickets, most) in asked.items():
            self.take_back(worker, tickets, most)

    def take_back(self, worker: Worker, tickets: Sequence[Ticket], most: int) -> None:
        """Ask a worker for `most` of the requests, as far as they have not begun there."""
        for ticket in tickets:
            ticket.recall_pending = True
        task = asyncio.create_task(self._recall(worker, tickets, most))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _recall(self, worker: Worker, tickets: Sequence[Ticket], most: int) -> None:
        """What comes of it is seen from the requests' own answers."""
        attempts = {ticket.attempt: ticket for ticket in tickets}
        own = self._connections.to_agent(worker.url)
        try:
            async with self._connections.session.post(
                worker.url + RECALL_PATH,
                data=Recall(tuple(attempts), most).encode(),
                headers={"content-type": "application/json", **own},
                timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S),
            ) as response:
                response.raise_for_status()
                told = await read_bounded(response, MOST_ANSWER_BYTES)
                back = Recall.decode(told or b"").requests
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.warning("recall failed", extra={"worker": worker.name, "why": told_of(error)})
            return
        for name in attempts.keys() - set(back):
            if attempts[name].attempt == name:  # it stays there, and may be asked for again
                attempts[name].recall_pending = False
        log.debug("recalled", extra={"worker": worker.name, "requests": len(back)})


def choose_recalls(
    workers: Sequence[Worker], loaded: Sequence[Worker], now: float
) -> dict[Worker, tuple[list[Ticket], int]]:
    """The requests to be asked for by the worker where they queue, and how many of them."""
    index = {worker: j for j, worker in enumerate(workers)}
    queues = {worker: _queue_at(worker) for worker in loaded}
    waiting = [(*e, w) for w, queue in queues.items() for e in queue[-w.queued :]]
    waiting = sorted(waiting, key=lambda entry: entry[:2])[-MOST_AT_ONCE:]
    if not waiting:
        return {}
    tickets = [entry[2] for entry in waiting]
    home = [index[entry[3]] for entry in waiting]
    problem = build_problem(
        [ticket.job for ticket in tickets],
        [worker.view(now) for worker in workers],
        [_eligible_workers(ticket, workers, h) for ticket, h in zip(tickets, home, strict=True)],
        now=now,
    )
    free = [0 if worker.queued else worker.free_slots for worker in workers]
    found: defaultdict[Worker, list[tuple[Ticket, Worker]]] = defaultdict(list)
    for i, j in find_recalls(problem, home, [ticket.job.sequences for ticket in tickets], free):
        found[workers[home[i]]].append((tickets[i], workers[j]))
    return {
        worker: (_to_name(pairs, queues[worker]), len(pairs)) for worker, pairs in found.items()
    }


def movable_from(worker: Worker, others: Sequence[Worker]) -> list[Ticket]:
    """Of what a worker that leaves may not have begun, all that another may serve."""
    return [
        one
        for one in _maybe_unstarted(worker)
        if any(one.is_eligible_for(other) for other in others)
    ]


# Rank, serial number, ticket.
_QueueEntry = tuple[float, int, Ticket]


def _queue_at(worker: Worker) -> list[_QueueEntry]:
    """Who may not have begun there, in the order in which it takes them."""
    rank = longest_first(worker.round_s)
    mine = [one for one in _maybe_unstarted(worker) if one.recalled < MOST_RECALLS]
    return sorted((rank(ticket), k, ticket) for k, ticket in enumerate(mine))


def _maybe_unstarted(worker: Worker) -> list[Ticket]:
    """Who may not have begun there, and has not been asked for yet."""
    unstarted = [ticket for ticket in worker.load.not_begun() if isinstance(ticket, Ticket)]
    return [ticket for ticket in unstarted if not ticket.recall_pending]


def _to_name(pairs: Sequence[tuple[Ticket, Worker]], queue: Sequence[_QueueEntry]) -> list[Ticket]:
    """Those to be moved, then others that could go in their places, should they have begun."""
    targets = {target for _, target in pairs}
    others = (entry[2] for entry in reversed(queue[-MOST_AT_ONCE:]))
    rest = [one for one in others if all(one.is_eligible_for(target) for target in targets)]
    return list(dict.fromkeys([*(ticket for ticket, _ in pairs), *rest]))


def _eligible_workers(ticket: Ticket, workers: Sequence[Worker], home: int) -> frozenset[int]:
    return frozenset(j for j, w in enumerate(workers) if j == home or ticket.is_eligible_for(w))
