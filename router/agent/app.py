"""The agent's composition root: settings in, ASGI application out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from starlette.routing import Route

from router.agent.api import Completions
from router.agent.engines.emulated import EmulatedEngine
from router.agent.engines.lengths import read_lengths
from router.agent.loop import EngineLoop
from router.agent.state import Reporter
from router.drain import Drain
from router.metrics import CONTENT_TYPE, AgentMetrics
from router.settings import AgentSettings
from router.web import add_error_handlers
from router.wire import STATE_PATH
from solver.batching import Batcher
from solver.cost import PROFILES
from solver.iteration import POLICIES


def create_app(settings: AgentSettings) -> FastAPI:
    """An agent with its engine; calling ``app.state.drain`` makes it finish up.

    Raises:
        BadSettings: if the file of output lengths is wrong.
    """
    metrics = AgentMetrics()
    drain = Drain()
    loop = _engine_loop(settings, metrics)
    reporter = Reporter(settings, loop, metrics, drain)
    app = FastAPI(title="Makespan agent", lifespan=_lifespan(loop), openapi_url=None)
    app.state.drain = drain.begin
    for path, chat in (("/v1/completions", False), ("/v1/chat/completions", True)):
        endpoint = Completions(settings, loop, metrics, drain, chat=chat)
        app.router.routes.append(Route(path, endpoint, methods=["POST"]))
    _add_routes(app, settings, reporter, drain)
    add_error_handlers(app)
    return app


def _engine_loop(settings: AgentSettings, metrics: AgentMetrics) -> EngineLoop:
    cost = PROFILES[settings.cost].cost.scaled(1 / settings.speed)
    policy = POLICIES[settings.policy]()
    lengths = read_lengths(settings.lengths) if settings.lengths else {}
    batcher = Batcher(settings.slots, settings.kv_tokens, cost, policy, time.monotonic())
    return EngineLoop(batcher, EmulatedEngine(cost, lengths, settings.seed), metrics)


def _lifespan(loop: EngineLoop):  # type: ignore[no-untyped-def]  # noqa: ANN202
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(loop.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return lifespan


def _add_routes(app: FastAPI, settings: AgentSettings, reporter: Reporter, drain: Drain) -> None:
    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    def ready() -> Response:
        return Response(status_code=503 if drain.begun else 200)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(reporter.render(), media_type=CONTENT_TYPE)

    @app.get(STATE_PATH)
    def state() -> StreamingResponse:
        return StreamingResponse(reporter.stream(), media_type="application/x-ndjson")

    @app.get("/v1/models")
    def models() -> dict[str, object]:
        engine = reporter.state().engine
        model = {
            "id": settings.model,
            "object": "model",
            "created": 0,
            "owned_by": f"makespan-{engine}",
            "max_model_len": settings.max_model_len,
            "emulated": engine == "emulated",
        }
        return {"object": "list", "data": [model]}
