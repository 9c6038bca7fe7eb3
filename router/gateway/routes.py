"""The gateway's other endpoints: models, health, metrics, and the plan in the open."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.keys import GRANT, Grant
from router.gateway.fleet.model_names import ModelNames
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.peers.service import Peering
from router.gateway.planning.dispatcher import Dispatcher
from router.http.drain import Drain
from router.http.errors import ModelNotFoundError
from router.observe.metrics import CONTENT_TYPE, GatewayMetrics


def add_routes(
    app: FastAPI,
    workers: Workers,
    dispatcher: Dispatcher,
    accounts: Accounts,
    metrics: GatewayMetrics,
    drain: Drain,
    names: ModelNames,
    peering: Peering,
) -> None:
    """Everything but the completion endpoints."""
    _add_health(app, workers, dispatcher, metrics, drain)
    _add_models(app, names)
    _add_plans(app, workers, dispatcher, accounts, peering)


def _add_health(
    app: FastAPI, workers: Workers, dispatcher: Dispatcher, metrics: GatewayMetrics, drain: Drain
) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Requests can be served: some worker is up, and the gateway is not shutting down."""
        if drain.begun:
            raise HTTPException(503, "shutting down")
        if not workers.available():
            whys = (f"{worker.name}: {worker.health.reason or 'drains'}" for worker in workers)
            raise HTTPException(503, "; ".join(("no worker is up", *whys)))
        return {"status": "ready"}

    @app.get("/metrics")
    async def read_metrics() -> Response:
        """Prometheus's text format."""
        workers.export()
        metrics.unsent.set(dispatcher.unsent)
        metrics.fleet_backlog.set(dispatcher.backlog_s())
        return Response(metrics.render(), media_type=CONTENT_TYPE)


def _add_models(app: FastAPI, names: ModelNames) -> None:
    def allowed(request: Request) -> dict[str, Any]:
        grant: Grant | None = request.scope.get(GRANT)
        found = names.listed()
        return {name: one for name, one in found.items() if grant is None or grant.allows(name)}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The models that some worker serves, by all names that the client's key allows."""
        return {"object": "list", "data": list(allowed(request).values())}

    @app.get("/v1/models/{model:path}")
    async def model(request: Request, model: str) -> dict[str, Any]:
        """One of them; its name may have slashes. Without a name, all."""
        if not model:
            return await models(request)
        entry: dict[str, Any] | None = allowed(request).get(model)
        if entry is None:
            raise ModelNotFoundError(model)
        return entry


def _add_plans(
    app: FastAPI,
    workers: Workers,
    dispatcher: Dispatcher,
    accounts: Accounts,
    peering: Peering,
) -> None:
    @app.get("/makespan/v1/workers")
    async def read_workers() -> dict[str, Any]:
        """Each worker, as this gateway sees it and as its agent reports; and other gateways."""
        now = time.monotonic()
        told = [_worker(worker, now) for worker in workers]
        return {"workers": told, "peers": peering.told()}

    @app.get("/makespan/v1/plans/latest")
    async def latest_plan() -> dict[str, Any]:
        """The latest window's plan: who goes where, its makespan, and the bound."""
        if dispatcher.latest is None:
            raise HTTPException(404, "nothing has been planned yet")
        return dispatcher.latest.to_json()

    @app.get("/makespan/v1/requests/{request_id:path}")
    async def explain(request_id: str) -> dict[str, Any]:
        """Why a request went where it went, by its x-request-id."""
        record = accounts.log.find(request_id)
        if record is None:
            raise HTTPException(404, f"no request {request_id!r} is remembered")
        return record.explain()


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    state = worker.state
    return {
        "name": worker.name,
        "url": worker.url,
        "rank": worker.rank,
        "kind": "openai" if state is None else "agent",
        "up": worker.up,
        "health": worker.health.standing.value,
        "reason": worker.health.reason or None,
        "available": worker.available,
        "draining": worker.draining,
        "models": list(worker.models),
        "slots": worker.slots,
        "slots_known": worker.slots_known,
        "cache": {
            "knowledge": worker.knowledge.value,
            "why": None if worker.cache is None else worker.cache.why or None,
            "blocks": None if worker.cache is None else worker.cache.count(),
        },
        "in_flight": len(worker.load),
        "elsewhere": worker.far.sequences,
        "backlog_s": worker.backlog_s(0, now),
        "cost_ms": worker.cost.to_ms(),
        "agent": None if state is None else state.to_json(),
    }
