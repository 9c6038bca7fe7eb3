"""From arrivals to assignments: what is unsent is planned again and again, and sent late.

One task runs it all, so that plans are made one after the other, each on top of what the one
before has sent; only who comes alone, as the one before did, is planned at once and does not wait
for that task. What to plan, and who is sent, is `solver.routing.rolling`'s, as in the simulator;
here are the clock, the clients who leave and the deadlines that pass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import Context
from math import inf
from statistics import fmean

import numpy as np

from router.gateway.explanations.plan_record import PlanRecord
from router.gateway.fleet.adapters import with_loading
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.eligible import Eligible
from router.gateway.planning.isolation import (
    UnplannableError,
    broken_tickets,
    broken_workers,
    check_size,
    each_alone,
)
from router.gateway.planning.planner import Planned, Planner
from router.gateway.planning.plans import Plans
from router.gateway.planning.room import Room
from router.gateway.planning.stranded import Stranded
from router.gateway.planning.ticket import Placement, Ticket, Waiter
from router.gateway.planning.unsent import Unsent
from router.http.errors import (
    ExpiredError,
    ModelNotFoundError,
    NoCapacityError,
    RouterError,
)
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewayTuning
from solver.arrays import FloatArray
from solver.routing.charges import Size
from solver.routing.fair import FairShares, Weight, alike
from solver.routing.rolling import RollingHorizon, Selection
from solver.routing.sums import Backlog

log = logging.getLogger(__name__)

# Requests that begin to be forwarded in one turn of the loop.
SENDS_A_TURN = 16
# So often one that comes alone is planned, while others tell of more.
MOST_ANEW = 3
TicketSelection = Selection[Ticket, Worker]
# Uncached prompt tokens, and output tokens.
Spent = tuple[float, float]
NOTHING: Spent = 0.0, 0.0


class Dispatcher:
    """Places tickets; see the module's first lines.

    Attributes:
        room: whether there is room for more.
        after_dispatch: called whenever something has changed and all who could go have been sent.
    """

    def __init__(
        self,
        tuning: GatewayTuning,
        workers: Workers,
        planner: Planner,
        metrics: GatewayMetrics,
        weight: Weight = alike,
    ) -> None:
        self._workers, self._planner, self._metrics = workers, planner, metrics
        self._plans, self._eligible = Plans(metrics), Eligible()
        self._rolling: RollingHorizon[Ticket, Worker] = RollingHorizon(
            max_wait_s=tuning.window_max_wait_s,
            max_size=tuning.window_max_size,
            hold_back=True,
            eligible=self._eligible.among,
            cached=self._saved,
            made=lambda ticket, worker: worker.load.seen(ticket),
            weight=weight,
        )
        self._unsent = Unsent(weight)
        self.room = Room(tuning, workers, self._unsent)
        self._stranded = Stranded(
            tuning.wait_for_worker_s, tuning.wait_for_worker_requests, self._give_up
        )
        self._wake = asyncio.Event()
        # Whether one has been planned alone in this turn of the loop, and whether the task plans.
        self._rushed = self._busy = False
        self._before = 0  # requests that no plan had been made for, before the last selection
        self.after_dispatch: Callable[[], None] = lambda: None
        workers.on_change = self.reconsider

    @property
    def latest(self) -> PlanRecord | None:
        """The latest plan."""
        return self._plans.latest

    @property
    def unsent(self) -> int:
        """Requests that wait to be placed."""
        return self._unsent.requests

    @property
    def has_tenants(self) -> bool:
        """Whether requests have named any."""
        return self._rolling.shares.named

    @property
    def backlog(self) -> Backlog:
        """What waits to be placed."""
        return self._unsent.backlog

    @property
    def shares(self) -> FairShares[Ticket]:
        """What each tenant has had."""
        return self._rolling.shares

    def tell_elsewhere(self, backlog: Backlog) -> None:
        """So much waits at others for the same workers."""
        self._rolling.elsewhere = backlog

    async def place(self, ticket: Ticket) -> Placement:
        """Wait until a worker can start the ticket soon; the request then counts there.

        Raises:
            NoCapacityError: if for too long no worker may serve it, or too many wait for one.
            ModelNotFoundError: if it turns out that nobody serves its model.
            UnplannableError: if its size is none, or no plan can be made of it.
            ExpiredError: if its deadline passes before.
        """
        loop = asyncio.get_running_loop()
        placed: asyncio.Future[Placement] = loop.create_future()
        placement = self.ask(ticket, placed)
        if placement is not None:
            return placement
        alarm, due_s = None, ticket.job.due_s
        if due_s != inf:
            alarm = loop.call_later(due_s - time.monotonic(), self._expire, ticket)
        try:
            return await placed
        except asyncio.CancelledError:
            self.withdraw(ticket)
            if placed.done() and not placed.cancelled():
                with suppress(RouterError):
                    self.release(ticket, placed.result().worker)
            raise
        finally:
            began = placed.done() and not placed.cancelled() and placed.exception() is None
            self.heard(ticket, began=began)
            if alarm is not None:
                alarm.cancel()

    def ask(self, ticket: Ticket, waiter: Waiter) -> Placement | None:
        """Where the ticket goes at once; None: the waiter is told, and `heard` is to be called.

        Raises:
            UnplannableError: if its size is none.
        """
        check_size(ticket.job)
        alone = self._plans.of_one and not (self._rushed or self._busy or self._unsent.requests)
        if alone and (placement := self._place_alone(ticket)) is not None:
            return placement
        ticket.placed = waiter
        self._unsent.add(ticket)
        self.room.add(ticket)
        self._rolling.add(ticket, time.monotonic())
        self._wake.set()
        return None

    def heard(self, ticket: Ticket, *, began: bool) -> None:
        """Whoever waited for its place waits no more; `began`: as it has one."""
        self._unsent.remove(ticket)
        self.room.remove(ticket, began=began)
        ticket.placed = None  # it holds on to its plan

    def withdraw(self, ticket: Ticket) -> None:
        """It wants no place any more."""
        self._rolling.discard(ticket)
        self._stranded.served(ticket)

    def _expire(self, ticket: Ticket) -> None:
        self._reject(ticket, ExpiredError())

    def _reject(self, ticket: Ticket, error: Exception) -> None:
        """Whoever still waits gets the error."""
        self.withdraw(ticket)
        if ticket.placed is not None and not ticket.placed.done():
            ticket.placed.set_exception(error)

    def begun(self, ticket: Ticket, worker: Worker, *, streams: bool) -> None:
        """Its worker has begun to answer it, with a first token if it `streams`."""
        self._workers.prefixes.begun(ticket)
        if streams:
            worker.begun(ticket, time.monotonic())

    def ended(self, ticket: Ticket, worker: Worker, made: float | None) -> None:
        """It has ended there with so many tokens an answer; None: it was found at fault."""
        lengths = ticket.job.lengths
        if made is None:
            self._workers.evenness.ended(worker, 1.0)
        elif lengths is not None:
            self._workers.evenness.ended(worker, lengths.later(made))

    def answered(self, ticket: Ticket, worker: Worker, tokens: int) -> None:
        """Its answer, in a session, has ended well; with its prompt it has so many tokens."""
        if ticket.job.sequences == 1:
            self._workers.prefixes.answered(ticket, worker, tokens)

    def release(
        self, ticket: Ticket, worker: Worker, spent: Spent = NOTHING, made: int = 0
    ) -> None:
        """The request has left its worker, however it ended, and that has done so much for it.

        `made`: see `Prefixes.left`.
        """
        if self._rolling.shares.several:
            self._rolling.shares.settle(ticket, *spent, time.monotonic())
        worker.ended(ticket)
        self._workers.prefixes.left(ticket, made)
        if ticket.trial:
            self._workers.conditions.left(worker)
        if worker.leaving:  # log lines of that are not about the request
            Context().run(self._workers.forget_if_drained, worker)
        if self._unsent.requests or worker.state is not None:  # an agent's queue may be recalled
            self.reconsider()

    def reconsider(self) -> None:
        """A worker has come, gone, reported or got room: somebody may be able to go."""
        self._wake.set()

    def others(self, ticket: Ticket, worker: Worker | None = None) -> list[Worker]:
        """Those beside `worker` that may serve the request, now or in a moment."""
        return [
            one
            for one in self._workers
            if one is not worker and not (one.down or one.draining) and ticket.is_eligible_for(one)
        ]

    def exclude(self, ticket: Ticket, worker: Worker) -> None:
        """It has failed there: its next worker is at another address, if one may serve it."""
        others = self.others(ticket, worker)
        away = any(one.address is not worker.address for one in others)
        ticket.excluded.update(worker.address.workers if away else (worker,))

    def backlog_s(self) -> float:
        """What workers that are up have to do for this process, and what is unsent, for each."""
        now, workers = time.monotonic(), self._workers.preferred()
        sent = [worker.own_backlog_s(now) for worker in workers]
        return (fmean(sent) if sent else 0.0) + self._unsent.seconds(workers)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._change_or_deadline()
            self._busy = True
            try:
                while (selection := self._select()) is not None:
                    if not await self._handle(selection):
                        break
            except Exception as error:  # one request or worker is not to stop the gateway
                log.exception("nothing could be planned")
                self._isolate(error)
            self._busy = False
            self._tell_dispatched()

    def _tell_dispatched(self) -> None:
        try:
            self.after_dispatch()
        except Exception:  # whoever listens is not to stop the gateway
            log.exception("a defect after planning")

    def _place_alone(self, ticket: Ticket) -> Placement | None:
        """Plan the only one there is, and send it; None: it is to wait."""
        self._rushed = True
        asyncio.get_running_loop().call_soon(self._rest)
        try:
            made = self._plan_alone(ticket)
            if made is None:
                return None
            selection, planned, now = made
            worker = self._rolling.bind_alone(selection, planned.assignment, now)
            if worker is None:
                return None
            record = self._plans.record(selection, planned, time.monotonic() - now)
            ticket.planned += 1
            self.room.passed(ticket)
            return self._carry_out(selection, record, 0, worker, now)
        except Exception:  # the task comes upon it as well, and finds out whose it is
            log.debug("a request could not be planned alone", exc_info=True)
        return None

    def _plan_alone(self, ticket: Ticket) -> tuple[TicketSelection, Planned, float] | None:
        """What is planned, how, and as of when: once more if others have sent something meanwhile.

        None: it is to wait.
        """
        made = None
        for _ in range(MOST_ANEW):
            if not self._workers.before_plan() and made is not None:
                break
            now = time.monotonic()
            selection = self._rolling.select_alone(ticket, now, self._able())
            if selection is None:
                return None
            made = selection, self._planner.plan_alone(selection.asked), now
        return made

    def _rest(self) -> None:
        """Whoever comes from now on has not come with the one before, which is on its way."""
        self._rushed = False
        self._tell_dispatched()

    async def _change_or_deadline(self) -> None:
        deadline = self._rolling.next_deadline()
        alarm = None
        if deadline is not None:
            wait_s = max(0.0, deadline - time.monotonic())
            alarm = asyncio.get_running_loop().call_later(wait_s, self._wake.set)
        await self._wake.wait()
        self._wake.clear()
        if alarm is not None:
            alarm.cancel()

    def _select(self) -> TicketSelection | None:
        """What to plan now; those whom nobody may serve any more are refused."""
        if not len(self._rolling) and not len(self._stranded):
            return None
        self._workers.before_plan()
        workers = self._able()
        self._before = self._rolling.unplanned
        selection = self._rolling.select(time.monotonic(), workers)
        for ticket in self._rolling.pop_ineligible():
            if self._workers.lack(ticket.model) or not self._stranded.add(ticket):
                self._give_up(ticket)
        return selection

    def _able(self) -> list[Worker]:
        """The workers that take requests; if others do than before, all is grouped anew."""
        workers = self._workers.available()
        if self._eligible.look(workers):
            self._rolling.regroup()
            for ticket in self._stranded.pop_all():
                self._rolling.add(ticket, time.monotonic())
        return workers

    def _give_up(self, ticket: Ticket) -> None:
        """Nobody can take it; who is only kept waiting by others goes on waiting."""
        model = ticket.model
        if self._workers.models() and model not in self._workers.models():
            self._reject(ticket, ModelNotFoundError(model))
        elif not any(ticket.is_eligible_for(one) for one in self._workers if one.ready):
            message = f"No worker that serves '{model}' is up."
            if ticket.only is not None:
                message = (
                    f"The worker that has what this goes on from, {ticket.only.name}, is down."
                )
            again_s = self.room.retry_after_s(ticket, self._workers.back_s(time.monotonic()))
            self._reject(ticket, NoCapacityError(message, again_s))

    def _saved(self, tickets: Sequence[Ticket], workers: Sequence[Worker]) -> FloatArray | None:
        """(n, m) prompt tokens of each that each need not prefill, as it has them or an adapter."""
        cached = self._workers.prefixes.cached_tokens(tickets, workers)
        for i, ticket in enumerate(tickets):
            only = ticket.only if ticket.carried else None
            if only is not None and only in workers and only.has_prefix_cache:
                if cached is None:
                    cached = np.zeros((len(tickets), len(workers)))
                cached[i, workers.index(only)] = ticket.carried
        for worker in workers:
            if worker.adapters.listed:
                return with_loading([ticket.model for ticket in tickets], workers, cached)
        return cached

    async def _handle(self, selection: TicketSelection) -> bool:
        """Plan and send; whether to go on at once with those who were not in this plan."""
        try:
            return await self._plan(selection)
        except Exception:
            log.exception("a window could not be planned")
        for single in each_alone(selection):
            try:
                await self._plan(single)
            except Exception as error:
                log.warning("a request could not be planned", extra={"why": repr(error)})
                self._reject(single.requests[0], UnplannableError(error))
        return False

    def _isolate(self, error: Exception) -> None:
        """Whatever nothing can be planned with goes: a worker, else a request, else all of them."""
        workers = self._workers.available()
        bad_workers = list(broken_workers(workers, time.monotonic()))
        for worker, why in bad_workers:
            self._workers.conditions.lost(worker, f"no plan can be made with its figures: {why}")
        if not bad_workers:
            bad = list(broken_tickets(self._unsent.tickets, workers))
            for ticket, why in bad or [(ticket, error) for ticket in self._unsent.tickets]:
                self._reject(ticket, UnplannableError(why))
        # The defect may have come between a window and the queue.
        for ticket in self._unsent.tickets:
            if ticket.waiting:
                self._rolling.discard(ticket)
                self._rolling.add(ticket, time.monotonic())
        self._wake.set()

    async def _plan(self, selection: TicketSelection) -> bool:
        start = time.monotonic()
        planned = await self._planner.plan(selection.asked)
        took_s = time.monotonic() - start
        sent = await self._send(selection, self._plans.record(selection, planned, took_s))
        return self._rolling.go_on(planned.assignment, sent, self._before)

    async def _send(self, selection: TicketSelection, record: PlanRecord) -> int:
        """Hand out what workers can start soon, in turns; how many that were."""
        sent = 0
        for _ in self._bind(selection, record):
            sent += 1
            if sent % SENDS_A_TURN == 0:
                await asyncio.sleep(0)
        return sent

    def _bind(self, selection: TicketSelection, record: PlanRecord) -> Iterator[Ticket]:
        """Those that are sent, one by one."""
        now = time.monotonic()
        for ticket in selection.requests:
            ticket.planned += 1
        for i, worker in self._rolling.bind(selection, record.plan, now):
            ticket = selection.requests[i]
            if ticket.placed is not None and not ticket.placed.done():
                ticket.placed.set_result(self._carry_out(selection, record, i, worker, now))
                yield ticket

    def _carry_out(
        self, selection: TicketSelection, record: PlanRecord, i: int, worker: Worker, now: float
    ) -> Placement:
        """One of them is sent there."""
        ticket = selection.requests[i]
        ticket.uncached = uncached = selection.asked.uncached(i, record.plan.workers[i])
        ticket.ahead_s = selection.ahead_s
        ticket.pace_s = 0.0
        paced = ticket.job.sequences > 1 and self._pace(ticket, worker)
        worker.sent(ticket, ticket.job, uncached, now, streamed=ticket.streamed, paced=paced)
        ticket.trial = worker.health.sent()
        if selection.ahead_s is not None:
            ticket.over_share_s = self._rolling.shares.over_s(ticket.job.tenant, now)
        self._stranded.served(ticket)
        self._workers.prefixes.sent(ticket, worker)
        self._workers.evenness.sent(worker, ticket.model)
        worker.adapters.use(ticket.model)
        return Placement(worker, record, i)

    def _pace(self, ticket: Ticket, worker: Worker) -> bool:
        """Where there are tenants, one request's answers take turns with what others send later.

        Their turns come as their tenant's share of the worker lets them. Whether they are more than
        that share, and so in nobody's way there: others may have all of its slots in their turns.
        """
        if not (self.has_tenants and worker.divides):
            return False
        n = ticket.job.sequences
        places = max(1, int(worker.slots * self.shares.part(ticket.job.tenant)))
        tokens = ticket.job.charged_tokens / n
        one = Size(worker.cost, worker.slots, ticket.uncached / n, tokens)
        ticket.ahead_s, ticket.pace_s = ticket.ahead_s or 0.0, one.lasts_s / places
        return n > places
