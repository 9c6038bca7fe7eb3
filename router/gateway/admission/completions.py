"""The gateway's completion endpoints, as raw ASGI: parse, place, forward, account.

Every request ends in exactly one outcome, recorded in one place (`Completions.__call__`). What
becomes of one that a worker fails, or gives back, is told in `attempts`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import inf

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.admission.attempts import Attempts
from router.gateway.admission.billing import used
from router.gateway.admission.headers import read_hint, request_id, session_of, tenant_of
from router.gateway.admission.keepalive import kept_alive
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.fleet.model_names import ModelNames
from router.gateway.fleet.prefixes import hashed
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.forwarding.exchange import Exchange
from router.gateway.forwarding.spans import request_span
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.ticket import NEAR, Ticket
from router.http.apis import Api
from router.http.asgi import (
    BODY,
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    fields,
)
from router.http.bodies import BodyMemory, BodyReader, Held
from router.http.drain import Drain
from router.http.encodings import HEADER as CONTENT_ENCODING
from router.http.errors import (
    NoCapacityError,
    Outcome,
    RequestError,
    RouterError,
)
from router.http.request_headers import (
    TIERS,
    Urgency,
    read_keepalive,
    read_urgency,
)
from router.http.schemas import CompletionRequest
from router.observe.logs import bind_request
from router.observe.tracing import Tracing
from router.settings.gateway import GatewayTuning
from router.wire import EXPECTED_TOKENS, WHY
from solver.batching.priority import Priority
from solver.cost.estimators import BYTES_PER_TOKEN

_NOTHING = nullcontext()


class Completions:
    """One of the paths that are planned."""

    def __init__(
        self,
        tuning: GatewayTuning,
        workers: Workers,
        dispatcher: Dispatcher,
        attempts: Attempts,
        accounts: Accounts,
        kept: KeptAnswers,
        names: ModelNames,
        bodies: BodyReader,
        memory: BodyMemory,
        drain: Drain,
        tracing: Tracing,
        api: Api,
    ) -> None:
        self._tuning, self._workers, self._dispatcher = tuning, workers, dispatcher
        self._attempts, self._targets = attempts, tuning.targets()
        self._accounts, self._bodies, self._api = accounts, bodies, api
        self._memory, self._drain, self._tracing = memory, drain, tracing
        self._kept, self._names = kept, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and account for it whatever happens."""
        record = RequestRecord(request_id(scope), "other", False, time.time())
        target, query = self._api.path, scope["query_string"]
        if query:
            target += ("?" + query.decode("latin-1")).rstrip("?")
        exchange = Exchange(send, record, target, scope["headers"], api=self._api)
        trace = self._tracing.begin(exchange.headers)
        if trace is not None:
            exchange.trace_context, record.trace_id = trace, trace.id
            exchange.headers = trace.keep(exchange.headers)
        bind_request(record.id, record.trace_id)
        outcome, held = Outcome.FAILED, Held(self._memory)
        try:
            outcome = await self._serve(scope, receive, exchange, held)
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome = error.outcome
            await exchange.send_error(error)
            error.__traceback__ = None  # its frames hold it: a circle is garbage
        except asyncio.CancelledError:  # the time to drain is over
            await exchange.send_error(NoCapacityError("The gateway is shutting down.", 1.0))
        finally:
            held.let_go()
            if exchange.reservation is not None:
                exchange.reservation.settle(used(exchange))
            record.outcome = outcome
            self._accounts.end(record, outcome, exchange.timing(), exchange.blocks, exchange.made())
            if trace is not None and trace.recorded:
                self._tracing.end(trace, request_span(exchange, outcome))

    async def _serve(
        self, scope: Scope, receive: Receive, exchange: Exchange, held: Held
    ) -> Outcome:
        grant: Grant | None = scope.get(GRANT)
        highest = Priority.INTERACTIVE if grant is None else grant.key.priority
        urgency = read_urgency(scope, self._targets, highest=highest)
        told = fields(scope)
        exchange.record.targets = urgency.targets  # who is refused has missed them
        tenant = exchange.record.tenant = held.tenant = tenant_of(scope)
        if BODY not in scope:
            self._check_room(tenant)
        exchange.body = await self._bodies.read(scope, receive, held)
        if CONTENT_ENCODING in told:  # it goes on as it was before
            exchange.headers = [pair for pair in exchange.headers if pair[0] != CONTENT_ENCODING]
        exchange.received = time.monotonic()  # how long the client took to send it is its own
        self._check_room(tenant)
        self._accounts.begin(exchange.record)
        exchange.request = await self._bodies.outline(exchange.body, self._api)
        if exchange.request.tier in TIERS:
            urgency = read_urgency(scope, self._targets, TIERS[exchange.request.tier], highest)
            exchange.record.targets, exchange.tell_priority = urgency.targets, True
        only, carried = None, 0
        if exchange.request.previous:
            only, carried = await self._go_on(exchange, grant)
        asked = exchange.request.model
        if not self._names.is_plain(asked):
            await self._name(exchange, scope, only, None if grant is None else grant.key.models)
        hint = read_hint(told.get(EXPECTED_TOKENS))
        if grant is not None:
            exchange.more = grant.headers
            grant.check_model(*self._names.names_of(exchange.request.model, asked))
            grant.check_claims(exchange.request.claims, self._tuning.relay)
        ticket = self._ticket(exchange, exchange.request, hint, urgency)
        ticket.only, ticket.carried, ticket.near = only, carried, scope.get(NEAR)
        session = session_of(scope) or exchange.request.session
        if session:
            ticket.session = f"{tenant}\0{session}"
        if grant is not None:
            exchange.reservation = grant.reserve(ticket.job.reserved_tokens)
        self._dispatcher.room.check(ticket)
        keeping: AbstractContextManager[None] = _NOTHING
        if ticket.streamed and (every_s := read_keepalive(scope, self._tuning.sse_keepalive_s)):
            keeping = kept_alive(exchange, every_s)
        exchange.why = WHY in told
        with DisconnectWatch(receive, exchange.send), keeping:
            outcome = await self._attempts.run(exchange, ticket)
            await exchange.out.drain()
            return outcome

    def _check_room(self, tenant: str) -> None:
        """Who has not sent its body yet takes no place.

        Raises:
            NoCapacityError: if nothing more is taken in.
        """
        self._drain.check()
        self._dispatcher.room.check_requests(self._accounts.here, tenant)

    async def _name(
        self,
        exchange: Exchange,
        scope: Scope,
        only: Worker | None,
        allowed: Collection[str] | None,
    ) -> None:
        """It names none, or by another name: its worker gets the name that it knows.

        Raises:
            RequestError: if it is not told which is meant.
        """
        request, record = exchange.request, exchange.record
        assert request is not None
        session = session_of(scope) or request.session or record.id
        among = None if only is None else only.models
        model, says = self._names.resolve(request.model, session, among, allowed)
        if says:
            record.alias = request.model or None
            named = bool(request.model)
            exchange.body = await self._bodies.with_model(exchange.body, model, named=named)
        exchange.request = replace(request, model=model)

    async def _go_on(self, exchange: Exchange, grant: Grant | None) -> tuple[Worker, int]:
        """The worker that has what it goes on from, and tokens of that, its prompt's first ones.

        Raises:
            RequestError: if nobody has it, or it is another tenant's.
        """
        assert exchange.request is not None
        tenant = None if grant is None else grant.key.tenant
        request, param = exchange.request, "previous_response_id"
        if self._names.is_plain(request.model) and self._workers.context(request.model)[1]:
            exchange.record.model = exchange.record.label = request.model
        worker, tokens = await self._kept.find(request.previous, tenant, param)
        (prompt,) = request.prompts
        longer = prompt.more_bytes + int(tokens * BYTES_PER_TOKEN)
        exchange.request = replace(request, prompts=(replace(prompt, more_bytes=longer),))
        return worker, tokens

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
        context, known = self._workers.context(request.model)
        record.model, record.stream, record.choices = request.model, request.stream, request.choices
        if known:
            record.label = request.model
        record.priority = urgency.priority
        record.deadline_s = None if urgency.deadline_s == inf else urgency.deadline_s
        size = self._accounts.size(request, context, hint, urgency, record.tenant)
        if context is not None and size.least_tokens > context:
            raise RequestError(
                f"The maximum context length of '{request.model}' is {context} tokens; the request "
                f"needs at least {size.least_tokens} by its prompt and its output limit.",
                param=self._api.field,
                code="context_length_exceeded",
            )
        record.prompt_tokens, record.kind = size.job.prompt_tokens, size.kind
        record.expected_tokens, exchange.most = size.job.expected_tokens, size.most
        key = self._workers.prefixes.key
        prompt, block_tokens = hashed(request, size.job.prompt_tokens, key)
        exchange.blocks = prompt.blocks
        return Ticket(
            record.id,
            request.model,
            size.job,
            size.least_tokens,
            request.stream,
            exchange.received,
            urgency.priority,
            prompt,
            block_tokens,
            again=size.again,
        )
