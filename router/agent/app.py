"""The agent's composition root: settings in, ASGI application out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from math import inf

from fastapi import FastAPI
from starlette.routing import Route
from zmq import ZMQError

from router.agent.attempts import Attempts
from router.agent.cache_events import CacheEvents
from router.agent.completions import Completions
from router.agent.conversations import Form
from router.agent.engines.base import Engine
from router.agent.engines.emulated.engine import EmulatedEngine
from router.agent.engines.emulated.lengths import read_lengths
from router.agent.gateways import Gateways
from router.agent.loop import EngineLoop
from router.agent.messages import Messages
from router.agent.reporter import Reporter
from router.agent.responses import Responses
from router.agent.routes import add_answers, add_count, add_events, add_models, add_routes
from router.http.apis import APIS, MESSAGES, RESPONSES, Api
from router.http.drain import Drain
from router.http.error_handlers import add_error_handlers, answer_head
from router.http.secret import GatewaysOnly
from router.observe.metrics import AgentMetrics
from router.observe.tracing import open_tracing
from router.settings.agent import AgentSettings
from router.settings.base import BadSettings
from router.settings.hardware import hardware
from router.settings.secrets import read_secrets
from solver.batching.batcher import Batcher
from solver.batching.kv import PrefixCache
from solver.batching.policies import POLICIES
from solver.cost.model import CostModel
from solver.cost.online import OnlineFit
from solver.routing.prefixes import BLOCK_TOKENS


def create_app(settings: AgentSettings) -> FastAPI:
    """An agent with its engine; ``app.state.drain`` makes it finish up.

    Raises:
        BadSettings: if the engine cannot start: its file of output lengths or its model is wrong;
            or if its secret is none.
    """
    if settings.engine in ("openai", "vllm"):
        from router.agent.sidecar.app import create_app as create_sidecar

        return create_sidecar(settings)
    secrets = read_secrets(settings.secret_file)
    metrics = AgentMetrics()
    drain, tracing = Drain(), open_tracing(settings, "agent", settings.name)
    settings, engine = open_engine(settings)
    cost = hardware(settings.cost).cost.scaled(1 / settings.speed)
    fit = OnlineFit(cost) if settings.learn_cost else None
    events = None
    if settings.kv_events is not None:
        events = open_events(settings.kv_events)
    batcher = _batcher(settings, cost, noted=events is not None)
    loop = EngineLoop(batcher, engine, metrics, fit, events)
    attempts = Attempts(loop)
    gateways = Gateways()
    reporter = Reporter(settings, loop, metrics, drain, gateways)

    async def close_tracing() -> None:
        await tracing.close(drain.left_s(settings.drain_s))

    lifespan = _lifespan(loop, events, close_tracing, None if settings.fd is None else drain)
    app = FastAPI(title="Makespan agent", lifespan=lifespan, openapi_url=None)
    app.state.drain = drain
    responses = Responses()
    forms: dict[Api, Form] = {RESPONSES: responses, MESSAGES: Messages()}
    for api in APIS:
        form = forms.get(api)
        endpoint = Completions(
            settings, loop, attempts, gateways, metrics, drain, tracing, api, form
        )
        app.router.routes.append(Route(api.path, endpoint, methods=["POST"]))
    add_answers(app, responses)
    add_count(app, settings, engine)
    add_routes(app, attempts, gateways, reporter, drain, "the engine has broken down; see the log")
    add_models(app, reporter)
    add_events(app, events)
    answer_head(app)
    add_error_handlers(app)
    if secrets:
        app.add_middleware(GatewaysOnly, secrets=secrets)
    return app


def open_engine(settings: AgentSettings) -> tuple[AgentSettings, Engine]:
    """The engine that the settings name, and the settings with what its model says filled in."""
    if settings.engine == "transformers":
        from router.agent.engines.transformers.loading import resolve

        return resolve(settings)
    cost = hardware(settings.cost).cost.scaled(1 / settings.speed)
    lengths = read_lengths(settings.lengths) if settings.lengths else {}
    return settings, EmulatedEngine(cost, lengths, settings.seed)


def open_events(endpoint: str) -> CacheEvents:
    """A publisher of what the prefix cache stores and drops.

    Raises:
        BadSettings: if it cannot be bound there.
    """
    try:
        return CacheEvents(endpoint, BLOCK_TOKENS)
    except ZMQError as error:
        raise BadSettings(f"kv_events: {endpoint}: {error.strerror}") from error


def _batcher(settings: AgentSettings, cost: CostModel, *, noted: bool) -> Batcher:
    return Batcher(
        settings.slots,
        settings.kv_tokens,
        cost,
        POLICIES[settings.policy](),
        time.monotonic(),
        prefill_budget=settings.prefill_budget or inf,
        cache=PrefixCache(BLOCK_TOKENS, noted=noted) if settings.prefix_cache else None,
    )


def _lifespan(
    loop: EngineLoop,
    events: CacheEvents | None,
    close_tracing: Callable[[], Awaitable[None]],
    supervised: Drain | None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    def stop_if_broken(_: asyncio.Task[None]) -> None:
        """The supervisor looks at processes, not at ``/health``: end, and it starts another."""
        if loop.broken and supervised is not None:
            supervised.fail()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(loop.run())
        task.add_done_callback(stop_if_broken)
        replays = None if events is None else asyncio.create_task(events.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if events is not None and replays is not None:
            replays.cancel()
            with suppress(asyncio.CancelledError):
                await replays
            events.close()
        await close_tracing()

    return lifespan
