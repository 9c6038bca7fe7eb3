"""The sidecar's completion endpoints: hold, forward, follow."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, suppress

from router.agent.attempts import Attempts
from router.agent.endpoint import ClientResponse, Endpoint, attempt_of
from router.agent.gateways import Gateways
from router.agent.queue_position import read_hint, read_queue_position
from router.agent.request_trace import (
    RequestTimings,
    RequestTrace,
)
from router.agent.sidecar.engine import Engine
from router.agent.sidecar.gate import Gate, PendingRelease
from router.agent.sidecar.proxy import target_of
from router.agent.sidecar.sizing import RequestSizer
from router.agent.sidecar.stream_parser import NamedEvents, StreamEvent, StreamParser
from router.agent.sidecar.upstream import PendingRequest, Upstream
from router.http.apis import Api
from router.http.asgi import (
    DisconnectWatch,
    Receive,
    Scope,
)
from router.http.bodies import BodyReader
from router.http.connections import Reply
from router.http.drain import Drain
from router.http.errors import (
    Outcome,
    RequestError,
    outcome_of_status,
)
from router.http.event_meter import EventMeter
from router.http.schemas import CompletionRequest
from router.http.usage import JsonMeter, Usage
from router.observe.metrics import AgentMetrics
from router.observe.tracing import Tracing


class Completions(Endpoint):
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
        super().__init__(name, attempts, gateways, metrics, drain, tracing, api)
        self._upstream, self._engine = upstream, engine
        self._gate, self._sizer, self._bodies = gate, sizer, bodies

    @property
    def _model(self) -> str:
        return self._upstream.model

    async def _serve(
        self, scope: Scope, receive: Receive, answer: ClientResponse, trace: RequestTrace
    ) -> Outcome:
        self._upstream.check()
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
        name = attempt_of(scope)
        with DisconnectWatch(receive, answer.send), self._upstream.pending() as pending:
            self._gateways.check_room(name, self._engine.stats.slots)
            held = self._gate.hold(sized)
            try:
                with self._holding(name, held):
                    with self._attempts.register(name, [sized.id], position.deadline_s):
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

    async def _forward(
        self,
        scope: Scope,
        body: bytes,
        answer: ClientResponse,
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
        answer: ClientResponse,
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
                await answer.begin(reply.status, reply.headers, streaming=reply.is_stream)
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
            await answer.begin(reply.status, reply.headers, streaming=reply.is_stream)
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
