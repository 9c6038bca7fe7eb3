"""The sidecar's completion endpoints, as raw ASGI: hold, forward, follow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf

from router.agent.attempts import Attempts
from router.agent.gateways import Gateways
from router.agent.queue_position import read_hint, read_queue_position
from router.agent.request_trace import (
    RequestTimings,
    RequestTrace,
    begin_request_trace,
    end_request_trace,
)
from router.agent.sidecar.engine import Engine
from router.agent.sidecar.gate import Gate, PendingRelease
from router.agent.sidecar.proxy import target_of
from router.agent.sidecar.sizing import RequestSizer
from router.agent.sidecar.stream_parser import NamedEvents, StreamEvent, StreamParser
from router.agent.sidecar.upstream import PendingRequest, Upstream
from router.http.apis import Api
from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    header,
    respond,
)
from router.http.bodies import BodyReader
from router.http.connections import Reply
from router.http.drain import Drain
from router.http.errors import (
    ExpiredError,
    Headers,
    NoCapacityError,
    Outcome,
    RequestError,
    RouterError,
    outcome_of_status,
)
from router.http.event_meter import EventMeter
from router.http.schemas import CompletionRequest
from router.http.usage import JsonMeter, Usage
from router.observe.metrics import AgentMetrics
from router.observe.tracing import Tracing
from router.wire import ATTEMPT, RECALLED, REQUEST_ID, WORKER

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2.0  # when to come back to a sidecar whose server is down


@dataclass(slots=True)
class _ClientResponse:
    """What has gone back to the client so far."""

    send: Send
    own: Headers
    api: Api
    begun: bool = field(default=False, init=False)
    streaming: bool = field(default=False, init=False)

    async def begin(self, reply: Reply) -> None:
        """The head, as it came, with the worker's own name."""
        names = {name for name, _ in self.own}
        headers = [pair for pair in reply.headers if pair[0] not in names]
        self.begun, self.streaming = True, reply.is_stream
        start = {"type": "http.response.start", "status": reply.status}
        await self.send({**start, "headers": [*headers, *self.own]})

    async def pass_on(self, chunk: bytes) -> None:
        """Some bytes of the body."""
        await self.send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self) -> None:
        """The body is complete."""
        await self.send({"type": "http.response.body", "body": b""})

    @property
    def name(self) -> str:
        """The request's, as its answer tells it; empty if it has none."""
        found = next((value for name, value in self.own if name == REQUEST_ID), b"")
        return found.decode("latin-1")

    async def send_error(self, error: RouterError) -> None:
        """The error as a response, or at the end of a stream that has begun."""
        if not self.begun:
            recalled = [(RECALLED, b"1")] if error.outcome is Outcome.RECALLED else []
            headers = [*error.headers(), *recalled, *self.own]
            body = self.api.error(error, self.name)
            await respond(self.send, error.status, headers, body)
        elif self.streaming:
            event = self.api.last_event(error, 0, self.name)
            await self.send({"type": "http.response.body", "body": event})
        else:
            log.warning("answer cut short")
            raise error  # the server closes the connection: half a JSON body is no answer


class Completions:
    """One of the upstream's paths that are planned."""

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        engine: Engine,
        gate: Gate,
        sizer: RequestSizer,
        attempts: Attempts,
        gateways: Gateways,
        bodies: BodyReader,
        metrics: AgentMetrics,
        drain: Drain,
        tracing: Tracing,
        api: Api,
    ) -> None:
        self._name, self._upstream, self._engine = name, upstream, engine
        self._gate, self._sizer, self._api = gate, sizer, api
        self._attempts, self._metrics, self._drain = attempts, metrics, drain
        self._tracing, self._bodies, self._gateways = tracing, bodies, gateways

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = _ClientResponse(send, self._headers(scope), self._api)
        trace = begin_request_trace(self._tracing, scope, self._name, chat=self._api.chat)
        outcome = Outcome.FAILED
        try:
            outcome = await self._serve(scope, receive, answer, trace)
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome, trace.status, trace.error = error.outcome, error.status, str(error)
            trace.ended_s = time.time()
            await answer.send_error(error)
        except asyncio.CancelledError:  # the time to drain is over
            await answer.send_error(NoCapacityError("This worker is shutting down.", 1.0))
        finally:
            self._metrics.requests.labels(self._upstream.model, outcome.value).inc()
            end_request_trace(self._tracing, trace, outcome)

    async def _serve(
        self, scope: Scope, receive: Receive, answer: _ClientResponse, trace: RequestTrace
    ) -> Outcome:
        if self._drain.begun:
            raise NoCapacityError("This worker is shutting down.", retry_after_s=1.0)
        if not self._upstream.up:
            raise NoCapacityError("This worker's engine is down.", retry_after_s=RETRY_AFTER_S)
        body = await self._bodies.read(scope, receive)
        position = read_queue_position(scope)
        request = await self._outline(body)
        sized = self._sizer.size(
            request,
            hint=read_hint(scope),
            position=position,
            now=time.monotonic(),
            most=self._engine.max_model_len,
        )
        trace.expect(request)
        name = (header(scope, ATTEMPT) or b"").decode("latin-1") or None
        with DisconnectWatch(receive, answer.send), self._upstream.pending() as pending:
            self._gateways.check_room(name, self._engine.stats.slots)
            held = self._gate.hold(sized)
            try:
                with self._holding(name, held):
                    with (
                        self._attempts.register(name, [sized.id]),
                        self._until(position.deadline_s, held),
                    ):
                        await held.released
                    trace.timings.begin(time.monotonic())
                    return await self._forward(scope, body, answer, held, pending, trace)
            finally:
                self._gate.remove(held)

    async def _outline(self, body: bytes) -> CompletionRequest | None:
        with suppress(RequestError):
            return await self._bodies.outline(body, self._api)
        return None

    def _holding(self, name: str | None, held: PendingRelease) -> AbstractContextManager[None]:
        """It is here, from the gateway that its name tells."""
        sequences = held.request.sequences
        prompt = sum(one.prompt_tokens for one in sequences)
        expected = sum(one.expected_tokens for one in sequences)
        return self._gateways.hold(name, len(sequences), prompt, expected, lambda: held.made)

    @contextmanager
    def _until(self, deadline_s: float, held: PendingRelease) -> Iterator[None]:
        """Should it not have been released by then, it has expired."""
        if deadline_s == inf:
            yield
            return
        expire = partial(self._gate.withdraw, [held.request.id], ExpiredError())
        alarm = asyncio.get_running_loop().call_later(deadline_s, expire)
        try:
            yield
        finally:
            alarm.cancel()

    async def _forward(
        self,
        scope: Scope,
        body: bytes,
        answer: _ClientResponse,
        held: PendingRelease,
        pending: PendingRequest,
        trace: RequestTrace,
    ) -> Outcome:
        headers = trace.outgoing(scope["headers"])
        target = target_of(scope)
        if trace.request is not None:
            body = self._engine.told(body, held.request.sequences[0].priority)
        reply = await self._upstream.send(pending, "POST", target, headers, body, plain=True)
        try:
            trace.status, trace.timings.phases_visible = reply.status, reply.is_stream
            usage = await self._relay(reply, answer, held, pending, trace)
            if reply.status == 200:
                self._sizer.learn(trace.request, usage)
            return outcome_of_status(reply.status)
        finally:
            reply.close()

    async def _relay(
        self,
        reply: Reply,
        answer: _ClientResponse,
        held: PendingRelease,
        pending: PendingRequest,
        trace: RequestTrace,
    ) -> Usage | None:
        """Pass the answer on as it comes, and tell the gate of its tokens."""
        parser = NamedEvents() if self._api.meter is EventMeter else StreamParser()
        meter = self._api.meter() if reply.is_stream else JsonMeter()
        async for chunk in reply.chunks():
            self._upstream.saw_bytes()
            if not answer.begun:
                self._upstream.answered(pending)
                await answer.begin(reply)
            if reply.is_stream:
                self._count_events(held, parser.feed(chunk), trace.timings)
                if parser.done:  # the connection's end may come a turn of the event loop later
                    self._gate.remove(held)
            if not reply.is_stream or trace.recorded:
                meter.feed(chunk)
            trace.ended_s = time.time()  # this may be the last the client waits for
            await answer.pass_on(chunk)
        usage = parser.usage if reply.is_stream else meter.usage()
        if usage is not None and not reply.is_stream:
            each = usage.completion_tokens // len(held.request.sequences)
            for index in range(len(held.request.sequences)):
                self._gate.end(held, index, each)
        self._gate.remove(held)  # the server is done with it, even if its client reads on for long
        if not answer.begun:
            self._upstream.answered(pending)
            await answer.begin(reply)
        if reply.status == 200 and trace.recorded:
            trace.answered(meter.usage(), meter.response_info())
        await answer.finish()
        return usage

    def _count_events(
        self, held: PendingRelease, events: list[StreamEvent], timings: RequestTimings
    ) -> None:
        """First what was made, then what the engine counted, then who has ended."""
        now = time.monotonic()
        for event in events:
            if event.tokens:
                timings.prefilled(now)
                timings.token(now)
            if event.index >= 0:
                self._gate.add_tokens(held, event.index, event.tokens)
            if event.usage is not None:
                self._gate.correct(held, event.usage.completion_tokens)
        for event in events:
            if event.ended:
                self._gate.end(held, event.index)

    def _headers(self, scope: Scope) -> Headers:
        headers = [(WORKER, self._name.encode())]
        request_id = header(scope, REQUEST_ID)
        if request_id is not None:
            headers += self._api.named(request_id.decode("latin-1"))
        return headers
