"""From arrivals to assignments: gather a window, plan it, hand out the workers.

One task runs it all, so that windows are planned one after the other, each on top of what the one
before has sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field

from router.errors import NoCapacityError
from router.gateway.planner import Planner
from router.gateway.records import PlanRecord
from router.gateway.workers import Worker, Workers
from router.metrics import GatewayMetrics
from router.settings import GatewayTuning
from solver.problem import Job, build
from solver.types import Plan, Problem
from solver.window import Window, WindowPolicy

log = logging.getLogger(__name__)

# Windows beyond this are prepared, planned and handed out in turns of the event loop of their own,
# a few milliseconds each.
LARGE = 64


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request goes: its worker, the plan that says so, and its place in that plan."""

    worker: Worker
    plan: PlanRecord
    index: int


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that wants a worker; itself the key of its load, as a client's id may come twice.

    Attributes:
        job: its size, as the planner sees it.
        least_tokens: prompt and output tokens that its longest choice has room for, at least.
        streamed: its tokens can be counted as they come.
        excluded: workers that have failed it.
    """

    request_id: str
    model: str
    job: Job
    least_tokens: int
    streamed: bool
    excluded: set[Worker] = field(default_factory=set)
    placed: asyncio.Future[Placement] = field(init=False)


class Dispatcher:
    """Places tickets; see the module's first lines."""

    def __init__(
        self, tuning: GatewayTuning, workers: Workers, planner: Planner, metrics: GatewayMetrics
    ) -> None:
        self._workers, self._planner, self._metrics = workers, planner, metrics
        self._windows: WindowPolicy[Ticket] = WindowPolicy(
            tuning.window_max_wait_s, tuning.window_max_size
        )
        self._wake = asyncio.Event()
        self._number = 0
        self.latest: PlanRecord | None = None
        workers.changed = self._reconsider

    async def place(self, ticket: Ticket) -> Placement:
        """Wait for the ticket's window to be planned; the request then counts at its worker.

        Raises:
            NoCapacityError: if no worker that is up may serve it.
        """
        ticket.placed = asyncio.get_running_loop().create_future()
        self._windows.add(ticket, time.monotonic())
        self._wake.set()
        try:
            return await ticket.placed
        except asyncio.CancelledError:
            self._windows.discard(ticket)
            if ticket.placed.done() and not ticket.placed.cancelled():
                with suppress(NoCapacityError):
                    self.release(ticket, ticket.placed.result().worker)
            raise

    def release(self, ticket: Ticket, worker: Worker) -> None:
        """The request has left its worker, however it ended."""
        worker.load.remove(ticket)
        self._wake.set()

    def _reconsider(self) -> None:
        """Some worker has come, gone or reported: a window may be able to close."""
        if len(self._windows):
            self._wake.set()

    def has_other(self, ticket: Ticket, worker: Worker) -> bool:
        """Whether some worker other than `worker` may serve the request now."""
        return any(w is not worker and _may(w, ticket) for w in self._workers.available())

    def retry_after_s(self) -> float:
        """When the least loaded worker will have finished what it has."""
        now = time.monotonic()
        return min((w.backlog_s(0, now) for w in self._workers.available()), default=1.0)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._change_or_deadline()
            while (window := self._poll()) is not None:
                await self._handle(window)

    async def _change_or_deadline(self) -> None:
        deadline = self._windows.next_deadline()
        alarm = None
        if deadline is not None:
            wait_s = max(0.0, deadline - time.monotonic())
            alarm = asyncio.get_running_loop().call_later(wait_s, self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        if alarm is not None:
            alarm.cancel()

    def _poll(self) -> Window[Ticket] | None:
        free = any(worker.free_slots for worker in self._workers.available())
        return self._windows.poll(time.monotonic(), worker_free=free)

    async def _handle(self, window: Window[Ticket]) -> None:
        tickets = [ticket for ticket in window.items if not ticket.placed.done()]
        try:
            await self._place_all(tickets, window)
        except Exception as error:
            log.exception("a window could not be planned")
            for ticket in tickets:
                if not ticket.placed.done():
                    ticket.placed.set_exception(error)

    async def _place_all(self, tickets: list[Ticket], window: Window[Ticket]) -> None:
        workers = self._workers.available()
        tickets, eligible = self._servable(tickets, workers)
        if not tickets:
            return
        start = time.monotonic()
        jobs = [ticket.job for ticket in tickets]
        problem = build(jobs, [worker.view(start) for worker in workers], eligible)
        if len(jobs) > LARGE:
            await asyncio.sleep(0)
        problem, plan = await self._planner.plan(problem)
        if len(jobs) > LARGE:
            await asyncio.sleep(0)
        took = time.monotonic() - start
        record = self._record(window, tickets, workers, problem, plan, took)
        self._commit(record, tickets, workers)

    def _servable(
        self, tickets: list[Ticket], workers: list[Worker]
    ) -> tuple[list[Ticket], list[frozenset[int]]]:
        """The tickets that somebody may serve, and who may; the others are refused."""
        kept: list[Ticket] = []
        eligible: list[frozenset[int]] = []
        for ticket, able in zip(tickets, _able(tickets, workers), strict=True):
            if able:
                kept.append(ticket)
                eligible.append(able)
            else:
                message = f"No worker that serves '{ticket.model}' is up."
                ticket.placed.set_exception(NoCapacityError(message, self.retry_after_s()))
        return kept, eligible

    def _commit(self, record: PlanRecord, tickets: list[Ticket], workers: list[Worker]) -> None:
        """Hand the plan out: all of it.

        This is where late binding goes: to hand out only what a worker can start soon, and to put
        the rest back, to be planned again with the next window.
        """
        now = time.monotonic()
        for i, (ticket, j) in enumerate(zip(tickets, record.plan.assignment, strict=True)):
            if ticket.placed.done():
                continue  # its client left while it was planned
            worker = workers[j]
            worker.load.add(ticket, ticket.job, now, streamed=ticket.streamed)
            ticket.placed.set_result(Placement(worker, record, i))

    def _record(
        self,
        window: Window[Ticket],
        tickets: list[Ticket],
        workers: list[Worker],
        problem: Problem,
        plan: Plan,
        took_s: float,
    ) -> PlanRecord:
        self._number += 1
        wait_s = max(0.0, window.closed_s - window.opened_s)
        self.latest = PlanRecord(
            number=self._number,
            planned_s=time.time(),
            reason=window.reason,
            wait_s=wait_s,
            took_s=took_s,
            requests=tuple(ticket.request_id for ticket in tickets),
            workers=tuple(worker.name for worker in workers),
            problem=problem,
            plan=plan,
        )
        self._metrics.window_requests.observe(len(tickets))
        self._metrics.window_wait.observe(wait_s)
        self._metrics.plan_duration.labels(plan.method.value).observe(took_s)
        self._metrics.plan_makespan.set(plan.makespan_s)
        self._metrics.plan_lower_bound.set(plan.lower_bound_s)
        self._metrics.plan_gap.set(plan.gap_ratio)
        return self.latest


def _able(tickets: list[Ticket], workers: list[Worker]) -> list[frozenset[int]]:
    """For each ticket, the indices of the workers that may serve it.

    Most tickets are alike: they have failed nowhere, and are short enough for every worker.
    """
    shortest = min((length for w in workers for length in w.max_model_lens()), default=0)
    alike: dict[str, frozenset[int]] = {}
    found: list[frozenset[int]] = []
    for ticket in tickets:
        usual = not ticket.excluded and ticket.least_tokens <= shortest
        able = alike.get(ticket.model) if usual else None
        if able is None:
            able = frozenset(j for j, worker in enumerate(workers) if _may(worker, ticket))
        if usual:
            alike[ticket.model] = able
        found.append(able)
    return found


def _may(worker: Worker, ticket: Ticket) -> bool:
    """Whether `worker` may serve the request at all."""
    if ticket.model not in worker.models or worker in ticket.excluded:
        return False
    most = worker.max_model_len(ticket.model)
    return most is None or ticket.least_tokens <= most
