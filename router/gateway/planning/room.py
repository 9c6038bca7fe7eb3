"""Whether there is room for one more request, and when to come back if not.

Bounded is what is in the gateway, by requests and by bytes of their bodies, and what waits in it,
by tokens, each tenant's portion of these (`solver.routing.portions`); and by `solver.routing.gate`,
so that whoever waits is in time. Here are the clock, and the fleet: each part of it that serves the
same models has a gate for each tenant, and is looked at again every `LOOK_S`, so that it costs a
request nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import inf

from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.ticket import Ticket
from router.gateway.planning.unsent import Unsent
from router.http.errors import NoCapacityError
from router.settings.gateway import GatewayTuning
from solver.routing.fair import MOST, OTHERS
from solver.routing.gate import NO_FLEET, Fleet, Gate, Pace, surely_has_place
from solver.routing.portions import Portions
from solver.routing.speed import FleetSpeed

LOOK_S = 0.1


@dataclass(slots=True)
class _Part:
    """Workers that models have in common, those models, and the gates before them, by tenant."""

    models: frozenset[str]
    workers: list[Worker]
    gates: dict[str, Gate[Ticket]] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    fleet: Fleet = NO_FLEET

    def look(self, now: float) -> None:
        # What is paced there lets pass whoever comes.
        loads = [(one.load.sequences - one.load.paced_sequences, one.slots) for one in self.workers]
        self.fleet = Fleet(
            FleetSpeed.of((worker.cost, worker.slots) for worker in self.workers),
            sum(max(0, held - slots) for held, slots in loads),
            all(held >= slots for held, slots in loads),
        )
        for name in [one for one, gate in self.gates.items() if one and not gate.is_used(now)]:
            del self.gates[name]
        for gate in self.gates.values():
            gate.look(self.fleet, now)

    def gate(self, tenant: str, now: float) -> Gate[Ticket]:
        """A tenant's; those beyond `MOST` at once have one together."""
        found = self.gates.get(tenant)
        if found is None and len(self.gates) >= MOST:
            tenant = OTHERS
            found = self.gates.get(tenant)
        if found is None:
            found = self.gates[tenant] = Gate(self.pace, self.gates.values)
            found.look(self.fleet, now)
        return found


class Room:
    """Follows what waits; see the module."""

    def __init__(self, tuning: GatewayTuning, workers: Workers, unsent: Unsent) -> None:
        self._tuning, self._workers, self._unsent = tuning, workers, unsent
        self._gates: dict[Ticket, Gate[Ticket]] = {}
        # Of who was checked last: what has been found out of it.
        self._checked: tuple[Ticket, Gate[Ticket], float] | None = None
        self._parts: list[_Part] = []
        self._served: tuple[object, ...] = ()
        self._nobody = _Part(frozenset(), [])
        self._looked_s = -inf

    def check_requests(self, here: Portions, tenant: str) -> None:
        """Whether one more of a tenant's may come to the requests that are here.

        Raises:
            NoCapacityError: if it may not, and when it should come again.
        """
        most = self._tuning.max_requests
        own = not here.may_have(tenant, 1, most)
        if not own and surely_has_place(here.total, most):
            return
        now = time.monotonic()
        gate = self._gate(None, tenant, now)
        if own or not gate.has_place(here.total, most, now):
            gate.came(gate.sequence_s, now)
            again_s = gate.again_s(0.0, gate.sequence_s, now)
            raise _refusal("has too many requests", again_s, own=own)

    def bodies_full(self, tenant: str) -> NoCapacityError:
        """The refusal of one for whose body there is no memory."""
        now = time.monotonic()
        gate = self._gate(None, tenant, now)
        return _refusal("holds too large bodies", gate.again_s(0.0, gate.sequence_s, now))

    def check(self, ticket: Ticket) -> None:
        """Whether a request may wait.

        Raises:
            NoCapacityError: if it may not, and when it should come again.
        """
        now, job, priority = time.monotonic(), ticket.job, ticket.priority
        gate, work_s = self._line_of(ticket, now)
        self._checked = ticket, gate, work_s
        waiting, most = self._unsent.tokens, self._tuning.max_unsent_tokens
        if waiting.total:
            more = job.reserved_tokens
            own = not waiting.may_have(job.tenant, int(more), most)
            if own or not gate.has_place(waiting.total + more, most, now):
                gate.came(work_s, now)
                again_s = gate.again_s(0.0, work_s, now)
                raise _refusal("has too many tokens waiting", again_s, own=own)
        target_s = inf if self._tuning.admission == "queue" else job.targets.ttft_s
        if not gate.joins(priority, work_s, target_s, now):
            again_s = gate.again_s(gate.wait_s(priority), work_s, now, target_s)
            raise _refusal("has more requests waiting than can begin in time", again_s)

    def add(self, ticket: Ticket) -> None:
        """It waits."""
        gate, work_s = self._found(ticket)
        self._gates[ticket] = gate
        gate.add(ticket, ticket.priority, work_s, ticket.job.sequences)

    def passed(self, ticket: Ticket) -> None:
        """It has begun without having waited."""
        gate, work_s = self._found(ticket)
        gate.passed(work_s, ticket.job.sequences)

    def remove(self, ticket: Ticket, *, began: bool) -> None:
        """It waits no longer; `began`: as a worker has room for it."""
        self._gates.pop(ticket).remove(ticket, began=began)

    def retry_after_s(self, ticket: Ticket, least_s: float = 0.0) -> int:
        """Whole seconds, not before `least_s`, after which one that is refused finds a place."""
        now = time.monotonic()
        gate, work_s = self._line_of(ticket, now)
        return gate.again_s(max(least_s, gate.wait_s(ticket.priority)), work_s, now)

    def _found(self, ticket: Ticket) -> tuple[Gate[Ticket], float]:
        """As `_line_of`; who has just been checked is known."""
        checked, self._checked = self._checked, None
        if checked is not None and checked[0] is ticket:
            return checked[1:]
        return self._line_of(ticket, time.monotonic())

    def _line_of(self, ticket: Ticket, now: float) -> tuple[Gate[Ticket], float]:
        """The gate that a request comes to, and its work there."""
        job = ticket.job
        gate = self._gate(ticket.model, job.tenant, now)
        return gate, gate.work_s(job.sequences, job.prompt_tokens, job.expected_tokens)

    def _gate(self, model: str | None, tenant: str, now: float) -> Gate[Ticket]:
        """A tenant's before a model, or any; as of a moment ago."""
        if now - self._looked_s > LOOK_S:
            self._looked_s = now
            self._look(now)
        for part in self._parts:
            if model is None or model in part.models:
                return part.gate(tenant, now)
        return self._nobody.gate("", now)

    def _look(self, now: float) -> None:
        workers = self._workers.available()
        served = tuple((worker, worker.served) for worker in workers)
        if served != self._served:
            self._served = served
            before = {part.models: part for part in self._parts}
            self._parts = []
            for models, having in _parts(workers):
                part = before.get(models) or _Part(models, having)
                part.workers = having
                self._parts.append(part)
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


def _refusal(why: str, again_s: int, *, own: bool = False) -> NoCapacityError:
    """`own`: it would have room for other tenants."""
    whose = ", as many as one tenant may have" if own else ""
    return NoCapacityError(f"This gateway {why}{whose}; please try again.", again_s)
