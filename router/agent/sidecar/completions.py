"""The sidecar's completion endpoints, as raw ASGI: hold, forward, follow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf

from router.agent.attempts import Attempts
from router.agent.queue_position import read_hint, read_standing
from router.agent.request_trace import Course, Visit, begin_visit, end_visit
from router.agent.sidecar.engine import Engine
from router.agent.sidecar.gate import Gate, Pass
from router.agent.sidecar.held import Asks
from router.agent.sidecar.proxy import MOST_BODY_BYTES, target_of
from router.agent.sidecar.stream_progress import Follower, Heard
from router.agent.sidecar.upstream import Need, Upstream
from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    respond_error,
)
from router.http.connections import Reply
from router.http.drain import Drain
from router.http.errors import (
    ExpiredError,
    Headers,
    NoCapacityError,
    Outcome,
    RouterError,
    outcome_of_status,
    sse_error,
)
from router.http.usage import JsonMeter, StreamMeter, Usage
from router.observe.metrics import AgentMetrics
from router.observe.tracing import Tracing
from router.wire import ATTEMPT, RECALLED, REQUEST_ID, WORKER

log = logging.getLogger(__name__)

DOWN_S = 2.0  # when to come back to a sidecar whose server is down


@dataclass(slots=True)
class _Answer:
    """What has gone back to the client so far."""

    send: Send
    own: Headers
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

    async def send_error(self, error: RouterError) -> None:
        """The error as a response, or at the end of a stream that has begun."""
        if not self.begun:
            recalled = [(RECALLED, b"1")] if error.outcome is Outcome.RECALLED else []
            await respond_error(self.send, error, [*recalled, *self.own])
        elif self.streaming:
            await self.send({"type": "http.response.body", "body": sse_error(error)})
        else:
            log.warning("answer cut short")
            raise error  # the server closes the connection: half a JSON body is no answer


class Completions:
    """``/v1/completions`` or ``/v1/chat/completions`` of the upstream."""

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        engine: Engine,
        gate: Gate,
        asks: Asks,
        attempts: Attempts,
        metrics: AgentMetrics,
        drain: Drain,
        tracing: Tracing,
        *,
        chat: bool,
    ) -> None:
        self._name, self._upstream, self._engine = name, upstream, engine
        self._gate, self._asks, self._chat = gate, asks, chat
        self._attempts, self._metrics, self._drain = attempts, metrics, drain
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = _Answer(send, self._headers(scope))
        visit = begin_visit(self._tracing, scope, self._name, chat=self._chat)
        outcome = Outcome.FAILED
        try:
            outcome = await self._serve(scope, receive, answer, visit)
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome, visit.status, visit.error = error.outcome, error.status, str(error)
            visit.ended_s = time.time()
            await answer.send_error(error)
        except asyncio.CancelledError:  # the time to drain is over
            await answer.send_error(NoCapacityError("This worker is shutting down.", 1.0))
        finally:
            self._metrics.requests.labels(self._upstream.model, outcome.value).inc()
            end_visit(self._tracing, visit, outcome)

    async def _serve(
        self, scope: Scope, receive: Receive, answer: _Answer, visit: Visit
    ) -> Outcome:
        if self._drain.begun:
            raise NoCapacityError("This worker is shutting down.", retry_after_s=1.0)
        if not self._upstream.up:
            raise NoCapacityError("This worker's engine is down.", retry_after_s=DOWN_S)
        body = await read_body(scope, receive, MOST_BODY_BYTES)
        standing = read_standing(scope)
        ask, request = self._asks.make(
            body,
            chat=self._chat,
            hint=read_hint(scope),
            standing=standing,
            now=time.monotonic(),
            most=self._engine.max_model_len,
        )
        visit.expect(request)
        name = (header(scope, ATTEMPT) or b"").decode("latin-1") or None
        async with DisconnectWatch(receive):
            with self._upstream.needed() as need:
                one = self._gate.hold(ask)
                try:
                    with (
                        self._attempts.known(name, [ask.id]),
                        self._until(standing.deadline_s, one),
                    ):
                        await one.released
                    visit.course.begin(time.monotonic())
                    return await self._forward(scope, body, answer, one, need, visit)
                finally:
                    self._gate.leave(one)

    @contextmanager
    def _until(self, deadline_s: float, one: Pass) -> Iterator[None]:
        """Should it not have been released by then, it has expired."""
        if deadline_s == inf:
            yield
            return
        expire = partial(self._gate.withdraw, [one.ask.id], ExpiredError())
        alarm = asyncio.get_running_loop().call_later(deadline_s, expire)
        try:
            yield
        finally:
            alarm.cancel()

    async def _forward(
        self,
        scope: Scope,
        body: bytes,
        answer: _Answer,
        one: Pass,
        need: Need,
        visit: Visit,
    ) -> Outcome:
        headers = visit.outgoing(scope["headers"])
        target = target_of(scope)
        reply = await self._upstream.send(need, "POST", target, headers, body, plain=True)
        try:
            visit.status, visit.course.shown = reply.status, reply.is_stream
            usage = await self._relay(reply, answer, one, need, visit)
            if reply.status == 200:
                self._asks.learn(visit.request, usage)
            return outcome_of_status(reply.status)
        finally:
            reply.close()

    async def _relay(
        self, reply: Reply, answer: _Answer, one: Pass, need: Need, visit: Visit
    ) -> Usage | None:
        """Pass the answer on as it comes, and tell the gate of its tokens."""
        follower, meter = Follower(), StreamMeter() if reply.is_stream else JsonMeter()
        async for chunk in reply.chunks():
            self._upstream.heard()
            if not answer.begun:
                self._upstream.answered(need)
                await answer.begin(reply)
            if reply.is_stream:
                self._tell(one, follower.feed(chunk), visit.course)
                if follower.done:  # the connection's end may come a turn of the event loop later
                    self._gate.leave(one)
            if not reply.is_stream or visit.recorded:
                meter.feed(chunk)
            visit.ended_s = time.time()  # this may be the last the client waits for
            await answer.pass_on(chunk)
        usage = follower.usage if reply.is_stream else meter.usage()
        if usage is not None and not reply.is_stream:
            each = usage.completion_tokens // len(one.ask.sequences)
            for index in range(len(one.ask.sequences)):
                self._gate.end(one, index, each)
        self._gate.leave(one)  # the server is done with it, even if its client reads on for long
        if not answer.begun:
            self._upstream.answered(need)
            await answer.begin(reply)
        if reply.status == 200 and visit.recorded:
            visit.answered(meter.usage(), meter.response_info())
        await answer.finish()
        return usage

    def _tell(self, one: Pass, heard: list[Heard], course: Course) -> None:
        """First what was made, then what the engine counted, then who has ended."""
        now = time.monotonic()
        for event in heard:
            if event.tokens:
                course.prefilled(now)
                course.token(now)
            if event.index >= 0:
                self._gate.hear(one, event.index, event.tokens)
            if event.usage is not None:
                self._gate.correct(one, event.usage.completion_tokens)
        for event in heard:
            if event.ended:
                self._gate.end(one, event.index)

    def _headers(self, scope: Scope) -> Headers:
        headers = [(WORKER, self._name.encode())]
        request_id = header(scope, REQUEST_ID)
        if request_id is not None:
            headers.append((REQUEST_ID, request_id))
        return headers
