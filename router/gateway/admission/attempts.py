"""A request at one worker after another, until one answers it.

Rules:
- as long as its client has no byte, neither of a head nor of a body, a request that a worker fails
  goes to another one, if `retries` says so; what a failure is, says
  `router.gateway.forwarding.verdict`, and workers' healths hear of it;
- where nobody else is to be asked, a bad answer is the request's answer;
- a request that was taken back from a queue is placed again: no failure, and no client sees it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.slo import Felt
from router.gateway.admission.billing import Billing, note_unseen
from router.gateway.admission.headers import for_worker, named_for_cache
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.admission.retries import Retries, Tries, least_patience_s, patience_s
from router.gateway.admission.shedding import Shedding
from router.gateway.explanations.choice import Choice
from router.gateway.fleet.conditions import Conditions
from router.gateway.fleet.stalls import WorkerStalled
from router.gateway.fleet.worker import Worker
from router.gateway.forwarding.attempt import begin_attempt
from router.gateway.forwarding.continuation import Continuation, Diverged, is_determined
from router.gateway.forwarding.exchange import Exchange
from router.gateway.forwarding.forwarder import Forwarder
from router.gateway.forwarding.verdict import Verdict, verdict, wait_s
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.ticket import Placement, Ticket
from router.http.errors import (
    ModelNotFoundError,
    NoCapacityError,
    Outcome,
    RecalledError,
    WorkerBusy,
    WorkerFailed,
    WorkerRefused,
    WorkerUnconnected,
    WorkerUnreachable,
    outcome_of_status,
)
from router.http.secret import CHALLENGE, is_challenge
from router.http.usage import Usage
from router.http.worker_reply import Reply
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewayTuning
from router.wire import FULL, RECALLED
from solver.cost.model import span_s

# Gaps between a stream's tokens that tell how fast its worker makes them; a time that has a prefill
# and perhaps a queue in it tells less.
LEAST_GAPS, WHOLE_WEIGHT = 8, 0.5


class _GoOn(Exception):
    """This worker has not answered the request, which is to go on; `error` says why."""

    def __init__(self, error: WorkerUnreachable) -> None:
        super().__init__(str(error))
        self.error = error


class Attempts:
    """See the module."""

    def __init__(
        self,
        tuning: GatewayTuning,
        conditions: Conditions,
        dispatcher: Dispatcher,
        shedding: Shedding,
        forwarder: Forwarder,
        accounts: Accounts,
        kept: KeptAnswers,
        metrics: GatewayMetrics,
    ) -> None:
        self._retries, self._continues = Retries(tuning, dispatcher), tuning.continue_streams
        self._conditions, self._dispatcher, self._shedding = conditions, dispatcher, shedding
        self._forwarder, self._accounts, self._metrics = forwarder, accounts, metrics
        self._kept, self._billing = kept, Billing(dispatcher, accounts)

    async def run(self, exchange: Exchange, ticket: Ticket) -> Outcome:
        """Send it from worker to worker until one answers.

        Raises:
            RouterError: if none does.
        """
        assert exchange.request is not None
        may = self._continues and exchange.api.continues and exchange.request.stream
        if may and is_determined(exchange.body):
            exchange.continuation = Continuation()
        tries = self._retries.begin()
        failure: WorkerUnreachable | None = None
        while True:
            try:
                placement = await self._shedding.place(ticket, exchange.request)
            except (NoCapacityError, ModelNotFoundError) as error:
                raise failure or error from failure
            worker = self._begin(exchange, ticket, placement)
            del placement  # it holds on to its plan
            try:
                return await self._attempt(exchange, ticket, worker, tries)
            except RecalledError:
                exchange.record.recalled = ticket.recalled = ticket.recalled + 1
                self._metrics.recalled.inc()
                exchange.end_attempt("recalled", failed=False)
            except _GoOn as going:
                if not going.error.untouched:
                    failure = going.error
                self._leave(exchange, ticket, worker, going.error)
            except asyncio.CancelledError:
                note_unseen(exchange, ticket, worker)
                raise
            finally:
                if self._shedding.on:
                    self._shedding.left(ticket, worker)
                self._dispatcher.release(
                    ticket, worker, self._billing.bill(exchange, ticket, worker)
                )

    def _leave(
        self, exchange: Exchange, ticket: Ticket, worker: Worker, error: WorkerUnreachable
    ) -> None:
        """It goes on without an answer of this worker."""
        busy = isinstance(error, WorkerBusy)
        exchange.end_attempt(str(error), failed=not busy)
        self._metrics.retries.labels(error.why).inc()
        if not busy:
            exchange.record.failed_workers += (worker.name,)
        if not error.untouched:
            self._dispatcher.exclude(ticket, worker)

    def _begin(self, exchange: Exchange, ticket: Ticket, placement: Placement) -> Worker:
        """The request goes to the worker that its plan says."""
        record, worker = exchange.record, placement.worker
        record.choice = Choice(placement.plan.seen, placement.index, record.choices)
        record.worker = worker.name
        record.label = record.model
        record.planned, record.over_share_s = ticket.planned, ticket.over_share_s
        exchange.sent, record.sent_s = time.monotonic(), time.time()
        if exchange.trace_context is not None and exchange.recorded:
            exchange.attempts += (begin_attempt(placement, record.choice),)
        return worker

    async def _attempt(
        self, exchange: Exchange, ticket: Ticket, worker: Worker, tries: Tries
    ) -> Outcome:
        """Forward to one worker.

        Raises:
            RecalledError: if it has given the request back, having been asked to.
            _GoOn: if it has not begun to answer, and another is to be asked.
            WorkerError: if it has failed, and nobody else is to be asked.
        """
        guard, choice = worker.stall_guard, exchange.record.choice
        assert choice is not None
        patience = partial(patience_s, ticket, worker, choice)
        may_leave = partial(self._retries.after_silence, ticket, worker, tries)
        tries.served = False
        try:
            with guard.watch(
                least_patience_s(worker), patience, may_leave, trial=ticket.trial, out=exchange.out
            ) as on_progress:
                return await self._forward(exchange, ticket, worker, tries, on_progress)
        except WorkerStalled as error:
            if not exchange.may_go_on:
                raise WorkerFailed("The worker has fallen silent.") from error
            tries.left |= set(worker.address.workers)
            failure = WorkerUnreachable("The worker has fallen silent.", "silent")
        except Diverged:
            raise
        except WorkerUnconnected as error:
            self._not_reached(ticket, worker, error)
            if not self._retries.while_unsent():
                raise
            raise _GoOn(error) from error
        except (WorkerUnreachable, WorkerFailed) as error:
            self._failed(ticket, worker, tries, error.reason)
            if not exchange.may_go_on:
                raise
            failure = WorkerUnreachable(str(error), "broken_off")
        try:
            if not self._retries.after_failure(ticket, worker, tries):
                raise failure
            raise _GoOn(failure)
        finally:
            del failure  # its frames would hold it: a circle is garbage

    def _failed(self, ticket: Ticket, worker: Worker, tries: Tries, why: str) -> None:
        self._conditions.failed(worker, why, trial=ticket.trial, begun=tries.served)

    def _not_reached(self, ticket: Ticket, worker: Worker, error: WorkerUnconnected) -> None:
        """Whether nobody listens there is soon seen; a host that says nothing costs its time."""
        if isinstance(error, WorkerRefused):
            self._conditions.lost(worker, error.reason)
            return
        self._conditions.failed(worker, error.reason, trial=ticket.trial)
        if self._dispatcher.others(ticket, worker):
            self._dispatcher.exclude(ticket, worker)

    async def _forward(
        self,
        exchange: Exchange,
        ticket: Ticket,
        worker: Worker,
        tries: Tries,
        on_progress: Callable[[], None],
    ) -> Outcome:
        reply = await self._send(exchange, ticket, worker)
        try:
            good = self._judge(reply, ticket, worker, tries)
            occupancy = worker.load.occupancy(worker.slots, 0)
            streams, begun = reply.is_stream, reply.status != 200

            def progress(events: int) -> None:
                nonlocal good, begun
                on_progress()
                if events:
                    worker.load.progress(ticket, events)
                if not begun and (events or not streams):
                    begun = True
                    self._dispatcher.begun(ticket, worker, streams=streams)
                if good:
                    good, tries.served = False, True
                    self._conditions.served(worker, trial=ticket.trial)

            noted = self._kept.noting(exchange, worker, progress) if exchange.api.kept else progress
            usage = await exchange.relay(reply, worker.name, noted)
            if exchange.wrong:
                self._failed(ticket, worker, tries, exchange.wrong)
            if exchange.failed:
                return Outcome.FAILED
            if reply.status == 200 and not exchange.wrong:
                self._answered(exchange, ticket, worker, usage, occupancy)
            return outcome_of_status(reply.status)
        finally:
            reply.close()

    def _send(self, exchange: Exchange, ticket: Ticket, worker: Worker) -> Awaitable[Reply]:
        """Until its answer begins."""
        extra = for_worker(ticket, self._forwarder.gateway)
        if exchange.trace_context is not None:
            extra += exchange.outgoing()
        headers, body = exchange.headers, exchange.body
        if worker.cache is not None and ticket.marks:
            headers, more, body = named_for_cache(ticket, worker.cache, headers, body)
            extra += more
        url = worker.url + exchange.target
        return self._forwarder.send(url, headers, extra, body, worker=worker)

    def _answered(
        self,
        exchange: Exchange,
        ticket: Ticket,
        worker: Worker,
        usage: Usage | None,
        occupancy: float,
    ) -> None:
        """The worker, which was taken to that `occupancy` then, has answered it in full."""
        assert exchange.request is not None
        record = exchange.record
        self._accounts.learn(exchange.request, record, usage)
        if usage is not None and usage.tokens:
            if ticket.session:
                self._dispatcher.answered(ticket, worker, usage.tokens)
            if exchange.answer_id is not None:
                self._kept.remember(exchange.answer_id, worker, record.tenant, usage.tokens)
        self._learn(worker, exchange, ticket, occupancy)
        if self._shedding.on:
            felt = Felt.of(exchange.timing(), record.output_tokens, record.choices)
            self._shedding.saw(worker, felt)

    def _judge(self, reply: Reply, ticket: Ticket, worker: Worker, tries: Tries) -> bool:
        """Whether its status says that the worker serves; it is the request's answer anyway.

        Raises:
            RecalledError, _GoOn: if this is not to be the request's answer.
            WorkerFailed: if it cannot be read.
        """
        if reply.is_compressed:
            raise WorkerFailed("Its answer is compressed, which nobody has asked for.")
        status = reply.status
        kind = verdict(status, has_deadline=ticket.due_s != inf, planned=True)
        if status == 401 and self._knows_not_us(reply, worker):
            kind = Verdict.FAILED
        if kind is Verdict.ANSWER:
            return True
        if status == 503 and ticket.recall_pending and reply.has(RECALLED):
            raise RecalledError
        if status == 503 and reply.has(FULL):
            worker.filled()
            raise _GoOn(WorkerBusy("The worker's slots are taken by other gateways.", "full"))
        if kind is Verdict.FAILED:
            why = f"it answered a request with {status}"
            if 300 <= status < 400:
                to = (reply.header(b"location") or b"").decode("latin-1")
                why = f"it redirects a request to {to[:200]}: name that server instead"
            self._conditions.failed(worker, why, trial=ticket.trial)
            if self._retries.after_failure(ticket, worker, tries):
                raise _GoOn(WorkerUnreachable(f"The worker answered {status}.", f"status_{status}"))
            return False
        for_s = wait_s(reply.header(b"retry-after"), kind)
        said = "is full or not ready" if kind is Verdict.FULL else "limits its requests"
        self._conditions.busy(worker, f"it {said}: {status}", for_s, trial=ticket.trial)
        alone = kind is Verdict.FULL
        if self._retries.while_full(ticket, worker, tries, for_s or 0.0, alone=alone):
            raise _GoOn(WorkerBusy(f"The worker {said}.", "busy"))
        reply.retry_after(self._dispatcher.room.retry_after_s(ticket))
        return False

    def _knows_not_us(self, reply: Reply, worker: Worker) -> bool:
        """Whether it is the gateway that a worker answers so, and not the client."""
        challenged = is_challenge(reply.status, reply.header(CHALLENGE[0]))
        return challenged or self._forwarder.has_key(worker)

    def _learn(self, worker: Worker, exchange: Exchange, ticket: Ticket, occupancy: float) -> None:
        """Correct the scale of a worker whose cost model is only assumed.

        By the gaps between a stream's tokens, in which there is no queue; else by the whole time,
        unless that may have one in it. `occupancy` is that of its begin.
        """
        record = exchange.record
        if worker.state is not None or not record.output_tokens or exchange.sent is None:
            return
        occupancy = (occupancy + worker.load.occupancy(worker.slots, 0)) / 2.0
        prompt, output = float(record.prompt_tokens), record.output_tokens / record.choices
        now, cost = time.monotonic(), worker.base_cost
        if exchange.first_token is not None and output >= LEAST_GAPS:
            round_s = span_s(cost, prompt, output, occupancy) - cost.prefill_s(prompt)
            worker.speed.rounds.observe(round_s * (1 - 1 / output), now - exchange.first_token)
        elif not worker.has_queue_for(ticket):
            predicted_s = span_s(cost, prompt, output, occupancy)
            worker.speed.rounds.observe(predicted_s, now - exchange.sent, WHOLE_WEIGHT)
