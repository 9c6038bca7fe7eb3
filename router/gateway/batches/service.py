"""Batches as a gateway has them: all of it put together, started and stopped with the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

from fastapi import FastAPI

from router.gateway.batches.api import Api
from router.gateway.batches.backlog import Backlog, Work
from router.gateway.batches.batches import Batches
from router.gateway.batches.database import Database
from router.gateway.batches.files import Files, Found
from router.gateway.batches.inside import Endpoint
from router.gateway.batches.lines import Counts
from router.gateway.batches.planned import Planned
from router.gateway.batches.removal import Removal
from router.gateway.batches.runner import Runner
from router.gateway.batches.tables import OPEN
from router.http.drain import Drain
from router.observe.metrics import GatewayMetrics

MOST_ROWS = 12


class Service:
    """See the module.

    Args:
        most_line: bytes of a line, at most; `most_bytes`: of what a tenant has stored, 0: any.
        kept_s: how long batches stay after their end, 0: for good.
        endpoint: what answers requests to a path, of those that batches may have.
        rights: what a client's key, by its hash, and its tenant give its requests' scope.
        room: lines that workers can hold now.
        seconds: engine time of some work, by the whole fleet.
        order: which lines go next.
    """

    def __init__(
        self,
        database: Database,
        most_line: int,
        most_bytes: int,
        kept_s: float,
        origins: Collection[str],
        drain_s: float,
        endpoint: Callable[[str], Endpoint],
        rights: Callable[[str, str], dict[str, Any]],
        room: Callable[[], int],
        seconds: Callable[[Work], float],
        drain: Drain,
        metrics: GatewayMetrics,
        order: Planned[Any],
    ) -> None:
        files, batches = Files(database, most_bytes), Batches(database)
        self._order = order
        self.runner = Runner(
            database, files, batches, self._order, endpoint, rights, room, drain, metrics
        )
        removal = Removal(database, kept_s)
        self._backlog = Backlog(database, removal, self.runner, seconds, metrics)
        wake = self.runner.wake
        self._api = Api(files, batches, most_line, origins, drain, wake, self._told)
        self._drain, self._drain_s = drain, drain_s
        self._task: asyncio.Task[None] | None = None

    def add_to(self, app: FastAPI) -> None:
        """Answer clients."""
        self._api.add_to(app)

    async def start(self) -> None:
        """Begin to run lines.

        Raises:
            BadSettings: if the database is of a later version.
        """
        await self.runner.start()
        self._task = asyncio.create_task(self._backlog.run())

    async def stop(self) -> None:
        """Let what runs end within the drain time, and give back the rest."""
        if self._task is not None:
            self._task.cancel()
        await self.runner.stop(self._drain.left_s(self._drain_s))
        self._order.close()

    def rows(self) -> list[dict[str, Any]]:
        """Those that have not ended, as the runner has last seen them, for the dashboard."""
        return [self._row(one) for one in list(self.runner.open.values())[:MOST_ROWS]]

    def _row(self, batch: Found) -> dict[str, Any]:
        counts = self.runner.counts.get(batch.id, Counts())
        told, now = self._told(batch, counts), time.time()
        for name in ("planned_finish", "lower_bound"):
            if (left_s := told.pop(f"{name}_s", None)) is not None:
                told[f"{name}_at"] = now + left_s
        return {
            "id": batch.id,
            "tenant": batch.tenant,
            "status": batch.status,
            "total": batch.total,
            "done": counts.done,
            "failed": counts.failed + counts.expired,
            "expires_at": batch.expires_at,
            **told,
        }

    def _told(self, batch: Found, counts: Counts) -> dict[str, Any]:
        """What is told of a batch beside OpenAI's fields, as long as it has not ended."""
        if batch.status not in OPEN:
            return {}
        told = {"paused": self.runner.idle(), "waiting": counts.waiting, "running": counts.running}
        return told | self._order.outlook(batch.id)
