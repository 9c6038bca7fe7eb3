"""The fleet: which workers there are, how they are, and what they still have to do.

A worker that leaves the fleet is drained: it gets nothing new, what queues there is taken back
(`router.gateway.planning.recaller`), what runs there ends, and then it is forgotten.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.prefixes import Prefixes
from router.gateway.fleet.reports import reports
from router.gateway.fleet.worker import Worker
from router.http.connections import Connections
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewaySettings
from router.settings.hardware import hardware
from router.wire import AgentState

log = logging.getLogger(__name__)

RECONNECT_S = (0.1, 0.2, 0.5, 1.0)  # pauses between attempts to reach a worker that is down


class Workers:
    """Follows every worker while the gateway runs; `on_change` is called at each report."""

    def __init__(
        self,
        settings: GatewaySettings,
        connections: Connections,
        metrics: GatewayMetrics,
    ) -> None:
        self._settings, self._cost = settings, hardware(settings.plain_cost).cost
        self._all: list[Worker] = []
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.prefixes = Prefixes()
        self._connections, self._metrics = connections, metrics
        self.on_change: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._all)

    def available(self) -> list[Worker]:
        """Those that take new requests."""
        return [worker for worker in self._all if worker.available]

    def models(self) -> dict[str, dict[str, Any]]:
        """Models that somebody serves, or would if it were up."""
        return {name: entry for worker in self._all for name, entry in worker.models.items()}

    def export(self) -> None:
        """Bring the workers' metrics up to date."""
        now = time.monotonic()
        self._metrics.worker_up.clear()  # a worker's name may have changed
        self._metrics.worker_backlog.clear()
        for worker in self._all:
            self._metrics.worker_up.labels(worker.name).set(worker.up)
            self._metrics.worker_backlog.labels(worker.name).set(worker.backlog_s(0, now))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for worker in self._all:
                self._start(worker)
            await asyncio.Event().wait()  # more may come

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """The fleet is to be these: who is new is followed, who is not among them drains."""
        wanted = [one.url for one in endpoints if not one.draining]
        for worker in list(self._all):
            if worker.leaving != (worker.url not in wanted):
                worker.leaving = not worker.leaving
                what = "worker leaves" if worker.leaving else "worker stays after all"
                log.info(what, extra={"worker": worker.name, "in_flight": len(worker.load)})
            self.forget_if_drained(worker)
        known = {worker.url for worker in self._all}
        for url in wanted:
            if url not in known:
                self._add(url)
        self.on_change()

    def _add(self, url: str) -> None:
        settings = self._settings
        worker = Worker(
            url, settings.plain_slots, self._cost, prefix_cache=settings.plain_prefix_cache
        )
        self._all.append(worker)
        if self._group is not None:
            self._start(worker)

    def _start(self, worker: Worker) -> None:
        assert self._group is not None
        self._tasks[worker] = self._group.create_task(self._follow(worker))

    def forget_if_drained(self, worker: Worker) -> None:
        """If it is leaving and has nothing left, forget it."""
        if not worker.leaving or len(worker.load) or worker not in self._all:
            return
        self._all.remove(worker)
        if worker in self._tasks:
            self._tasks.pop(worker).cancel()
        self.prefixes.forget(worker)
        self._rename()
        log.info("worker has left", extra={"worker": worker.name})

    def mark_down(self, worker: Worker, why: str) -> None:
        """It could not be reached; `_follow` will find out when it is back."""
        if worker.up:
            log.warning("worker is down", extra={"worker": worker.name, "why": why})
            worker.up = False
            if worker.state is not None:
                worker.stall_guard.arm()
            self.prefixes.forget(worker)
            self.on_change()

    async def _follow(self, worker: Worker) -> None:
        failures = 0
        while True:
            try:
                await self._listen(worker)
                failures, why = 0, "its agent ended the state stream"
            except Exception as error:  # whatever one worker says, the others are followed on
                failures, why = failures + (not worker.up), str(error) or type(error).__name__
            self.mark_down(worker, why)
            await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])

    async def _listen(self, worker: Worker) -> None:
        connect_s = self._settings.connect_timeout_s
        async with aclosing(
            reports(self._connections.session, worker.url, connect_s)
        ) as report_stream:
            async for report in report_stream:
                if isinstance(report, AgentState):
                    worker.update_state(report)
                else:
                    worker.update_models(report)
                self._mark_up(worker)

    def _mark_up(self, worker: Worker) -> None:
        if not worker.up:
            self._rename()
            log.info("worker is up", extra={"worker": worker.name, "models": list(worker.models)})
            worker.up = True
            worker.stall_guard.disarm()
        self.on_change()

    def _rename(self) -> None:
        """One that comes late may take a name from one behind it, one that goes may free it."""
        for worker in self._all:
            worker.name = self._name(worker)

    def _name(self, worker: Worker) -> str:
        """What it calls itself, with its address if one before it in the list does so too."""
        before = itertools.takewhile(lambda other: other is not worker, self._all)
        if any(other.reported_name == worker.reported_name for other in before):
            return f"{worker.reported_name}@{urlsplit(worker.url).netloc}"
        return worker.reported_name
