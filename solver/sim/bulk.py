"""Bulk work in the simulator: a backlog beside a dispatcher, as a gateway has both.

Requests of priority bulk that come here wait in the backlog and go to the workers that it says, as
these have room; all others go where the dispatcher sends them. A batch is what one tenant sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from solver.batching.kv import BLOCK_TOKENS
from solver.batching.priority import Priority
from solver.cost.estimators import size_of, tokens_of
from solver.lengths.distribution import bin_of
from solver.routing.backlog import Backlog
from solver.routing.dispatchers.base import Arrival, Dispatcher, Ended, Placement, Workers
from solver.routing.kinds import Kind, Length
from solver.routing.problem import WorkerView


@dataclass(frozen=True, slots=True, eq=False)
class BulkLine:
    """A request that waits."""

    arrival: Arrival
    kind: Kind


class WithBacklog:
    """A dispatcher for online work and a backlog for bulk work.

    Attributes:
        backlog: what waits.
        first: the outlook of the first plan: when it was made, its finish and its bound.
    """

    def __init__(self, online: Dispatcher) -> None:
        self._online = online
        self.backlog: Backlog[BulkLine] = Backlog()
        self.first: tuple[float, float, float] | None = None
        self._new: list[Arrival] = []
        self._like: dict[Kind, Arrival] = {}  # one that waits, of each kind
        self._bulk: dict[int, BulkLine] = {}  # under way
        self._learned = 0

    def arrive(self, arrival: Arrival, now: float) -> None:
        """It waits, or it is placed by the dispatcher."""
        if arrival.priority is Priority.BULK:
            arrival.held_back = True
            self._new.append(arrival)
        else:
            self._online.arrive(arrival, now)

    def poll(self, now: float, workers: Workers) -> Iterator[Placement]:
        """Online work first; then whoever has room gets what is planned for it."""
        yield from self._online.poll(now, workers)
        self._take_in()
        if not len(self.backlog) or not any(_room(w.view(now)) > 0 for w in workers):
            return
        if self.backlog.due(self._learned, len(workers), now):
            self._plan(now, [worker.view(now) for worker in workers])
        views = [worker.view(now) for worker in workers]
        for j, line in self.backlog.take([_room(view) for view in views], views, now):
            self._bulk[line.arrival.number] = line
            yield line.arrival, j

    def next_deadline(self) -> float | None:
        """When to poll again even if nothing happens."""
        return self._online.next_deadline()

    def ended(self, ended: Ended, now: float) -> None:
        """A request has been answered."""
        self._learned += 1
        line = self._bulk.pop(ended.number, None)
        if line is None:
            self._online.ended(ended, now)
        else:
            self.backlog.ended(line, ended.uncached_tokens, ended.output_tokens, now)

    def _take_in(self) -> None:
        if not self._new:
            return
        firsts = Counter(one.hash_ids[0] for one in self._new if one.hash_ids)
        lines = [BulkLine(one, _kind(one, firsts)) for one in self._new]
        for line in lines:
            self._like.setdefault(line.kind, line.arrival)
        self.backlog.add(lines)
        self._new.clear()

    def _plan(self, now: float, views: Sequence[WorkerView]) -> None:
        self.backlog.plan(views, self._expected, now, self._learned)
        found = self.backlog.outlook(now)
        if self.first is None and found is not None:
            self.first = now, found.finish_s, found.bound_s

    def _expected(self, kind: Kind) -> Length:
        like = self._like[kind]
        like.predict_again()
        return Length(like.expected_tokens, 0.0 if like.lengths is None else like.lengths.overrun)


def _room(view: WorkerView) -> int:
    """Lines that a worker can begin; what is sent before that is bound too early."""
    return min(view.room, view.slots - view.in_flight)


def _kind(arrival: Arrival, firsts: Counter[int]) -> Kind:
    shared = arrival.hash_ids[:1] if arrival.hash_ids and firsts[arrival.hash_ids[0]] > 1 else ()
    size = size_of(arrival.prompt_tokens)
    return Kind(
        batch=f"{arrival.tenant} {arrival.due_s}",
        tenant=arrival.tenant,
        prompt_tokens=tokens_of(size),
        due_s=arrival.due_s,
        prefix=shared[0] if shared else None,
        shared_tokens=min(BLOCK_TOKENS, arrival.prompt_tokens - 1) if shared else 0,
        label=(size, bin_of(round(arrival.expected_tokens))),
    )
