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
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from router.gateway.accounting.accounts import Accounts
from router.gateway.admission.answers import Answers, GoOn
from router.gateway.admission.billing import Billing, note_unseen
from router.gateway.admission.headers import for_worker, named_for_cache
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.admission.retries import Retries, Tries, Waiting
from router.gateway.admission.shedding import Shedding
from router.gateway.explanations.choice import Choice
from router.gateway.fleet.conditions import Conditions
from router.gateway.fleet.stalls import Watched, WorkerStalled
from router.gateway.fleet.worker import Worker
from router.gateway.forwarding.attempt import begin_attempt
from router.gateway.forwarding.continuation import Continuation, Diverged, is_determined
from router.gateway.forwarding.exchange import Exchange
from router.gateway.forwarding.forwarder import Forwarder
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.ticket import Placement, Ticket
from router.http.errors import (
    Cramped,
    Headers,
    ModelNotFoundError,
    NoCapacityError,
    Outcome,
    RecalledError,
    WorkerBusy,
    WorkerFailed,
    WorkerRefused,
    WorkerUnconnected,
    WorkerUnreachable,
)
from router.http.worker_connection import Connection, Reader
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewayTuning


@dataclass(slots=True)
class Begun:
    """A request that is at a worker, or whose attempt there has failed by `error`.

    `fresh`: a connection is to be made for it, as none was idle, or one was closed meanwhile.
    """

    worker: Worker
    tries: Tries
    error: Exception | None = None
    fresh: bool = False

    def check(self) -> None:
        """Raise the error, if there is one."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its frames would hold it: a circle is garbage


class Attempts:
    """See the module.

    Attributes:
        answers: what becomes of those that begin.
    """

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
        self._forwarder, self._metrics = forwarder, metrics
        self._billing = Billing(dispatcher, accounts)
        self.answers = Answers(
            self._retries, conditions, dispatcher, shedding, forwarder, accounts, kept
        )

    def is_plain(self, exchange: Exchange, ticket: Ticket) -> bool:
        """Whether nothing but its worker and its client decides what becomes of it."""
        return not self._shedding.on and exchange.continuation is None and ticket.due_s == inf

    def begin(self, exchange: Exchange) -> Tries:
        """A request has come."""
        assert exchange.request is not None
        may = self._continues and exchange.api.continues and exchange.request.stream
        if may and is_determined(exchange.body):
            exchange.continuation = Continuation()
        return self._retries.begin()

    async def run(
        self, exchange: Exchange, ticket: Ticket, tries: Tries, begun: Begun | None = None
    ) -> Outcome:
        """Send it from worker to worker until one answers; go on with what has `begun`.

        Raises:
            RouterError: if none does.
        """
        assert exchange.request is not None
        failure: WorkerUnreachable | None = None
        while True:
            at, begun = begun, None
            if at is None:
                try:
                    placement = await self._shedding.place(ticket, exchange.request)
                except (NoCapacityError, ModelNotFoundError) as error:
                    raise failure or error from failure
                tries.served = False
                at = Begun(self.sent(exchange, ticket, placement), tries)
                del placement  # it holds on to its plan
            worker = at.worker
            try:
                return await self._attempt(exchange, ticket, at)
            except RecalledError:
                exchange.record.recalled = ticket.recalled = ticket.recalled + 1
                self._metrics.recalled.inc()
                exchange.end_attempt("recalled", failed=False)
            except GoOn as going:
                if not going.error.untouched:
                    failure = going.error
                self._leave(exchange, ticket, worker, going.error)
            except asyncio.CancelledError:
                note_unseen(exchange, ticket, worker)
                raise
            finally:
                self.release(exchange, ticket, worker)

    def release(self, exchange: Exchange, ticket: Ticket, worker: Worker) -> None:
        """It has left a worker, however that has ended."""
        if self._shedding.on:
            self._shedding.left(ticket, worker)
        usage, one = exchange.usage, ticket.job.sequences == 1
        made = usage.completion_tokens if usage is not None and one else 0
        spent = self._billing.bill(exchange, ticket, worker)
        self._dispatcher.release(ticket, worker, spent, made)

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

    def sent(self, exchange: Exchange, ticket: Ticket, placement: Placement) -> Worker:
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

    def watch(self, exchange: Exchange, ticket: Ticket, worker: Worker, tries: Tries) -> Watched:
        """For as long as it is at a worker."""
        choice = exchange.record.choice
        assert choice is not None
        return Waiting(self._retries, ticket, worker, tries, choice, exchange.out)

    async def _attempt(self, exchange: Exchange, ticket: Ticket, at: Begun) -> Outcome:
        """Forward to one worker.

        Raises:
            RecalledError: if it has given the request back, having been asked to.
            GoOn: if it has not begun to answer, and another is to be asked.
            WorkerError: if it has failed, and nobody else is to be asked.
        """
        worker, tries = at.worker, at.tries
        try:
            at.check()
            with self.watch(exchange, ticket, worker, tries) as on_progress:
                return await self._forward(exchange, ticket, at, on_progress)
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
            raise GoOn(error) from error
        except (WorkerUnreachable, WorkerFailed) as error:
            self.answers.failed(ticket, worker, tries, error.reason)
            if not exchange.may_go_on:
                raise
            failure = WorkerUnreachable(str(error), "broken_off")
        try:
            if not self._retries.after_failure(ticket, worker, tries):
                raise failure
            raise GoOn(failure)
        finally:
            del failure  # its frames would hold it: a circle is garbage

    def _not_reached(self, ticket: Ticket, worker: Worker, error: WorkerUnconnected) -> None:
        self._conditions.unreached(worker, error, trial=ticket.trial)
        known = isinstance(error, WorkerRefused | Cramped)
        if not known and self._dispatcher.others(ticket, worker):
            self._dispatcher.exclude(ticket, worker)

    async def _forward(
        self,
        exchange: Exchange,
        ticket: Ticket,
        at: Begun,
        on_progress: Callable[[], None],
    ) -> Outcome:
        worker = at.worker
        url, headers, extra, body = self._request(exchange, ticket, worker)
        reply = await self._forwarder.send(url, headers, extra, body, worker=worker, fresh=at.fresh)
        try:
            feed, occupancy = self.answers.open(
                exchange, ticket, worker, at.tries, reply, on_progress
            )
            await reply.relay(feed, exchange.out)
            return self.answers.close(exchange, ticket, worker, at.tries, reply, occupancy)
        finally:
            reply.close()

    def send_at_once(
        self, exchange: Exchange, ticket: Ticket, worker: Worker, reader: Reader
    ) -> Connection | None:
        """Forward it, if a connection is idle: the reader is told what becomes of it."""
        url, headers, extra, body = self._request(exchange, ticket, worker)
        return self._forwarder.send_at_once(url, headers, extra, body, worker=worker, reader=reader)

    def failure(self, worker: Worker, error: Exception) -> Exception:
        """What it means that no answer has begun."""
        return self._forwarder.failure(worker, error) if isinstance(error, OSError) else error

    def _request(
        self, exchange: Exchange, ticket: Ticket, worker: Worker
    ) -> tuple[str, Headers, str, bytes]:
        """What a worker is sent: where, the client's headers, lines beside them, and a body."""
        extra = for_worker(ticket, self._forwarder.gateway)
        if exchange.trace_context is not None:
            extra += exchange.outgoing()
        headers, body = exchange.headers, exchange.body
        if worker.cache is not None and ticket.marks:
            headers, more, body = named_for_cache(ticket, worker.cache, headers, body)
            extra += more
        return worker.url + exchange.target, headers, extra, body
