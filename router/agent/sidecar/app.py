"""The sidecar's composition root: settings in, ASGI application out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.routing import Route

from router.agent.attempts import Attempts
from router.agent.endpoint import MOST_BODY_BYTES
from router.agent.gateways import Gateways
from router.agent.routes import add_routes
from router.agent.sidecar.completions import Completions
from router.agent.sidecar.engine import Engine
from router.agent.sidecar.gate import Gate
from router.agent.sidecar.proxy import ModelEndpoint, Proxy
from router.agent.sidecar.reporter import SidecarReporter
from router.agent.sidecar.sizing import RequestSizer
from router.agent.sidecar.upstream import Upstream
from router.http.apis import APIS
from router.http.bodies import BodyReader
from router.http.connections import Connections
from router.http.drain import Drain
from router.http.error_handlers import add_error_handlers
from router.http.secret import GatewaysOnly
from router.observe.metrics import AgentMetrics
from router.observe.tracing import open_tracing
from router.settings.agent import AgentSettings
from router.settings.base import BadSettings
from router.settings.hardware import hardware
from router.settings.secrets import read_secrets
from solver.batching.outside.release import Releaser
from solver.batching.policies import POLICIES
from solver.routing.rolling import lead


def create_app(settings: AgentSettings) -> FastAPI:
    """A sidecar; ``app.state.drain`` makes it finish up.

    Raises:
        BadSettings: if the upstream's URL has a path that requests bring along themselves, or its
            secret is none.
    """
    _check(settings)
    secrets = read_secrets(settings.secret_file)
    metrics, drain = AgentMetrics(), Drain()
    tracing = open_tracing(settings, "agent", settings.name)
    connections = Connections()
    upstream = Upstream(settings, connections)
    gate = Gate(open_releaser(settings), metrics)
    engine = Engine(settings, upstream, gate)
    attempts, sizer, gateways = Attempts(gate), RequestSizer(), Gateways()
    bodies = BodyReader(MOST_BODY_BYTES)

    async def close_tracing() -> None:
        await tracing.close(drain.left_s(settings.drain_s))

    app = FastAPI(
        title="Makespan sidecar",
        lifespan=_lifespan(connections, upstream, engine, gate, close_tracing),
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.drain = drain
    for api in APIS:
        endpoint = Completions(
            settings.name,
            upstream,
            engine,
            gate,
            sizer,
            attempts,
            gateways,
            bodies,
            metrics,
            drain,
            tracing,
            api,
        )
        app.router.routes.append(Route(api.path, endpoint, methods=["POST"]))
    reporter = SidecarReporter(settings, engine, metrics, drain, gateways)
    add_routes(app, attempts, gateways, reporter, drain, "the upstream is down; see the log")
    proxy = Proxy(upstream)
    one_model = ModelEndpoint(upstream, proxy)
    app.router.routes.append(Route("/v1/models/{model:path}", one_model, methods=["GET"]))
    app.router.routes.append(Route("/{path:path}", proxy))
    add_error_handlers(app)
    if secrets:
        app.add_middleware(GatewaysOnly, secrets=secrets)
    return app


def _check(settings: AgentSettings) -> None:
    path = urlsplit(settings.upstream or "").path
    if path.endswith("/v1") or "/v1/" in path:
        raise BadSettings(
            f"upstream: {settings.upstream} has {path} in it, which requests bring along: give the "
            "server's address alone"
        )


def open_releaser(settings: AgentSettings) -> Releaser:
    """The rule of release that the settings name."""
    own = settings.engine == "vllm"  # our policy runs inside
    return Releaser(
        settings.slots,
        settings.kv_tokens if "kv_tokens" in settings.model_fields_set else inf,
        hardware(settings.cost).cost,
        None if own else POLICIES[settings.policy](),
        time.monotonic(),
        lead=lead(settings.slots, 1) if own else 0,
    )


def _lifespan(
    connections: Connections,
    upstream: Upstream,
    engine: Engine,
    gate: Gate,
    close_tracing: Callable[[], Awaitable[None]],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        connections.open()
        tasks = [asyncio.create_task(upstream.run()), asyncio.create_task(engine.run())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gate.close()
        await connections.close()
        await close_tracing()

    return lifespan
