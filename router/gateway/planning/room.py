"""Whether there is room for one more request, and when to come back if not.

Bounded is what is in the gateway, by requests, and what waits in it, by tokens; and by
`solver.routing.gate`, so that whoever waits is in time. Here are the clock, and the fleet: each
part of it that serves the same models has a gate, and is looked at again every `LOOK_S`, so that it
costs a request nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf

from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.ticket import Ticket
from router.gateway.planning.unsent import Unsent
from router.http.errors import NoCapacityError
from router.settings.gateway import GatewayTuning
from solver.routing.gate import Fleet, Gate
from solver.routing.speed import FleetSpeed

LOOK_S = 0.1


@dataclass(slots=True)
class _Part:
    """Workers that models have in common, those models, and the gate before them."""

    models: frozenset[str]
    workers: list[Worker]
    gate: Gate[Ticket]

    def look(self, now: float) -> None:
        loads = [(worker.load.sequences, worker.slots) for worker in self.workers]
        fleet = Fleet(
            FleetSpeed.of((worker.cost, worker.slots) for worker in self.workers),
            sum(max(0, held - slots) for held, slots in loads),
            all(held >= slots for held, slots in loads),
        )
        self.gate.look(fleet, now)


class Room:
    """Follows what waits; see the module."""

    def __init__(self, tuning: GatewayTuning, workers: Workers, unsent: Unsent) -> None:
        self._tuning, self._workers, self._unsent = tuning, workers, unsent
        self._gates: dict[Ticket, Gate[Ticket]] = {}
        self._parts: list[_Part] = []
        self._served: tuple[object, ...] = ()
        self._nobody: Gate[Ticket] = Gate()  # before no worker
        self._looked_s = -inf

    def check_requests(self, running: int) -> None:
        """Whether one more may come to so many requests.

        Raises:
            NoCapacityError: if it may not, and when it should come again.
        """
        most, now = self._tuning.max_requests, time.monotonic()
        gate = self._gate(None, now)
        if not gate.has_place(running, most, now):
            gate.came(gate.sequence_s, now)
            raise _refusal("has too many requests", gate.again_s(0.0, gate.sequence_s, now))

    def bodies_full(self) -> NoCapacityError:
        """The refusal of one for whose body there is no memory."""
        now = time.monotonic()
        gate = self._gate(None, now)
        return _refusal("holds too large bodies", gate.again_s(0.0, gate.sequence_s, now))

    def check(self, ticket: Ticket) -> None:
        """Whether a request may wait.

        Raises:
            NoCapacityError: if it may not, and when it should come again.
        """
        now, job, priority = time.monotonic(), ticket.job, ticket.priority
        gate = self._gate(ticket.model, now)
        work_s = gate.work_s(job.sequences, job.prompt_tokens, job.expected_tokens)
        tokens, most = self._unsent.tokens, self._tuning.max_unsent_tokens
        if tokens and not gate.has_place(tokens + job.kv_tokens, most, now):
            gate.came(work_s, now)
            raise _refusal("has too many tokens waiting", gate.again_s(0.0, work_s, now))
        target_s = inf if self._tuning.admission == "queue" else job.targets.ttft_s
        if not gate.joins(priority, work_s, target_s, now):
            again_s = gate.again_s(gate.wait_s(priority), work_s, now, target_s)
            raise _refusal("has more requests waiting than can begin in time", again_s)

    def add(self, ticket: Ticket) -> None:
        """It waits."""
        job = ticket.job
        gate = self._gates[ticket] = self._gate(ticket.model, time.monotonic())
        work_s = gate.work_s(job.sequences, job.prompt_tokens, job.expected_tokens)
        gate.add(ticket, ticket.priority, work_s, job.sequences)

    def remove(self, ticket: Ticket, *, began: bool) -> None:
        """It waits no longer; `began`: as a worker has room for it."""
        self._gates.pop(ticket).remove(ticket, began=began)

    def retry_after_s(self, ticket: Ticket, least_s: float = 0.0) -> int:
        """Whole seconds, not before `least_s`, after which one that is refused finds a place."""
        now, job = time.monotonic(), ticket.job
        gate = self._gate(ticket.model, now)
        work_s = gate.work_s(job.sequences, job.prompt_tokens, job.expected_tokens)
        return gate.again_s(max(least_s, gate.wait_s(ticket.priority)), work_s, now)

    def _gate(self, model: str | None, now: float) -> Gate[Ticket]:
        """That of a model, or of any; as of a moment ago."""
        if now - self._looked_s > LOOK_S:
            self._looked_s = now
            self._look(now)
        for part in self._parts:
            if model is None or model in part.models:
                return part.gate
        return self._nobody

    def _look(self, now: float) -> None:
        workers = self._workers.available()
        served = tuple((worker, worker.served) for worker in workers)
        if served != self._served:
            self._served = served
            before = {part.models: part.gate for part in self._parts}
            self._parts = [
                _Part(models, having, before.get(models) or Gate())
                for models, having in _parts(workers)
            ]
        for part in self._parts:
            part.look(now)


def _parts(workers: list[Worker]) -> list[tuple[frozenset[str], list[Worker]]]:
    """Workers put together that share a model, directly or by others."""
    parts: list[tuple[frozenset[str], list[Worker]]] = []
    for worker in workers:
        models, having = frozenset(worker.models), [worker]
        apart = []
        for part in parts:
            if part[0].isdisjoint(models):
                apart.append(part)
            else:
                models, having = models | part[0], part[1] + having
        parts = [*apart, (models, having)]
    return parts


def _refusal(why: str, again_s: int) -> NoCapacityError:
    return NoCapacityError(f"This gateway {why}; please try again.", again_s)
