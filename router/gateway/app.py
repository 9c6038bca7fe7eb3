"""The gateway's composition root: settings in, ASGI application out."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.routing import Route

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.keys import Keys
from router.gateway.accounting.traffic_log import TrafficLog
from router.gateway.admission.attempts import Attempts
from router.gateway.admission.completions import Completions
from router.gateway.admission.door import Door
from router.gateway.admission.kept_answers import KeptAnswers
from router.gateway.admission.relay import Relay
from router.gateway.admission.shedding import Shedding
from router.gateway.batch_service import add_batches, batch_service
from router.gateway.batches.inside import Endpoint
from router.gateway.dashboard.events import Events
from router.gateway.dashboard.frames import Frames
from router.gateway.dashboard.page import add_page
from router.gateway.dashboard.watch import Watches
from router.gateway.fleet.discovery.sources import Discovery, sources
from router.gateway.fleet.model_names import ModelNames
from router.gateway.fleet.workers import Workers
from router.gateway.forwarding.forwarder import Forwarder
from router.gateway.peers.service import Peering
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.planner import Planner
from router.gateway.planning.recaller import Recaller
from router.gateway.planning.sharing import Sharing
from router.gateway.routes import add_routes
from router.gateway.siblings.ask import Siblings
from router.gateway.siblings.board import Board
from router.gateway.siblings.folder import Folder
from router.gateway.siblings.tally import Tally
from router.gateway.siblings.together import Alone, Together
from router.http.apis import APIS, Api
from router.http.bodies import BodyMemory, BodyReader
from router.http.browsers import Browsers
from router.http.connections import Connections
from router.http.docs import add_docs
from router.http.drain import Drain
from router.http.error_handlers import add_error_handlers, answer_head
from router.http.errors import RouterError
from router.http.reread import Reread
from router.http.serving import Beside
from router.observe.metrics import GatewayMetrics
from router.observe.tracing import open_tracing
from router.settings.base import BadSettings
from router.settings.gateway import GatewaySettings
from router.settings.secrets import key_file, read_keys, read_secrets, trusted
from solver.routing.fair import Weight, alike

if TYPE_CHECKING:
    from router.gateway.batches.service import Service

log = logging.getLogger(__name__)

# Objects beyond those freed before a collection looks for cycles: requests leave next to none, and
# what is in flight survives it. At Python's 700 it would be every other request.
GC_ALLOCATIONS = 50_000


def create_app(settings: GatewaySettings) -> FastAPI:
    """A gateway; ``app.state.drain`` makes it finish up.

    Raises:
        BadSettings: if its workers could never be found, a file of secrets is wrong, or the traffic
            log cannot be written.
    """
    folder = None if settings.siblings is None else Folder(settings.siblings)
    tally = None if folder is None else Tally(folder.tally)
    keys = None if settings.keys is None else Keys(settings.keys, tally)
    settings = settings.share()
    discovery = Discovery(sources(settings.worker), settings.named_workers())
    metrics, drain, tracing = GatewayMetrics(), Drain(), open_tracing(settings, "gateway")
    connections = Connections(
        trusted(settings.worker_ca),
        next(iter(read_secrets(settings.secret_file)), None),
        None if folder is None else folder.name,
    )
    board = None if folder is None else Board(folder.board, 2 * settings.processes)
    peering, weight = Peering(settings, connections, folder), _weight(keys)
    workers = Workers(settings, connections, metrics, board, peering.peers, peering.sends)
    planner = Planner(settings.plan_deadline_s, metrics)
    dispatcher = Dispatcher(settings, workers, planner, metrics, weight)
    sharing = Sharing(workers, dispatcher, connections, board, peering.peers)
    recaller = _recaller(workers, connections, dispatcher)
    traffic, forwarder = _traffic_log(settings, metrics), Forwarder(settings, connections)
    accounts = Accounts(metrics, settings.remember, traffic, weight)
    shedding = Shedding(settings, workers, dispatcher, recaller)
    siblings = None if folder is None else Siblings(folder)
    kept = KeptAnswers(workers, settings.remember, siblings, weight)
    names = ModelNames(workers, settings.aliases(), settings.default_model)
    attempts = Attempts(
        settings, workers.conditions, dispatcher, shedding, forwarder, accounts, kept, metrics
    )
    bodies = BodyReader(settings.max_body_bytes, decodes=True)
    memory = BodyMemory(settings.max_bodies_bytes, dispatcher.room.bodies_full, weight)
    watches = Watches(workers, connections)
    endpoints: dict[str, Endpoint] = {}  # of lines of batches, by path
    batches = batch_service(settings, endpoints, keys, workers, names, accounts, drain, metrics)
    frames = Frames(
        workers,
        watches,
        dispatcher,
        accounts,
        metrics,
        settings.worker,
        list if batches is None else batches.rows,
    )
    events = Events(frames, watches, drain, siblings)

    async def close_tracing() -> None:
        await tracing.close(drain.left_s(settings.drain_s))

    def leave_siblings() -> None:
        if folder is not None and board is not None:
            folder.keep(metrics.render())
            board.close()

    lifespan = _lifespan(
        [one for one in (keys, traffic, peering, _worker_keys(settings, connections)) if one],
        connections,
        planner,
        discovery,
        workers,
        dispatcher,
        events,
        sharing,
        leave_siblings,
        close_tracing,
        drain,
        batches,
    )
    app = FastAPI(title="Makespan", lifespan=lifespan, openapi_url=None)
    app.state.drain, app.state.hot = drain, {}
    planned = partial(
        Completions,
        settings,
        workers,
        dispatcher,
        attempts,
        accounts,
        kept,
        names,
        bodies,
        memory,
        drain,
        tracing,
    )
    # Answers to pages of other origins get headers on the way.
    endpoints |= _add_planned(app, planned, hot=not settings.allowed_origins)
    add_routes(app, workers, dispatcher, accounts, metrics, drain, names, peering)
    peering.add(app, workers, metrics, drain)
    _add_pages(app, events, docs=settings.docs)
    add_batches(app, batches)
    app.router.default = endpoints["/v1/embeddings"] = Relay(
        settings,
        workers,
        dispatcher,
        forwarder,
        accounts,
        kept,
        names,
        bodies,
        memory,
        drain,
        unknown=app.router.default,
    )
    answer_head(app)
    add_error_handlers(app)
    _answer_for_all(app, folder, frames, kept)
    _put_door(app, keys, metrics, peering.guarded)
    app.add_middleware(Browsers, origins=settings.allowed_origins)
    return app


def _recaller(workers: Workers, connections: Connections, dispatcher: Dispatcher) -> Recaller:
    """Asked after each dispatch."""
    recaller = Recaller(workers, connections)
    dispatcher.after_dispatch = recaller.maybe_recall
    return recaller


def _add_planned(
    app: FastAPI, endpoint_of: Callable[[Api], Completions], *, hot: bool
) -> dict[str, Endpoint]:
    """The endpoints, by path."""
    found: dict[str, Endpoint] = {}
    for api in APIS:
        endpoint = found[api.path] = endpoint_of(api)
        for spelling in (api.path, api.path + "/"):  # a redirect would be lost on many a client
            app.router.routes.append(Route(spelling, endpoint, methods=["POST"]))
            if hot:
                app.state.hot[spelling.encode()] = endpoint
    return found


def _add_pages(app: FastAPI, events: Events, *, docs: bool) -> None:
    """What people look at: the dashboard, with its events, and the API's description."""
    app.router.routes.append(Route("/makespan/v1/events", events, methods=["GET"]))
    add_page(app)
    if docs:
        add_docs(app, {api.path: "A completion, by the worker that the plan says." for api in APIS})


def _weight(keys: Keys | None) -> Weight:
    """Of each tenant; without keys all are alike."""
    return alike if keys is None else keys.weight


def _worker_keys(
    settings: GatewaySettings, connections: Connections
) -> Reread[Mapping[str, str]] | None:
    """Workers' keys, as they are now and whenever their files change."""
    files = settings.worker_key_file
    if not files:
        return None
    paths = [Path(path) for _, path in map(key_file, files)]
    reread = Reread(paths, "workers' keys", partial(read_keys, files), connections.use_keys)
    connections.use_keys(read_keys(files))
    return reread


def _traffic_log(settings: GatewaySettings, metrics: GatewayMetrics) -> TrafficLog | None:
    path = settings.traffic_log
    if path is None:
        return None
    try:
        path.open("ab").close()
    except OSError as error:
        raise BadSettings.of_file(path, error, "traffic_log") from error
    return TrafficLog(path, settings.traffic_log_bytes, metrics)


def _answer_for_all(app: FastAPI, folder: Folder | None, frames: Frames, kept: KeptAnswers) -> None:
    """Where it is one process of several, it asks the others, and answers them."""
    app.state.beside = None
    if folder is not None:
        app.add_middleware(Together, folder=folder)
        app.state.beside = Beside(Alone(app, frames.all, kept.page), folder.socket_of(os.getpid()))


def _put_door(
    app: FastAPI, keys: Keys | None, metrics: GatewayMetrics, guarded: Sequence[str]
) -> None:
    """Before everything that it answers, where there are keys."""
    if keys is None:
        return

    def refused(error: RouterError) -> None:
        metrics.requests.labels("other", error.outcome.value).inc()

    for path, endpoint in app.state.hot.items():
        app.state.hot[path] = Door(endpoint, keys=keys, refused=refused, guarded=guarded)
    app.add_middleware(Door, keys=keys, refused=refused, guarded=guarded)


def _stop_if_broken(drain: Drain, task: asyncio.Task[None]) -> None:
    """Without its dispatcher or its view of the workers a gateway is of no use: stop the process.

    Living on, it would hold requests for ever.
    """
    if not task.cancelled() and task.exception() is not None:
        log.critical("a task that must not end has failed", exc_info=task.exception())
        drain.fail()


def _lifespan(
    more: Sequence[Keys | TrafficLog | Peering | Reread[Mapping[str, str]]],
    connections: Connections,
    planner: Planner,
    discovery: Discovery,
    workers: Workers,
    dispatcher: Dispatcher,
    events: Events,
    sharing: Sharing,
    leave_siblings: Callable[[], None],
    close_tracing: Callable[[], Awaitable[None]],
    drain: Drain,
    batches: Service | None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        connections.open()
        own = workers.run(), discovery.run(workers.update), dispatcher.run(), sharing.run()
        running = [*own, *(one.run() for one in more)]
        tasks = [asyncio.create_task(one) for one in running]
        for task in tasks:
            task.add_done_callback(partial(_stop_if_broken, drain))
        gc.freeze()  # what was imported will not be garbage: collections need not look at it
        gc.set_threshold(GC_ALLOCATIONS, 20, 50)
        if batches is not None:
            try:
                await batches.start()
            except BadSettings as error:
                log.critical("batches cannot be kept so", extra={"why": str(error)})
                drain.fail()
        yield
        events.stop()
        if batches is not None:
            await batches.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        leave_siblings()
        planner.stop()
        await connections.close()
        await close_tracing()

    return lifespan
