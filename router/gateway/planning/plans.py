"""Counts plans, and remembers the latest of them for whoever asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter

from router.gateway.explanations.plan_record import PlanRecord, Seen
from router.gateway.fleet.worker import Worker
from router.gateway.planning.planner import Planned
from router.gateway.planning.ticket import Ticket
from router.observe.metrics import GatewayMetrics
from solver.packing.bounds import packing_bound
from solver.packing.plan import Method, Plan, evaluate
from solver.routing.assign import Assignment
from solver.routing.problem import build_problem
from solver.routing.rolling import Selection
from solver.routing.window import Window

TicketSelection = Selection[Ticket, Worker]


class Plans:
    """See the module.

    Attributes:
        latest: the latest one.
        of_one: it was of one request.
    """

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._number = 0
        self._window: Window[Ticket] | None = None
        self.latest: PlanRecord | None = None
        self.of_one = False
        for gauge, figure in (
            (metrics.plan_cost, "plan.total_s"),
            (metrics.plan_cost_bound, "plan.bound_s"),
            (metrics.plan_makespan, "batch.makespan_s"),
            (metrics.plan_lower_bound, "batch.lower_bound_s"),
            (metrics.plan_gap, "batch.gap_ratio"),
        ):
            gauge.set_function(partial(self._of_latest, figure))

    def record(self, selection: TicketSelection, planned: Planned, took_s: float) -> PlanRecord:
        """One more, which took so long to make."""
        self._number += 1
        self.of_one = len(selection.requests) == 1
        window = selection.window
        assert window is not None  # whoever is planned was in one
        wait_s = max(0.0, window.closed_s - window.opened_s)
        seen = Seen(
            number=self._number,
            method=planned.method,
            planned_s=time.time(),
            names=tuple([worker.name for worker in selection.workers]),
            workers=planned.assignment.workers,
            asked=selection.asked,
        )
        self.latest = PlanRecord(
            reason=window.reason,
            wait_s=wait_s,
            took_s=took_s,
            requests=tuple([ticket.request_id for ticket in selection.requests]),
            plan=planned.assignment,
            gained_s=planned.gained_s,
            seen=seen,
            as_batch=_batch_maker(selection, planned.assignment),
        )
        if window is not self._window:
            self._window = window
            self._metrics.window_wait.observe(wait_s)
        self._metrics.window_requests.observe(len(selection.requests))
        self._metrics.plan_duration.labels(planned.method).observe(took_s)
        if planned.gained_s:
            self._metrics.plan_gained.inc(planned.gained_s)
        return self.latest

    def _of_latest(self, figure: str) -> float:
        """For whoever scrapes: plans are many, looks at them few."""
        return 0.0 if self.latest is None else float(attrgetter(figure)(self.latest))


def _batch_maker(selection: TicketSelection, plan: Assignment) -> Callable[[], Plan]:
    """Makes the same plan as a batch: when all of it is done, and the bound that certifies it."""
    jobs, now = [ticket.job for ticket in selection.requests], time.monotonic()
    views, asked = selection.views, selection.asked

    def batch() -> Plan:
        problem = build_problem(jobs, views, asked.eligible, asked.cached, now)
        return evaluate(problem, plan.workers, packing_bound(problem), Method.HEURISTIC)

    return batch
