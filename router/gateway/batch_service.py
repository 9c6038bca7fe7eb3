"""What batches get of a gateway: its endpoints, its clients' rights, and what its workers can hold.

They are loaded only where they are kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from router.gateway.accounting.accounts import Accounts
from router.gateway.accounting.keys import GRANT, Keys
from router.gateway.batches.inside import Endpoint
from router.gateway.fleet.model_names import ModelNames
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.http.drain import Drain
from router.http.errors import RequestError
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewaySettings
from solver.routing.fair import alike
from solver.routing.kinds import Length
from solver.routing.speed import FleetSpeed

if TYPE_CHECKING:
    from router.gateway.batches.backlog import Work
    from router.gateway.batches.planned import Seen
    from router.gateway.batches.service import Service

# Of all slots, so many lines beyond them: there is always a next one to plan.
LINES_AHEAD = 0.25


@dataclass(frozen=True, slots=True)
class _Served:
    """What a worker may be asked for, by all names."""

    worker: Worker
    names: ModelNames

    def __contains__(self, name: object) -> bool:
        return any(model in self.worker.models for model in self.names.meant(str(name)))


def batch_service(
    settings: GatewaySettings,
    endpoints: Mapping[str, Endpoint],
    keys: Keys | None,
    workers: Workers,
    names: ModelNames,
    accounts: Accounts,
    drain: Drain,
    metrics: GatewayMetrics,
) -> Service | None:
    """Those that the gateway keeps, if it is told where.

    Raises:
        BadSettings: if they cannot be kept there.
    """
    if settings.data is None and settings.database is None:
        return None
    from router.gateway.batches.database import Database
    from router.gateway.batches.planned import Planned, Seen
    from router.gateway.batches.searching import Searching
    from router.gateway.batches.service import Service

    def rights(key: str, tenant: str) -> dict[str, Any]:
        return {} if keys is None else {GRANT: keys.grant_of(key, tenant)}

    def room() -> int:
        slots = sum(worker.slots for worker in workers.available())
        return ceil(slots * (1 + LINES_AHEAD) / settings.processes)

    def seconds(work: Work) -> float:
        made, each = work.made, int(work.prompt_tokens / work.requests)
        if made is None:
            made = lengths(work.model, each, work.limit, work.tenant).tokens
        able = [worker for worker in workers.available() if work.model in _Served(worker, names)]
        speed = FleetSpeed.of((worker.cost, worker.slots) for worker in able)
        return speed.seconds(work.requests, work.prompt_tokens, work.requests * made)

    def see() -> Seen[Worker]:
        able, now = workers.available(), time.monotonic()
        return Seen(able, [one.view(now) for one in able], [_Served(one, names) for one in able])

    def lengths(model: str, prompt_tokens: int, limit: int, tenant: str) -> Length:
        found = accounts.lengths(names.meant(model)[0], prompt_tokens, limit, tenant)
        return Length(found.mean, found.overrun)

    return Service(
        Database(settings.data, settings.database),
        settings.max_body_bytes,
        settings.max_stored_bytes,
        settings.batches_kept_s,
        settings.allowed_origins,
        settings.drain_s,
        endpoints.__getitem__,
        rights,
        room,
        seconds,
        drain,
        metrics,
        Planned(
            see,
            lengths,
            lambda: accounts.learned,
            weight=alike if keys is None else keys.weight,
            planner=Searching(metrics),
        ),
    )


def add_batches(app: FastAPI, service: Service | None) -> None:
    """Answer clients, or tell them how to have batches."""
    if service is not None:
        service.add_to(app)
        return

    async def off(request: Request) -> Response:
        raise RequestError(
            f"{request.url.path}: this gateway keeps no batches; start it with --data DIR, where "
            "they are to be kept, or with --database URL.",
            code="batches_off",
            status=404,
        )

    for path in ("/v1/files", "/v1/files/{rest:path}", "/v1/batches", "/v1/batches/{rest:path}"):
        app.router.add_route(path, off, methods=["GET", "POST", "DELETE"])
