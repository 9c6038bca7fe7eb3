"""Ours: windows, a joint plan, late binding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from solver.arrays import FloatArray
from solver.packing.pipeline import first_plan_or_queue
from solver.routing.dispatchers.base import Arrival, Placement, Target, Targets
from solver.routing.rolling import RollingHorizon


class Makespan:
    """Ours: windows, a joint plan, late binding; see `solver.routing.rolling`."""

    def __init__(self, order: str = "longest") -> None:
        self._rolling: RollingHorizon[Arrival, Target] = RollingHorizon(order, cached=_cached)

    def arrive(self, arrival: Arrival, now: float) -> None:
        """It joins the open window."""
        self._rolling.add(arrival, now)

    def next_deadline(self) -> float | None:
        """When the open window closes by itself."""
        return self._rolling.next_deadline()

    def poll(self, now: float, workers: Targets) -> Iterator[Placement]:
        """Plan, send as far as there is room, and again as long as that sends anything."""
        index = {id(worker): j for j, worker in enumerate(workers)}
        sent = True
        while sent and (selection := self._rolling.select(now, workers)) is not None:
            sent = False
            plan = first_plan_or_queue(selection.problem)[1]
            for arrival, worker in self._rolling.bind(selection, plan.assignment):
                sent = True
                yield arrival, index[id(worker)]


def _cached(arrivals: Sequence[Arrival], workers: Targets) -> FloatArray | None:
    if not any(arrival.hash_ids for arrival in arrivals):
        return None
    return np.array([[w.cached_tokens(arrival) for w in workers] for arrival in arrivals])
