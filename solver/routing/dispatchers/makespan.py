"""A joint plan of all that is unsent, bound late: the default.

Decides: gathers requests into windows, plans what is unsent by what it costs all together (its own
time, what it takes from others, lateness, and what would outlast the rest), and sends only what a
worker can start soon; the rest stays and is planned again.

Inputs: each request's prompt tokens and predicted output length, targets, priority, due time,
prefix blocks and tenant; each worker's cost model, slots, what runs and queues there, free memory
and cached prefixes.

Parameters:
- `solver.routing.objective.FIRST_TOKEN`, `solver.routing.objective.MAKESPAN`: 2 and 0.5, what a
  second before the first token counts for besides, and one by which the fleet is outlasted.
- `solver.routing.formulas.TWICE`: 1, how often the prefill of what another worker has of a prompt
  is counted besides, as it pushes out as much that will be asked for again.
- `solver.routing.order.SHORT_FIRST`, `solver.routing.order.LONG_FIRST`: half a second for each
  second of work, and one the other way for bulk work: the order of what waits.
- `solver.routing.order.TOO_LONG`, `solver.routing.order.HALF`, `solver.routing.order.LATE_S`: once
  somebody has waited for twice its target for a first token, who has waited for half of it stands
  behind those of the next 10 s.
- `solver.routing.rolling.WINDOW`: 64 requests are planned together at most.
- `solver.routing.rolling.WINDOW_WAIT_S`, `solver.routing.rolling.WINDOW_SIZE`: 0.02 s and 512
  requests, at which a window closes: little beside the wait for a slot under load, and at low load
  a window closes at once anyway.
- `solver.routing.rolling.LEAD`: 1/8 of a worker's slots are sent ahead, so that none falls idle.
- `solver.routing.formulas.DOUBT`: 0.1, by how much a worker with room must be dearer before anybody
  waits for another.
- `solver.routing.fair.HALF_LIFE_S`: 60 s, after which engine time that a tenant has had counts
  half, where several wait and take turns by what they have had for their weights.
- `solver.routing.warm.WARM_S`: 120 s, by which who finds all of its prompt in a cache goes before
  others of its tenant's line.

Trade-off: the best or nearly the best in what users feel on all traffic measured, most of all on
workers of unequal speed: see the judge (`makespan bench judge`). It needs cost models and
predictions, which the gateway learns, and costs more of a core than counting requests does.

When not to use it: where all workers are equal and lightly loaded, any rule does as well. With one
worker there is nothing to decide.

Source: ours, for the packing of arXiv:2502.15763 (there the slots of one engine, here workers);
see `solver.routing.objective`, `solver.routing.assign` and `solver.routing.rolling`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from solver.arrays import FloatArray
from solver.routing.assign import plan_in_turn
from solver.routing.dispatchers.base import Arrival, Ended, Placement, Target, Workers
from solver.routing.fair import Weight, alike
from solver.routing.rolling import RollingHorizon


class Makespan:
    """Ours: windows, a joint plan, late binding; see `solver.routing.rolling`."""

    def __init__(self, weight: Weight = alike) -> None:
        self._rolling: RollingHorizon[Arrival, Target] = RollingHorizon(
            cached=_cached, made=lambda arrival, worker: worker.made(arrival), weight=weight
        )
        self._sent: dict[int, Arrival] = {}

    def arrive(self, arrival: Arrival, now: float) -> None:
        """It joins the open window."""
        self._rolling.add(arrival, now)

    def next_deadline(self) -> float | None:
        """When the open window closes by itself."""
        return self._rolling.next_deadline()

    def poll(self, now: float, workers: Workers) -> Iterator[Placement]:
        """Plan and send as far as there is room, and again as long as that leads to anything."""
        index = {id(worker): j for j, worker in enumerate(workers)}
        rolling = self._rolling
        before = rolling.unplanned
        while (selection := rolling.select(now, workers)) is not None:
            if not (selection.asked.few or selection.single_worker or selection.asked.open):
                return
            plan, sent = plan_in_turn(selection.asked), 0
            for i, worker in rolling.bind(selection, plan, now):
                arrival, sent = selection.requests[i], sent + 1
                arrival.ahead_s = selection.ahead_s
                if rolling.shares.several:
                    self._sent[arrival.number] = arrival
                yield arrival, index[id(worker)]
            if not rolling.go_on(plan, sent, before):
                return
            before = rolling.unplanned

    def ended(self, ended: Ended, now: float) -> None:
        """What it has taken counts for its tenant's share."""
        arrival = self._sent.pop(ended.number, None)
        if arrival is not None:
            prompt, output = ended.uncached_tokens, ended.output_tokens
            self._rolling.shares.settle(arrival, prompt, output, now)


def _cached(arrivals: Sequence[Arrival], workers: Workers) -> FloatArray | None:
    if not any(arrival.hash_ids for arrival in arrivals):
        return None
    return np.array([[w.cached_tokens(arrival) for w in workers] for arrival in arrivals])
