"""The pages that agents have beside completions."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from router.agent.attempts import Attempts
from router.agent.cache_events import CacheEvents
from router.agent.engines.base import Engine
from router.agent.gateways import Gateways
from router.agent.messages import Messages
from router.agent.reporter import Reporter
from router.agent.responses import Responses
from router.http.apis import MESSAGES
from router.http.bodies import check_json
from router.http.drain import Drain
from router.http.errors import ModelNotFoundError, RequestError
from router.http.schemas import load, read
from router.kv_wire import SOURCES_PATH
from router.observe.metrics import CONTENT_TYPE
from router.settings.agent import AgentSettings
from router.wire import (
    GATEWAY,
    RECALL_PATH,
    SLOTS_PATH,
    STATE_EVERY_S,
    STATE_PATH,
    WANT_PATH,
    Recall,
    Want,
    WireError,
)


def add_routes(
    app: FastAPI,
    attempts: Attempts,
    gateways: Gateways,
    reporter: Reporter,
    drain: Drain,
    down: str,
) -> None:
    """Health, metrics, state and recall; `down` is what to say where the engine cannot serve."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not reporter.healthy:
            raise HTTPException(503, down)
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if drain.begun:
            raise HTTPException(503, "shutting down")
        return await health()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(reporter.render(), media_type=CONTENT_TYPE)

    @app.get(STATE_PATH)
    async def state(request: Request) -> StreamingResponse:
        """Without its engine the agent has no state that a gateway could plan with."""
        await health()
        lines = reporter.stream(request.headers.get(GATEWAY.decode()))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @app.get(SLOTS_PATH)
    async def slots(
        every_s: Annotated[float, Query(ge=STATE_EVERY_S, le=10)] = 0.25,
    ) -> StreamingResponse:
        """What its slots do, for as long as somebody listens."""
        await health()
        return StreamingResponse(reporter.slots(every_s), media_type="application/x-ndjson")

    _add_queue(app, attempts, gateways)


def _add_queue(app: FastAPI, attempts: Attempts, gateways: Gateways) -> None:
    @app.post(WANT_PATH)
    async def want(request: Request) -> Response:
        """A gateway's requests wait for room here."""
        check_json(request.scope)
        try:
            wanted = Want.decode(await request.body())
        except WireError as error:
            raise HTTPException(400, str(error)) from error
        gateways.want(request.headers.get(GATEWAY.decode(), ""), wanted)
        return Response(status_code=204)

    @app.post(RECALL_PATH)
    async def recall(request: Request) -> Response:
        """Give back those that have not begun."""
        check_json(request.scope)
        try:
            wanted = Recall.decode(await request.body())
        except WireError as error:
            raise HTTPException(400, str(error)) from error
        return Response(attempts.recall(wanted).encode(), media_type="application/json")


def add_models(app: FastAPI, reporter: Reporter) -> None:
    """The one model of an engine in this process, as a list and by its name."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [reporter.state().model_entry()]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """Its name may have slashes. Without a name, the list."""
        if not model:
            return await models()
        entry = reporter.state().model_entry()
        if entry["id"] != model:
            raise ModelNotFoundError(model)
        return entry


def add_events(app: FastAPI, events: CacheEvents | None) -> None:
    """Where it publishes what its prefix cache stores and drops, as vLLM tells it."""

    @app.get(SOURCES_PATH)
    async def sources() -> dict[str, Any]:
        return {} if events is None else events.sources()


def add_answers(app: FastAPI, responses: Responses) -> None:
    """Answers of ``/v1/responses`` that are kept."""

    @app.get("/v1/responses/{name}")
    async def find(name: str) -> dict[str, Any]:
        return responses.find(name)

    @app.delete("/v1/responses/{name}")
    async def delete(name: str) -> dict[str, Any]:
        return responses.delete(name)

    @app.post("/v1/responses/{name}/cancel")
    async def cancel(name: str) -> None:
        """Only what runs in the background could be."""
        responses.find(name)
        message = f"The response '{name}' has ended; nothing runs in the background here."
        raise RequestError(message, code="invalid_value")


def add_count(app: FastAPI, settings: AgentSettings, engine: Engine) -> None:
    """``/v1/messages/count_tokens``."""
    form = Messages(counted=True)

    @app.post(MESSAGES.path + "/count_tokens")
    async def count(request: Request) -> Response:
        try:
            check_json(request.scope)
            body = {"model": settings.model} | load(await request.body())
            chat = form.to_chat({**body, "stream": False})
            if chat["model"] != settings.model:
                raise ModelNotFoundError(str(chat["model"]))
            (answer,) = engine.answers(read(chat, chat=True), chat, lambda _: 1)
        except RequestError as error:
            return Response(MESSAGES.error(error, ""), error.status, media_type="application/json")
        told = orjson.dumps({"input_tokens": answer.prompt_tokens})
        return Response(told, media_type="application/json")
