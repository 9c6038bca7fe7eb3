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
from functools import partial
from math import inf
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from router.gateway.fleet.conditions import Conditions
from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.health import Standing
from router.gateway.fleet.kv.caches import Caches, WorkerCache
from router.gateway.fleet.kv.stream import Knowledge
from router.gateway.fleet.others import Siblings
from router.gateway.fleet.prefixes import Prefixes
from router.gateway.fleet.reports import complaint, reports
from router.gateway.fleet.worker import Worker
from router.http.connections import Connections
from router.http.errors import ModelNotFoundError
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewaySettings
from router.settings.hardware import hardware
from router.wire import AgentState
from solver.cost.estimators import FleetSpeeds, SpeedEstimator

log = logging.getLogger(__name__)

# How often waiting requests are looked through: a delay that nobody notices beside a patience.
WATCH_S, MOST_WATCH_S = 0.1, 0.2
RECONNECT_S = (0.1, 0.2, 0.5, 1.0)  # pauses between attempts to reach a worker that is down


class Workers:
    """Follows every worker while the gateway runs; `on_change` is called at each report."""

    def __init__(
        self,
        settings: GatewaySettings,
        connections: Connections,
        metrics: GatewayMetrics,
        siblings: Siblings | None = None,
    ) -> None:
        self._settings, self._cost = settings, hardware(settings.plain_cost).cost
        self._all: list[Worker] = []
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self._speeds: dict[tuple[str, ...], FleetSpeeds] = {}
        self._group: asyncio.TaskGroup | None = None
        self._contexts: dict[str, tuple[int | None, bool]] = {}  # of models that are served
        self.prefixes = Prefixes()
        self._caches = Caches(connections, self._cache_changed)
        self.conditions = Conditions(metrics, self._changed)
        self._connections, self._metrics = connections, metrics
        self._siblings = siblings
        self.on_change: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._all)

    def available(self) -> list[Worker]:
        """Those that take new requests, be it as the last resort."""
        return [worker for worker in self._all if worker.available]

    def preferred(self) -> list[Worker]:
        """Of these, those in the best health that any is in."""
        available = self.available()
        rank = min((worker.health.rank for worker in available), default=0)
        return [worker for worker in available if worker.health.rank == rank]

    def models(self) -> dict[str, dict[str, Any]]:
        """Models that somebody serves, or would if it were up."""
        return {name: entry for worker in self._all for name, entry in worker.models.items()}

    def lack(self, model: str) -> bool:
        """Whether it is certain that nobody serves `model`: all have told what they serve."""
        return all(worker.models and model not in worker.models for worker in self._all) and bool(
            self._all
        )

    def context(self, model: str) -> tuple[int | None, bool]:
        """The longest context that some worker has for `model`, and whether anybody serves that.

        None if one does not tell; nor do those that have not come up yet.

        Raises:
            ModelNotFoundError: if it is certain that nobody serves it.
        """
        found = self._contexts.get(model)
        if found is None:
            if self.lack(model):
                raise ModelNotFoundError(model)
            lengths = [w.max_model_len(model) for w in self._all if model in w.models]
            known = [length for length in lengths if length is not None]
            longest = max(known) if known and len(known) == len(lengths) else None
            if not lengths:  # it may come up, or be any name
                return longest, False
            found = self._contexts[model] = longest, True
        return found

    def back_s(self, now: float) -> float:
        """Seconds until somebody who takes nothing for the moment is asked again; else 1."""
        times = (worker.health.until_s - now for worker in self._all if not worker.draining)
        return min((s for s in times if 0 < s < inf), default=1.0)

    def export(self) -> None:
        """Bring the workers' metrics up to date."""
        now = time.monotonic()
        self._metrics.worker_up.clear()  # a worker's name may have changed
        self._metrics.worker_health.clear()
        self._metrics.worker_backlog.clear()
        self._metrics.worker_slots.clear()
        self._metrics.worker_cache_knowledge.clear()
        self._metrics.worker_cache_blocks.clear()
        for worker in self._all:
            self._metrics.worker_up.labels(worker.name).set(worker.up)
            for standing in Standing:
                gauge = self._metrics.worker_health.labels(worker.name, standing.value)
                gauge.set(worker.health.standing is standing)
            self._metrics.worker_backlog.labels(worker.name).set(worker.backlog_s(0, now))
            self._metrics.worker_slots.labels(worker.name, worker.slots_known).set(worker.slots)
            self._export_cache(worker)

    def _export_cache(self, worker: Worker) -> None:
        for knowledge in Knowledge:
            gauge = self._metrics.worker_cache_knowledge.labels(worker.name, knowledge.value)
            gauge.set(worker.knowledge is knowledge)
        if worker.cache is not None:
            counts = worker.cache.count()
            self._metrics.worker_cache_blocks.labels(worker.name).set(counts["known"])
            for what, more in worker.cache.counted_since():
                self._metrics.cache_events.labels(what).inc(more)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._watch())
            for worker in self._all:
                self._start(worker)
            try:
                await asyncio.Event().wait()  # more may come
            finally:
                await self._caches.close()

    async def _watch(self) -> None:
        """Look through the requests at each worker for those that wait for too long."""
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            if now - last_s < MOST_WATCH_S:  # else it was we who stood still
                for worker in self._all:
                    self.conditions.watch(worker, now)
            last_s = now

    def _changed(self, worker: Worker, before: Standing) -> None:
        """Its health has changed."""
        standing = worker.health.standing
        if standing is Standing.DOWN and before is not Standing.DOWN:
            self._forget_cache(worker)
        self.on_change()

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """The fleet is to be these: who is new is followed, who is not among them drains."""
        wanted = {one.url: one.tls_name for one in endpoints if not one.draining}
        for worker in list(self._all):
            if worker.leaving != (worker.url not in wanted):
                worker.leaving = not worker.leaving
                what = "worker leaves" if worker.leaving else "worker stays after all"
                log.info(what, extra={"worker": worker.name, "in_flight": len(worker.load)})
            self.forget_if_drained(worker)
        known = {worker.url for worker in self._all}
        for url, tls_name in wanted.items():
            if url not in known:
                self._connections.expect(url, tls_name)
                self._add(url)
        self.on_change()

    def _add(self, url: str) -> None:
        settings = self._settings
        worker = Worker(
            url, settings.slots_of(url), self._cost, prefix_cache=settings.plain_prefix_cache
        )
        worker.siblings = self._siblings
        self._all.append(worker)
        self._contexts.clear()
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
        self._contexts.clear()
        self.conditions.forget(worker)
        if worker in self._tasks:
            self._tasks.pop(worker).cancel()
        self._forget_cache(worker)
        self._rename()
        log.info("worker has left", extra={"worker": worker.name})

    def mark_down(self, worker: Worker, why: str) -> None:
        """It cannot be served from; `_follow` will find out when it can."""
        self.conditions.lost(worker, why)

    async def _follow(self, worker: Worker) -> None:
        """Look at it again and again."""
        failures = 0
        while True:
            asked_s = time.monotonic()
            try:
                await self._listen(worker)
                failures = 0
                self.conditions.lost(worker, "its agent ended the state stream")
            except TimeoutError as error:
                self._silent(worker, asked_s, complaint(error))
            except Exception as error:  # whatever one worker says, the others are followed on
                failures += worker.down
                self._broken(worker, error)
            wait_s = RECONNECT_S[min(failures, len(RECONNECT_S) - 1)]
            await asyncio.sleep(wait_s)

    def _silent(self, worker: Worker, asked_s: float, why: str) -> None:
        """A look was not answered in time."""
        promised = worker.state is not None  # an agent tells its state, however busy its engine is
        if worker.down or (promised and worker.health.slow):
            self.conditions.lost(worker, why)
        elif promised:
            self.conditions.silent(worker, why)
        elif worker.stall_guard.heard_s < asked_s:
            self.conditions.missed(worker, why)

    def _broken(self, worker: Worker, error: Exception) -> None:
        """A look was answered badly, or not at all."""
        once = isinstance(error, aiohttp.ClientError | OSError)
        refused = isinstance(error, aiohttp.ClientConnectorError)
        if once and not refused and not worker.down and worker.state is None:
            self.conditions.missed(worker, complaint(error))
        else:
            self.conditions.lost(worker, complaint(error))

    async def _listen(self, worker: Worker) -> None:
        connect_s = self._settings.connect_timeout_s
        asks = partial(reports, self._connections, worker.url, connect_s)
        async with aclosing(asks(lambda: worker.wants_metrics)) as report_stream:
            async for report in report_stream:
                models = worker.models
                if isinstance(report, AgentState):
                    worker.update_state(report)
                else:
                    worker.update_plain(report, time.monotonic())
                    self._compare(worker)
                if worker.models is not models:
                    self._contexts.clear()
                self._mark_up(worker)

    def _compare(self, worker: Worker) -> None:
        """Those that serve the same models are taken to be alike, until they show otherwise."""
        fleet = self._speeds.setdefault(tuple(worker.models), FleetSpeeds())
        if not worker.speed.is_of(fleet):
            worker.speed = SpeedEstimator(fleet)
            alike = [other for other in self._all if other.speed.is_of(fleet)]
            worker.plain_slots.begin_like(other.plain_slots for other in alike)

    def _cache_changed(self) -> None:
        self.on_change()

    def _forget_cache(self, worker: Worker) -> None:
        """When it comes back, its memory is empty, and it may publish elsewhere."""
        self.prefixes.forget(worker)
        self._caches.forget(worker)
        worker.cache = None

    def _listen_to_cache(self, worker: Worker) -> None:
        def found(cache: WorkerCache) -> None:
            worker.cache = cache

        if self._settings.cache_events and worker.has_prefix_cache:
            agent = worker.state is not None
            self._caches.follow(worker, worker.url, found, worker.push_load, agent=agent)

    def _mark_up(self, worker: Worker) -> None:
        if worker.down:
            self._rename()
            self._listen_to_cache(worker)
        self.conditions.answered(worker)
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
