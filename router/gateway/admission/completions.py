"""The gateway's completion endpoints, as raw ASGI: parse, place, forward, account.

Every request ends in exactly one outcome, recorded in one place (`Completions.__call__`), and a
worker's failure is retried elsewhere as long as the client has not seen a byte. A request that was
taken back from a worker's queue is placed again; that is no failure, and no client sees it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.slo import Felt
from router.gateway.admission.headers import for_worker, read_hint, request_id
from router.gateway.admission.shedding import Shedding
from router.gateway.explanations.choice import Choice
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.fleet.prefixes import blocks_of
from router.gateway.fleet.stalls import WorkerStalled
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.forwarding.attempt import begin_attempt
from router.gateway.forwarding.exchange import Exchange
from router.gateway.forwarding.forwarder import Forwarder
from router.gateway.forwarding.spans import request_span
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.ticket import Placement, Ticket
from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    header,
)
from router.http.bodies import BodyReader
from router.http.drain import Drain
from router.http.errors import (
    ModelNotFoundError,
    NoCapacityError,
    Outcome,
    RecalledError,
    RequestError,
    RouterError,
    WorkerFailed,
    WorkerUnreachable,
    outcome_of_status,
)
from router.http.request_headers import Urgency, read_tenant, read_urgency
from router.http.schemas import CompletionRequest
from router.observe.logs import bind_request
from router.observe.metrics import GatewayMetrics
from router.observe.tracing import Tracing
from router.settings.gateway import GatewayTuning
from router.wire import EXPECTED_TOKENS, RECALLED
from solver.cost.model import span_s

# Worker answers that another worker may not give: it is shutting down, or its engine is.
_RETRY_STATUS = frozenset((502, 503))


class Completions:
    """``/v1/completions`` or ``/v1/chat/completions``."""

    def __init__(
        self,
        tuning: GatewayTuning,
        workers: Workers,
        dispatcher: Dispatcher,
        shedding: Shedding,
        forwarder: Forwarder,
        accounts: Accounts,
        bodies: BodyReader,
        metrics: GatewayMetrics,
        drain: Drain,
        tracing: Tracing,
        *,
        chat: bool,
    ) -> None:
        self._tuning, self._workers, self._dispatcher = tuning, workers, dispatcher
        self._shedding, self._targets = shedding, tuning.targets()
        self._forwarder, self._accounts, self._chat = forwarder, accounts, chat
        self._bodies = bodies
        self._path = "/v1/chat/completions" if chat else "/v1/completions"
        self._metrics, self._drain, self._tracing = metrics, drain, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and account for it whatever happens."""
        record = RequestRecord(request_id(scope), "other", False, time.time())
        target = self._path + ("?" + scope["query_string"].decode("latin-1")).rstrip("?")
        exchange = Exchange(send, record, target, scope["headers"], chat=self._chat)
        trace = self._tracing.begin(exchange.headers)
        if trace is not None:
            exchange.trace_context, record.trace_id = trace, trace.id
            exchange.headers = trace.keep(exchange.headers)
        bind_request(record.id, record.trace_id)
        outcome = Outcome.FAILED
        try:
            outcome = await self._serve(scope, receive, exchange)
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome = error.outcome
            await exchange.send_error(error)
        except asyncio.CancelledError:  # the time to drain is over
            await exchange.send_error(NoCapacityError("The gateway is shutting down.", 1.0))
        finally:
            record.outcome = outcome.value
            self._accounts.end(record, outcome, exchange.timing())
            if trace is not None and trace.recorded:
                self._tracing.end(trace, request_span(exchange, outcome))

    async def _serve(self, scope: Scope, receive: Receive, exchange: Exchange) -> Outcome:
        urgency = read_urgency(scope, self._targets)
        exchange.record.targets = urgency.targets  # who is refused has missed them
        self._check_room()
        exchange.body = await self._bodies.read(scope, receive)
        exchange.received = time.monotonic()  # how long the client took to send it is its own
        self._check_room()
        self._accounts.begin(exchange.record)
        exchange.request = await self._read(exchange.body)
        hint = read_hint(header(scope, EXPECTED_TOKENS))
        exchange.record.tenant = read_tenant(scope)
        ticket = self._ticket(exchange, exchange.request, hint, urgency)
        async with DisconnectWatch(receive, exchange.send):
            return await self._try_workers(exchange, ticket)

    def _check_room(self) -> None:
        """Who has not sent its body yet takes no place.

        Raises:
            NoCapacityError: if nothing more is taken in.
        """
        if self._drain.begun or self._accounts.running >= self._tuning.max_requests:
            why = "is shutting down" if self._drain.begun else "has too many requests"
            wait_s = self._dispatcher.retry_after_s()
            raise NoCapacityError(f"This gateway {why}; please try again.", wait_s)

    async def _read(self, body: bytes) -> CompletionRequest:
        """A request that names no model means the one that there is."""
        request = await self._bodies.outline(body, chat=self._chat)
        if request.model:
            return request
        models = list(self._workers.models())
        if len(models) != 1:
            message = "'model' is required; GET /v1/models lists those that there are."
            raise RequestError(message, param="model", code="missing_field")
        return replace(request, model=models[0])

    def _ticket(
        self,
        exchange: Exchange,
        request: CompletionRequest,
        hint: float | None,
        urgency: Urgency,
    ) -> Ticket:
        """What the planner must know of the request; refuses what nobody could serve.

        Raises:
            RequestError: if no worker knows the model, or the prompt is too long for all.
        """
        record = exchange.record
        context = self._context(request.model)
        record.model, record.stream, record.choices = request.model, request.stream, request.choices
        record.priority = urgency.priority.value
        record.deadline_s = None if urgency.deadline_s == inf else urgency.deadline_s
        size = self._accounts.size(request, context, hint, urgency, record.tenant)
        if context is not None and size.least_tokens > context:
            raise RequestError(
                f"The maximum context length of '{request.model}' is {context} tokens; the request "
                f"needs at least {size.least_tokens} by its prompt and its output limit.",
                param="messages" if request.chat else "prompt",
                code="context_length_exceeded",
            )
        record.prompt_tokens = size.job.prompt_tokens
        record.expected_tokens = size.job.expected_tokens
        blocks, block_tokens = blocks_of(request, size.job.prompt_tokens)
        return Ticket(
            record.id,
            request.model,
            size.job,
            size.least_tokens,
            request.stream,
            exchange.received,
            urgency.priority,
            blocks,
            block_tokens,
            again=size.again,
        )

    def _context(self, model: str) -> int | None:
        """The longest context that some worker has for `model`; None if one does not tell."""
        serving = [worker for worker in self._workers if model in worker.models]
        if not serving:
            if not self._workers.models():
                raise NoCapacityError("No worker is up.", self._dispatcher.retry_after_s())
            raise ModelNotFoundError(model)
        lengths = [worker.max_model_len(model) for worker in serving]
        known = [length for length in lengths if length is not None]
        return max(known) if len(known) == len(lengths) else None

    async def _try_workers(self, exchange: Exchange, ticket: Ticket) -> Outcome:
        """One worker after another, until one begins to answer."""
        assert exchange.request is not None
        failure: RouterError | None = None
        tries_left = self._tuning.retries
        while tries_left >= 0:
            try:
                placement = await self._shedding.place(ticket, exchange.request)
            except NoCapacityError as error:
                raise failure or error from failure
            worker = self._begin(exchange, ticket, placement)
            del placement  # it holds on to its plan
            try:
                outcome = await self._attempt(exchange, ticket, worker, tries_left)
            except RecalledError:
                exchange.record.recalled = ticket.recalled = ticket.recalled + 1
                self._metrics.recalled.inc()
                exchange.end_attempt("recalled", failed=False)
                continue
            except WorkerUnreachable as error:
                self._workers.mark_down(worker, str(error))
                failure = error
            else:
                if outcome is not None:
                    return outcome
                failure = WorkerUnreachable("The worker refused the request.")
            finally:
                self._shedding.left(ticket, worker)
                self._dispatcher.release(ticket, worker)
            tries_left -= 1
            ticket.excluded.add(worker)
            exchange.record.failed_workers.append(worker.name)
            if tries_left >= 0:
                exchange.end_attempt(str(failure), failed=True)
        assert failure is not None
        raise failure

    def _begin(self, exchange: Exchange, ticket: Ticket, placement: Placement) -> Worker:
        """The request goes to the worker that its plan says."""
        record, worker = exchange.record, placement.worker
        record.choice, record.worker = Choice(placement.plan.seen, placement.index), worker.name
        record.planned = ticket.planned
        exchange.sent, record.sent_s = time.monotonic(), time.time()
        if exchange.recorded:
            exchange.attempts.append(begin_attempt(placement, record.choice))
        return worker

    async def _attempt(
        self, exchange: Exchange, ticket: Ticket, worker: Worker, tries_left: int
    ) -> Outcome | None:
        """Forward to one worker; None if it refused and another is to be asked.

        Raises:
            RecalledError: if it has given the request back, having been asked to.
            WorkerUnreachable: if it has not begun to answer, and will not.
            WorkerFailed: if it has begun, and will not end.
        """
        try:
            async with worker.stall_guard.watch() as on_progress:
                return await self._forward(exchange, ticket, worker, tries_left, on_progress)
        except WorkerStalled as error:
            kind = WorkerUnreachable if exchange.first_byte is None else WorkerFailed
            raise kind("The worker has fallen silent.") from error

    async def _forward(
        self,
        exchange: Exchange,
        ticket: Ticket,
        worker: Worker,
        tries_left: int,
        on_progress: Callable[[], None],
    ) -> Outcome | None:
        assert exchange.request is not None
        url = worker.url + exchange.target
        extra = for_worker(ticket) | exchange.outgoing()
        reply = await self._forwarder.send(url, exchange.headers, extra, exchange.body)
        try:
            if reply.status in _RETRY_STATUS:
                if ticket.recall_pending and reply.has(RECALLED):
                    raise RecalledError
                if tries_left and self._dispatcher.has_other(ticket, worker):
                    return None
                reply.retry_after(self._dispatcher.retry_after_s())
            occupancy = worker.load.occupancy(worker.slots, 0)

            def progress(events: int) -> None:
                on_progress()
                worker.load.progress(ticket, events)

            usage = await exchange.relay(reply, worker.name, progress)
            if exchange.failed:
                return Outcome.FAILED
            if reply.status == 200:
                self._accounts.learn(exchange.request, exchange.record, usage)
                self._learn(worker, exchange, occupancy)
                record = exchange.record
                felt = Felt.of(exchange.timing(), record.output_tokens, record.choices)
                self._shedding.saw(worker, felt)
            return outcome_of_status(reply.status)
        finally:
            reply.close()

    def _learn(self, worker: Worker, exchange: Exchange, occupancy: float) -> None:
        """Correct the scale of a worker whose cost model is only assumed."""
        record = exchange.record
        if worker.state is not None or not record.output_tokens or exchange.sent is None:
            return
        if worker.load.sequences > worker.slots:
            return  # its time would tell of the queue, not of the engine
        assert exchange.request is not None
        prompt = float(record.prompt_tokens)
        output = record.output_tokens / exchange.request.choices
        predicted_s = span_s(worker.base_cost, prompt, output, occupancy)
        worker.scale.observe(predicted_s, time.monotonic() - exchange.sent)
