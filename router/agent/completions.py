"""The agent's completion endpoints, as raw ASGI."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf

from router.agent.answers import Format, usage
from router.agent.answers import Usage as UsageObject
from router.agent.attempts import Attempts
from router.agent.engines.base import Answer, Body
from router.agent.faults import HEADER as FAULT
from router.agent.faults import parse_faults
from router.agent.loop import EngineLoop, Job, Piece
from router.agent.queue_position import read_hint, read_standing
from router.agent.request_trace import Visit, begin_visit, end_visit
from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    respond,
    respond_error,
)
from router.http.drain import Drain
from router.http.errors import (
    EngineFailed,
    ExpiredError,
    Headers,
    NoCapacityError,
    Outcome,
    RequestError,
    RouterError,
    sse_error,
)
from router.http.schemas import CompletionRequest, load, read
from router.http.usage import ResponseInfo, Usage
from router.observe.metrics import AgentMetrics
from router.observe.tracing import Tracing
from router.settings.agent import AgentSettings
from router.wire import ATTEMPT, RECALLED, REQUEST_ID, WORKER

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 64 << 20  # the gateway's limit is the one that users meet


class Completions:
    """``/v1/completions`` or ``/v1/chat/completions`` of one engine."""

    def __init__(
        self,
        settings: AgentSettings,
        loop: EngineLoop,
        attempts: Attempts,
        metrics: AgentMetrics,
        drain: Drain,
        tracing: Tracing,
        *,
        chat: bool,
    ) -> None:
        self._settings, self._loop, self._metrics = settings, loop, metrics
        self._attempts, self._drain, self._chat = attempts, drain, chat
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        visit = begin_visit(self._tracing, scope, self._settings.name, chat=self._chat)
        outcome = Outcome.FAILED
        try:
            outcome = await self._answer(scope, receive, send, visit)
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome, visit.status, visit.error = error.outcome, error.status, str(error)
            visit.ended_s = time.time()
            own = [(RECALLED, b"1")] if outcome is Outcome.RECALLED else []
            await respond_error(send, error, [*own, *self._headers(scope)])
        except asyncio.CancelledError:
            log.warning("cut short, as the time to drain is over")
        finally:
            self._metrics.requests.labels(self._settings.model, outcome.value).inc()
            end_visit(self._tracing, visit, outcome)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> Outcome:
        if self._drain.begun:
            raise NoCapacityError("This worker is shutting down.", retry_after_s=1.0)
        if self._loop.broken:
            raise NoCapacityError("This worker's engine has broken down.", retry_after_s=10.0)
        body = await read_body(scope, receive, MOST_BODY_BYTES)
        data = load(body)
        request = read(data, chat=self._chat)
        visit.request = request
        answers = self._prepare(request, data)
        prompt_tokens = sum(answer.prompt_tokens for answer in answers) // request.n
        faults = parse_faults(header(scope, FAULT) if self._settings.faults else None)
        job = Job(answers, prompt_tokens, faults, request.n, visit.course)
        form = Format(request, self._settings.model, self._loop.engine.name)
        hint, standing = read_hint(scope), read_standing(scope)
        name = (header(scope, ATTEMPT) or b"").decode("latin-1") or None
        async with DisconnectWatch(receive):
            await faults.strike()
            ids = self._loop.submit(job, hint, time.monotonic(), standing)
            try:
                with self._attempts.known(name, ids), self._until(standing.deadline_s, ids):
                    answer = self._stream if request.stream else self._whole
                    return await answer(send, scope, job, form, visit)
            finally:
                self._loop.cancel(ids)

    @contextmanager
    def _until(self, deadline_s: float, ids: list[str]) -> Iterator[None]:
        """Should it not have begun by then, it has expired."""
        if deadline_s == inf:
            yield
            return
        expire = partial(self._loop.withdraw, ids, ExpiredError())
        alarm = asyncio.get_running_loop().call_later(deadline_s, expire)
        try:
            yield
        finally:
            alarm.cancel()

    def _prepare(self, request: CompletionRequest, body: Body) -> list[Answer]:
        """One answer a choice; refuses what could never fit."""
        if request.model != self._settings.model:
            raise RequestError(
                f"The model '{request.model}' does not exist; this worker serves "
                f"'{self._settings.model}'.",
                param="model",
                code="model_not_found",
                status=404,
            )

        def limit(prompt_tokens: int) -> int:
            left = self._settings.max_model_len - prompt_tokens
            most = request.output_limit(max(1, left))
            if most > left:
                raise self._too_long(prompt_tokens, most)
            return most

        return self._loop.engine.answers(request, body, limit)

    def _too_long(self, prompt_tokens: int, limit: int) -> RequestError:
        return RequestError(
            f"This model's maximum context length is {self._settings.max_model_len} tokens; the "
            f"request has {prompt_tokens} in its prompt and asks for {limit} more.",
            param="messages" if self._chat else "prompt",
            code="context_length_exceeded",
        )

    async def _stream(
        self, send: Send, scope: Scope, job: Job, form: Format, visit: Visit
    ) -> Outcome:
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        headers = [kind, (b"cache-control", b"no-cache"), *self._headers(scope)]
        left, made = len(job.answers), 0
        started = False
        while left:
            try:
                pieces = await job.take()
            except EngineFailed as error:
                if not started:
                    raise
                visit.error = str(error)
                await send({"type": "http.response.body", "body": sse_error(error)})
                return error.outcome
            if not started:
                start = {"type": "http.response.start", "status": 200, "headers": headers}
                await send(start)
                started = True
            made += len(pieces)
            left -= sum(piece.token.finish_reason is not None for piece in pieces)
            event = {"type": "http.response.body", "body": form.chunk(pieces), "more_body": True}
            await send(event)
        self._answered(visit, job, made, form)
        end = form.end(self._usage(job, made))
        await send({"type": "http.response.body", "body": end})
        return Outcome.COMPLETED

    async def _whole(
        self, send: Send, scope: Scope, job: Job, form: Format, visit: Visit
    ) -> Outcome:
        pieces: list[Piece] = []
        left = len(job.answers)
        while left:
            new = await job.take()
            pieces += new
            left -= sum(piece.token.finish_reason is not None for piece in new)
        self._answered(visit, job, len(pieces), form)
        body = form.whole(pieces, self._usage(job, len(pieces)))
        kind = (b"content-type", b"application/json")
        await respond(send, 200, [kind, *self._headers(scope)], body)
        return Outcome.COMPLETED

    def _answered(self, visit: Visit, job: Job, made: int, form: Format) -> None:
        """All tokens are there."""
        if visit.recorded:
            reasons = tuple(reason for _, reason in sorted(visit.course.reasons.items()))
            usage = Usage(job.prompt_tokens, made, job.cached_tokens // job.n)
            visit.answered(usage, ResponseInfo(form.id, self._settings.model, reasons))

    def _usage(self, job: Job, made: int) -> UsageObject:
        return usage(job.prompt_tokens, made, job.cached_tokens // job.n)

    def _headers(self, scope: Scope) -> Headers:
        headers = [(WORKER, self._settings.name.encode())]
        request_id = header(scope, REQUEST_ID)
        if request_id is not None:
            headers.append((REQUEST_ID, request_id))
        return headers
