"""The gateway's completion endpoints, as raw ASGI: parse, place, forward, account.

Every request ends in exactly one outcome, recorded in one place (`Completions.end`), whether it has
a task of its own or goes without one (`passage`). What becomes of one that a worker fails, or gives
back, is told in `attempts`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine
from math import inf
from typing import Any

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.admission.attempts import Attempts, Begun
from router.gateway.admission.billing import used
from router.gateway.admission.headers import request_id
from router.gateway.admission.keepalive import Comments
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.admission.meant import Meant
from router.gateway.admission.passage import Passage, raised
from router.gateway.admission.retries import Tries
from router.gateway.admission.said import Said, highest, said_in
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.fleet.model_names import ModelNames
from router.gateway.fleet.prefixes import hashed
from router.gateway.fleet.workers import Workers
from router.gateway.forwarding.exchange import Exchange
from router.gateway.forwarding.spans import request_span
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.ticket import NEAR, Ticket
from router.http.apis import Api
from router.http.asgi import (
    BODY,
    ClientDisconnected,
    Direct,
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
    NoMemoryError,
    Outcome,
    RequestError,
    RouterError,
)
from router.http.request_headers import (
    TIERS,
    Urgency,
    read_urgency,
)
from router.http.schemas import CompletionRequest
from router.observe.logs import bind_request, reset_about, set_about
from router.observe.tracing import PARENT, Tracing
from router.settings.gateway import GatewayTuning


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
        self._names, self._meant = names, Meant(workers, kept, names, bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and account for it whatever happens."""
        exchange = self._open(scope, receive, send)
        await self.conclude(exchange, self._serve(scope, exchange))

    def begin(self, scope: Scope, receive: Receive, out: Direct) -> None:
        """The same of one whose body has come, without a task as far as that goes."""
        exchange = self._open(scope, receive, out)
        before = set_about((exchange.record.id, exchange.record.trace_id))
        try:
            work = self._begin(scope, exchange, out)
        except Exception as error:  # as in a task
            work = raised(error)
        finally:
            reset_about(before)
        if work is not None:
            out.run(self.conclude(exchange, work))

    def _begin(
        self, scope: Scope, exchange: Exchange, out: Direct
    ) -> Coroutine[Any, Any, Outcome] | None:
        """What is left for a task, if anything is.

        Raises:
            RouterError: if it is refused.
        """
        said = self._enter(scope, exchange)
        body = None if said.encoded else self._bodies.at_once(scope, exchange.held)
        if body is None:
            return self._read(scope, exchange, said)
        self._take(exchange, body)
        exchange.request = request = self._bodies.outline_small(body, self._api)
        if request.previous or not self._names.is_plain(request.model):
            return self._find(scope, exchange, said)
        ticket = self._ask(scope, exchange, said, request.model)
        tries = self._attempts.begin(exchange)
        if not self._attempts.is_plain(exchange, ticket):
            return self.answer(exchange, ticket, tries, None)
        way = Passage(self, self._attempts, self._dispatcher, exchange, ticket, tries, out)
        way.begin()
        return None

    def _open(self, scope: Scope, receive: Receive, send: Send) -> Exchange:
        record = RequestRecord(request_id(scope), "other", False, time.time())
        target, query = self._api.path, scope["query_string"]
        if query:
            target += ("?" + query.decode("latin-1")).rstrip("?")
        held = Held(self._memory)
        exchange = Exchange(send, receive, record, target, scope["headers"], held, api=self._api)
        traced = self._tracing.on or PARENT in fields(scope)
        trace = self._tracing.begin(exchange.headers) if traced else None
        if trace is not None:
            exchange.trace_context, record.trace_id = trace, trace.id
            exchange.headers = trace.keep(exchange.headers)
        return exchange

    async def conclude(self, exchange: Exchange, work: Awaitable[Outcome]) -> None:
        """Do the work, whose result or error is how a request ends, and account for it."""
        bind_request(exchange.record.id, exchange.record.trace_id)
        outcome = Outcome.FAILED
        try:
            outcome = await work
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome = error.outcome
            await exchange.send_error(error)
            error.__traceback__ = None  # its frames hold it: a circle is garbage
        except MemoryError:
            outcome = NoMemoryError.outcome
            await exchange.send_error(NoMemoryError())
        except asyncio.CancelledError:  # the time to drain is over
            await exchange.send_error(NoCapacityError("The gateway is shutting down.", 1.0))
        finally:
            self.end(exchange, outcome)

    def end(self, exchange: Exchange, outcome: Outcome) -> None:
        """It has ended so."""
        record, trace = exchange.record, exchange.trace_context
        exchange.end_comments()
        exchange.held.let_go()
        if exchange.reservation is not None:
            exchange.reservation.settle(used(exchange))
        record.outcome = outcome
        self._accounts.end(record, outcome, exchange.timing(), exchange.blocks, exchange.made())
        if trace is not None and trace.recorded:
            self._tracing.end(trace, request_span(exchange, outcome))

    async def _serve(self, scope: Scope, exchange: Exchange) -> Outcome:
        return await self._read(scope, exchange, self._enter(scope, exchange))

    def _enter(self, scope: Scope, exchange: Exchange) -> Said:
        """It may come in, as far as its head tells; what that says."""
        said = said_in(scope, self._targets, self._tuning.sse_keepalive_s, exchange.record)
        exchange.held.tenant = said.tenant
        if exchange.trace_context is None:
            exchange.headers = said.headers
        if BODY not in scope:
            self._check_room(said.tenant)
        return said

    async def _read(self, scope: Scope, exchange: Exchange, said: Said) -> Outcome:
        self._take(exchange, await self._bodies.read(scope, exchange.receive, exchange.held))
        if said.encoded:  # it goes on as it was before
            exchange.headers = [pair for pair in exchange.headers if pair[0] != CONTENT_ENCODING]
        exchange.request = await self._bodies.outline(exchange.body, self._api)
        return await self._find(scope, exchange, said)

    def _take(self, exchange: Exchange, body: bytes) -> None:
        """Its body is there."""
        exchange.body = body
        exchange.received = time.monotonic()  # how long the client took to send it is its own
        self._check_room(exchange.record.tenant)
        self._accounts.begin(exchange.record)

    async def _find(self, scope: Scope, exchange: Exchange, said: Said) -> Outcome:
        """Find whom it means, and ask."""
        assert exchange.request is not None
        asked = exchange.request.model
        only, carried = await self._meant.find(exchange, scope)
        ticket = self._ask(scope, exchange, said, asked)
        ticket.only, ticket.carried = only, carried
        return await self.answer(exchange, ticket, self._attempts.begin(exchange))

    def _ask(self, scope: Scope, exchange: Exchange, said: Said, asked: str) -> Ticket:
        """What is to be placed of one that asked for a model by this name.

        Raises:
            RouterError: if it is refused.
        """
        assert exchange.request is not None
        grant: Grant | None = scope.get(GRANT)
        request, record, urgency = exchange.request, exchange.record, said.urgency
        if request.tier in TIERS:
            urgency = read_urgency(scope, self._targets, TIERS[request.tier], highest(grant))
            record.targets, exchange.tell_priority = urgency.targets, True
        if grant is not None:
            exchange.more = grant.headers
            grant.check_model(*self._names.names_of(request.model, asked))
            grant.check_claims(request.claims, self._tuning.relay)
        ticket = self._ticket(exchange, request, said.hint, urgency)
        ticket.near = scope.get(NEAR)
        session = said.session or request.session
        if session:
            ticket.session = f"{record.tenant}\0{session}"
        if grant is not None:
            exchange.reservation = grant.reserve(ticket.job.reserved_tokens)
        self._dispatcher.room.check(ticket)
        if ticket.streamed and said.keepalive_s:
            exchange.comments = Comments(exchange, said.keepalive_s)
        exchange.why = said.why
        return ticket

    async def answer(
        self, exchange: Exchange, ticket: Ticket, tries: Tries, begun: Begun | None = None
    ) -> Outcome:
        """Place it and forward it, or go on with what has `begun`.

        Raises:
            RouterError: if nobody answers it.
            ClientDisconnected: if nobody waits for that.
        """
        with DisconnectWatch(exchange.receive, exchange.send):
            outcome = await self._attempts.run(exchange, ticket, tries, begun)
            await exchange.out.drain()
            return outcome

    def _check_room(self, tenant: str) -> None:
        """Who has not sent its body yet takes no place.

        Raises:
            NoCapacityError: if nothing more is taken in.
        """
        self._drain.check()
        self._dispatcher.room.check_requests(self._accounts.here, tenant)

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
        if self._accounts.logs:
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
