"""The completion endpoints of an agent whose engine is its own."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from router.agent.answers import AnswerFormatter, usage
from router.agent.answers import Usage as UsageObject
from router.agent.attempts import Attempts
from router.agent.conversations import Body, Form, Formatter
from router.agent.endpoint import MOST_BODY_BYTES, ClientResponse, Endpoint, attempt_of
from router.agent.engines.base import Answer
from router.agent.faults import HEADER as FAULT
from router.agent.faults import parse_faults
from router.agent.gateways import Gateways
from router.agent.loop import ChoiceOutput, EngineLoop, EngineRequest
from router.agent.queue_position import read_hint, read_queue_position
from router.agent.request_trace import RequestTrace
from router.http.apis import Api
from router.http.asgi import (
    DisconnectWatch,
    Receive,
    Scope,
    header,
    read_body,
    respond,
)
from router.http.bodies import check_json
from router.http.drain import Drain
from router.http.errors import (
    NoCapacityError,
    Outcome,
    RequestError,
)
from router.http.schemas import CompletionRequest, load, read
from router.http.usage import ResponseInfo, Usage
from router.kv_wire import SESSION, wants_full_report
from router.observe.metrics import AgentMetrics
from router.observe.tracing import Tracing
from router.settings.agent import AgentSettings


class Completions(Endpoint):
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
        super().__init__(settings.name, attempts, gateways, metrics, drain, tracing, api)
        self._settings, self._loop, self._form = settings, loop, form

    @property
    def _model(self) -> str:
        return self._settings.model

    async def _serve(
        self, scope: Scope, receive: Receive, answer: ClientResponse, trace: RequestTrace
    ) -> Outcome:
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
        name = attempt_of(scope)
        with DisconnectWatch(receive, answer.send):
            await faults.inject()
            self._gateways.check_room(name, self._loop.stats.slots)
            ids = self._loop.submit(engine_request, hint, time.monotonic(), position)
            try:
                with (
                    self._attempts.register(name, ids, position.deadline_s),
                    self._holding(name, engine_request, hint),
                ):
                    say = self._stream if request.stream else self._full
                    return await say(answer, engine_request, formatter, trace)
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
        answer: ClientResponse,
        engine_request: EngineRequest,
        formatter: Formatter,
        trace: RequestTrace,
    ) -> Outcome:
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        left = len(engine_request.answers)
        while left:
            outputs = await engine_request.take()
            if not answer.begun:
                await answer.begin(200, [kind, (b"cache-control", b"no-cache")], streaming=True)
            answer.events += len(outputs)
            left -= sum(output.token.finish_reason is not None for output in outputs)
            await answer.pass_on(formatter.chunk(outputs))
        self._answered(trace, engine_request, answer.events, formatter)
        await answer.finish(formatter.end(self._usage(engine_request, answer.events)))
        return Outcome.COMPLETED

    async def _full(
        self,
        answer: ClientResponse,
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
        await respond(answer.send, 200, [kind, *answer.own], body)
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
