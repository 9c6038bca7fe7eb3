"""The agent's completion endpoints, as raw ASGI."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import inf

from router.agent.answers import AnswerFormatter, usage
from router.agent.answers import Usage as UsageObject
from router.agent.attempts import Attempts
from router.agent.conversations import Body, Form, Formatter
from router.agent.engines.base import Answer
from router.agent.faults import HEADER as FAULT
from router.agent.faults import parse_faults
from router.agent.gateways import Gateways
from router.agent.loop import ChoiceOutput, EngineLoop, EngineRequest
from router.agent.queue_position import read_hint, read_queue_position
from router.agent.request_trace import RequestTrace, begin_request_trace, end_request_trace
from router.http.apis import Api
from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    respond,
)
from router.http.bodies import check_json
from router.http.drain import Drain
from router.http.errors import (
    EngineFailed,
    ExpiredError,
    Headers,
    NoCapacityError,
    Outcome,
    RequestError,
    RouterError,
)
from router.http.schemas import CompletionRequest, load, read
from router.http.usage import ResponseInfo, Usage
from router.kv_wire import SESSION, wants_full_report
from router.observe.metrics import AgentMetrics
from router.observe.tracing import Tracing
from router.settings.agent import AgentSettings
from router.wire import ATTEMPT, RECALLED, REQUEST_ID, WORKER

log = logging.getLogger(__name__)

MOST_BODY_BYTES = 64 << 20  # the gateway's limit is the one that users meet


class Completions:
    """One of the planned paths of one engine; `form`, where it is not a chat's own."""

    def __init__(
        self,
        settings: AgentSettings,
        loop: EngineLoop,
        attempts: Attempts,
        gateways: Gateways,
        metrics: AgentMetrics,
        drain: Drain,
        tracing: Tracing,
        api: Api,
        form: Form | None = None,
    ) -> None:
        self._api, self._form = api, form
        self._settings, self._loop, self._metrics = settings, loop, metrics
        self._attempts, self._drain = attempts, drain
        self._tracing, self._gateways = tracing, gateways

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        trace = begin_request_trace(self._tracing, scope, self._settings.name, chat=self._api.chat)
        outcome = Outcome.FAILED
        try:
            outcome = await self._answer(scope, receive, send, trace)
        except ClientDisconnected:
            outcome = Outcome.CANCELLED
        except RouterError as error:
            outcome, trace.status, trace.error = error.outcome, error.status, str(error)
            trace.ended_s = time.time()
            own = [(RECALLED, b"1")] if outcome is Outcome.RECALLED else []
            name = (header(scope, REQUEST_ID) or b"").decode("latin-1")
            headers = [*error.headers(), *own, *self._headers(scope)]
            await respond(send, error.status, headers, self._api.error(error, name))
        except asyncio.CancelledError:
            log.warning("cut short, as the time to drain is over")
        finally:
            self._metrics.requests.labels(self._settings.model, outcome.value).inc()
            end_request_trace(self._tracing, trace, outcome)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, trace: RequestTrace
    ) -> Outcome:
        if self._drain.begun:
            raise NoCapacityError("This worker is shutting down.", retry_after_s=1.0)
        if self._loop.broken:
            raise NoCapacityError("This worker's engine has broken down.", retry_after_s=10.0)
        check_json(scope)
        data = load(await read_body(scope, receive, MOST_BODY_BYTES))
        if data.get("model") is None:
            data["model"] = self._settings.model
        if self._form is not None:
            data = self._form.to_chat(data)
        request = read(data, chat=self._api.chat)
        trace.request = request
        answers = self._prepare(request, data)
        prompt_tokens = sum(answer.prompt_tokens for answer in answers) // request.n
        faults = parse_faults(header(scope, FAULT) if self._settings.faults else None)
        session = header(scope, SESSION)
        engine_request = EngineRequest(
            answers,
            prompt_tokens,
            faults,
            request.n,
            trace.timings,
            None if session is None else session.decode("latin-1"),
            full_report=wants_full_report(data),
        )
        formatter = self._formatter(request, data, prompt_tokens)
        hint, position = read_hint(scope), read_queue_position(scope)
        name = (header(scope, ATTEMPT) or b"").decode("latin-1") or None
        with DisconnectWatch(receive, send):
            await faults.inject()
            self._gateways.check_room(name, self._loop.stats.slots)
            ids = self._loop.submit(engine_request, hint, time.monotonic(), position)
            try:
                with (
                    self._attempts.register(name, ids),
                    self._holding(name, engine_request, hint),
                    self._until(position.deadline_s, ids),
                ):
                    answer = self._stream if request.stream else self._full
                    return await answer(send, scope, engine_request, formatter, trace)
            finally:
                self._loop.cancel(ids)

    def _formatter(self, request: CompletionRequest, body: Body, prompt_tokens: int) -> Formatter:
        model, engine = self._settings.model, self._loop.engine.name
        if self._form is None:
            return AnswerFormatter(request, model, engine)
        return self._form.formatter(body, model, engine, prompt_tokens)

    def _holding(
        self, name: str | None, engine_request: EngineRequest, hint: float | None
    ) -> AbstractContextManager[None]:
        """It is here, from the gateway that its name tells."""
        answers = engine_request.answers
        expected = sum(min(hint or answer.limit, answer.limit) for answer in answers)
        prompt = sum(answer.prompt_tokens for answer in answers)
        return self._gateways.hold(
            name, len(answers), prompt, expected, lambda: engine_request.made
        )

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
            param=self._api.field,
            code="context_length_exceeded",
        )

    async def _stream(
        self,
        send: Send,
        scope: Scope,
        engine_request: EngineRequest,
        formatter: Formatter,
        trace: RequestTrace,
    ) -> Outcome:
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        headers = [kind, (b"cache-control", b"no-cache"), *self._headers(scope)]
        left, made = len(engine_request.answers), 0
        started = False
        while left:
            try:
                outputs = await engine_request.take()
            except EngineFailed as error:
                if not started:
                    raise
                trace.error = str(error)
                name = (header(scope, REQUEST_ID) or b"").decode("latin-1")
                last = self._api.last_event(error, made, name)
                await send({"type": "http.response.body", "body": last})
                return error.outcome
            if not started:
                start = {"type": "http.response.start", "status": 200, "headers": headers}
                await send(start)
                started = True
            made += len(outputs)
            left -= sum(output.token.finish_reason is not None for output in outputs)
            event = {
                "type": "http.response.body",
                "body": formatter.chunk(outputs),
                "more_body": True,
            }
            await send(event)
        self._answered(trace, engine_request, made, formatter)
        end = formatter.end(self._usage(engine_request, made))
        await send({"type": "http.response.body", "body": end})
        return Outcome.COMPLETED

    async def _full(
        self,
        send: Send,
        scope: Scope,
        engine_request: EngineRequest,
        formatter: Formatter,
        trace: RequestTrace,
    ) -> Outcome:
        outputs: list[ChoiceOutput] = []
        left = len(engine_request.answers)
        while left:
            new = await engine_request.take()
            outputs += new
            left -= sum(output.token.finish_reason is not None for output in new)
        self._answered(trace, engine_request, len(outputs), formatter)
        body = formatter.full(outputs, self._usage(engine_request, len(outputs)))
        kind = (b"content-type", b"application/json")
        await respond(send, 200, [kind, *self._headers(scope)], body)
        return Outcome.COMPLETED

    def _answered(
        self,
        trace: RequestTrace,
        engine_request: EngineRequest,
        made: int,
        formatter: Formatter,
    ) -> None:
        """All tokens are there."""
        if trace.recorded:
            reasons = tuple(reason for _, reason in sorted(trace.timings.reasons.items()))
            usage = Usage(
                engine_request.prompt_tokens, made, engine_request.cached_tokens // engine_request.n
            )
            trace.answered(usage, ResponseInfo(formatter.id, self._settings.model, reasons))

    def _usage(self, engine_request: EngineRequest, made: int) -> UsageObject:
        return usage(
            engine_request.prompt_tokens, made, engine_request.cached_tokens // engine_request.n
        )

    def _headers(self, scope: Scope) -> Headers:
        headers = [(WORKER, self._settings.name.encode())]
        request_id = header(scope, REQUEST_ID)
        if request_id is not None:
            headers += self._api.named(request_id.decode("latin-1"))
        return headers
