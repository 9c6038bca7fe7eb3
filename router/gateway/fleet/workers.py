"""The fleet: which workers there are, how they are, and what they still have to do.

Looks go to addresses, plans to workers: a server of several data-parallel ranks is one `Address`
with a worker for each.

A worker that leaves the fleet is drained: it gets nothing new, what queues there is taken back
(`router.gateway.planning.recaller`), what runs there ends, and then it is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from math import inf
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import aiohttp

from router.gateway.fleet.address import Address
from router.gateway.fleet.conditions import Conditions
from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.evenness import Evenness
from router.gateway.fleet.health import Standing
from router.gateway.fleet.kv.caches import Caches
from router.gateway.fleet.kv.loads import Loads
from router.gateway.fleet.kv.stream import Knowledge
from router.gateway.fleet.others import Peers, Siblings
from router.gateway.fleet.prefixes import Prefixes, Told
from router.gateway.fleet.reports import PlainLook, complaint, reports
from router.gateway.fleet.stalls import LEAST_PATIENCE_S
from router.gateway.fleet.turns import LONG_S, Turns
from router.gateway.fleet.worker import Worker
from router.http.client import is_own_lack
from router.http.connections import Connections
from router.http.errors import ModelNotFoundError
from router.http.secret import prompt_key
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewaySettings
from router.settings.hardware import hardware
from router.wire import AgentState
from solver.cost.estimators import FleetSpeeds, SpeedEstimator

log = logging.getLogger(__name__)

# How often waiting requests are looked through: a delay that nobody notices beside a patience; and
# how late such a look may be.
WATCH_S, LATE_WATCH_S = 0.1, 0.1
RECONNECT_S = (0.1, 0.2, 0.5, 1.0)  # pauses between attempts to reach a worker that is down


class Workers:
    """Follows every worker while the gateway runs.

    `on_change` is called at each report, `on_shared` at each that tells of other gateways there.
    `before_plan` takes what others have told of them until now; whether they had told more.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        connections: Connections,
        metrics: GatewayMetrics,
        siblings: Siblings | None = None,
        peers: Peers | None = None,
        told: Told | None = None,
    ) -> None:
        """`told` are those who hear what is sent here."""
        self._settings, self._cost = settings, hardware(settings.plain_cost).cost
        self._all: list[Worker] = []
        self._addresses: dict[str, Address[Worker]] = {}
        self._tasks: dict[Address[Worker], asyncio.Task[None]] = {}
        # For as long as anybody serves the like: a worker may tell of other models at each look.
        self._speeds: WeakValueDictionary[tuple[str, ...], FleetSpeeds] = WeakValueDictionary()
        self._group: asyncio.TaskGroup | None = None
        self._turns = Turns()
        self._contexts: dict[str, tuple[int | None, bool]] = {}  # of models that are served
        self.prefixes = Prefixes(told, prompt_key(connections.secret))
        self._caches = Caches(connections, self._cache_changed)
        self.conditions = Conditions(metrics, self._changed)
        self.evenness = Evenness(self, self.conditions.stand)
        self._connections, self._metrics = connections, metrics
        self._siblings, self._peers = siblings, peers
        self.on_change: Callable[[], None] = lambda: None
        self.on_shared: Callable[[], None] = lambda: None
        self.before_plan: Callable[[], bool] = lambda: False

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._all)

    def find(self, place: str) -> Worker | None:
        """The one that is called so by all who send there."""
        url = place.partition("#")[0]
        address = self._addresses.get(url)
        there = () if address is None else address.workers
        return next((one for one in there if one.place == place), None)

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

    def serving(self, model: str) -> bool:
        """Whether somebody serves it now."""
        return any(worker.available and model in worker.models for worker in self._all)

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
            for address in self._addresses.values():
                self._start(address)
            try:
                await asyncio.Event().wait()  # more may come
            finally:
                await self._caches.close()

    async def _watch(self) -> None:
        """Look through the requests at each worker for those that wait for too long."""
        while True:
            due_s = time.monotonic() + (wait_s := self._watch_s())
            await asyncio.sleep(wait_s)
            now = time.monotonic()
            if now - due_s < LATE_WATCH_S:  # else it was we who stood still
                for address in list(self._addresses.values()):
                    self.conditions.watch(address.first, now)

    def _watch_s(self) -> float:
        """Until the next look: nobody's patience ends before, nor that of who comes meanwhile."""
        now, first_s = time.monotonic(), LEAST_PATIENCE_S
        for address in self._addresses.values():
            if address.health.standing is Standing.SUSPECT:
                return WATCH_S
            first_s = min(first_s, address.stall_guard.first_s(now))
        return max(WATCH_S, first_s)

    def _changed(self, worker: Worker, before: Standing) -> None:
        """Its health has changed."""
        standing = worker.health.standing
        if standing is Standing.DOWN and before is not Standing.DOWN:
            self.evenness.forget(worker)
            self._forget_caches(worker.address)
            worker.address.refuses = False
        self.on_change()

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """The fleet is to be these: who is new is followed, who is not among them drains."""
        wanted = {one.url: one.tls_name for one in endpoints if not one.draining}
        for address in list(self._addresses.values()):
            if address.leaving != (address.url not in wanted):
                address.leaving = not address.leaving
                what = "worker leaves" if address.leaving else "worker stays after all"
                for worker in address.workers:
                    log.info(what, extra={"worker": worker.name, "in_flight": len(worker.load)})
            self._settle(address)
        for url, tls_name in wanted.items():
            self._connections.expect(url, tls_name)  # another one may have come to the same place
            if url not in self._addresses:
                self._add(url)
        self.on_change()

    def _add(self, url: str) -> None:
        address: Address[Worker] = Address(url)
        self._addresses[url] = address
        self._all.append(self._new(address))
        self._contexts.clear()
        if self._group is not None:
            self._start(address)

    def _new(self, address: Address[Worker]) -> Worker:
        settings, url = self._settings, address.url
        worker = Worker(
            url,
            settings.slots_of(url),
            self._cost,
            prefix_cache=settings.plain_prefix_cache,
            address=address,
        )
        worker.siblings, worker.peers = self._siblings, self._peers
        return worker

    def _start(self, address: Address[Worker]) -> None:
        assert self._group is not None
        self._tasks[address] = self._group.create_task(self._follow(address))

    def _plan_ranks(self, address: Address[Worker], count: int) -> None:
        """It has so many ranks, each a worker; those that it has no more finish what they have."""
        if address.leaving:
            return
        count = 1 if address.refuses else count
        changed, address.count = address.count != count, count
        missing = address.missing()
        if not (changed or missing):
            return
        at = self._all.index(address.first)
        others = [worker for worker in self._all if worker.address is not address]
        for rank in missing:
            self._new(address).use_rank(rank)
        address.workers.sort(key=lambda worker: worker.rank or 0)
        self._all = [*others[:at], *address.workers, *others[at:]]
        log.info("ranks", extra={"worker": address.url, "ranks": count})
        self._forget_caches(address)
        self._settle(address)
        self._rename()
        self._contexts.clear()
        if not address.first.down:
            self._listen_to_caches(address)

    def _settle(self, address: Address[Worker]) -> None:
        """Whoever stays or leaves there."""
        address.settle()
        for worker in list(address.workers):
            self.forget_if_drained(worker)

    def forget_if_drained(self, worker: Worker) -> None:
        """If it is leaving and has nothing left, forget it."""
        if not worker.leaving or len(worker.load) or worker not in self._all:
            return
        address = worker.address
        self._all.remove(worker)
        address.workers.remove(worker)
        self._contexts.clear()
        worker.forgotten()
        self.prefixes.forget(worker)
        if not address.workers:
            self._forget(address, worker)
        self._rename()
        log.info("worker has left", extra={"worker": worker.name})

    def _forget(self, address: Address[Worker], last: Worker) -> None:
        """With the `last` of its workers."""
        del self._addresses[address.url]
        self.conditions.forget(last)
        self.evenness.forget(last)
        self._caches.forget(address)
        self._connections.forget(address.url)
        if address in self._tasks:
            self._tasks.pop(address).cancel()

    def mark_down(self, worker: Worker, why: str) -> None:
        """It cannot be served from; `_follow` will find out when it can."""
        self.conditions.lost(worker, why)

    async def _follow(self, address: Address[Worker]) -> None:
        """Look at it again and again."""
        failures, up_s = 0, time.monotonic()
        while True:
            if address.first.down:
                long = time.monotonic() - up_s > LONG_S
                await self._turns.wait(failures and 1 + long)
            asked_s = time.monotonic()
            try:
                await self._listen(address)
                failures = 0
                self.conditions.lost(address.first, "its agent ended the state stream")
            except TimeoutError as error:
                failures = failures + 1 if address.first.down else 0
                self._silent(address.first, asked_s, complaint(error))
            except Exception as error:  # whatever one worker says, the others are followed on
                failures = failures + 1 if address.first.down else 0
                self._broken(address.first, error)
            if not failures:
                up_s = time.monotonic()
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
        """A look was answered badly, or not at all.

        One for which there was no room here says nothing of a worker that is not down.
        """
        if isinstance(error, OSError) and is_own_lack(error) and not worker.down:
            return
        once = isinstance(error, aiohttp.ClientError | OSError)
        refused = isinstance(error, aiohttp.ClientConnectorError)
        if once and not refused and not worker.down and worker.state is None:
            self.conditions.missed(worker, complaint(error))
        else:
            self.conditions.lost(worker, complaint(error))

    async def _listen(self, address: Address[Worker]) -> None:
        connect_s = self._settings.connect_timeout_s
        asks = partial(reports, self._connections, address.url, connect_s)
        async with aclosing(asks(lambda: address.wants_metrics)) as report_stream:
            async for report in report_stream:
                self.take_report(address, report)

    def take_report(self, address: Address[Worker], report: AgentState | PlainLook) -> None:
        """What a look at the server has seen."""
        ranks = 1 if isinstance(report, AgentState) else report.ranks
        if ranks is not None:
            self._plan_ranks(address, ranks)
        models, name = address.first.models, address.first.reported_name
        for worker in address.workers:
            if isinstance(report, AgentState):
                worker.update_state(report)
                if worker.is_shared:
                    self.on_shared()
            else:
                worker.update_plain(report, time.monotonic())
                self._compare(worker)
        if address.first.models is not models:
            self._contexts.clear()
        if address.first.reported_name != name:
            self._rename()
        if address.first.down and isinstance(report, AgentState) and report.draining:
            self.conditions.lost(address.first, "its agent is shutting down")
        else:
            self._mark_up(address.first)

    def _compare(self, worker: Worker) -> None:
        """Those that serve the same models are taken to be alike, until they show otherwise."""
        fleet = self._speeds.setdefault(tuple(worker.models), FleetSpeeds())
        if not worker.speed.is_of(fleet):
            worker.speed = SpeedEstimator(fleet)
            alike = [other for other in self._all if other.speed.is_of(fleet)]
            worker.plain_slots.begin_like(other.plain_slots for other in alike)

    def _cache_changed(self) -> None:
        self.on_change()

    def _forget_caches(self, address: Address[Worker]) -> None:
        """When it comes back, its memory is empty, and it may publish elsewhere."""
        self._caches.forget(address)
        for worker in address.workers:
            self.prefixes.forget(worker)
            worker.cache, worker.loads = None, Loads()

    def _listen_to_caches(self, address: Address[Worker]) -> None:
        if self._settings.cache_events and address.first.has_prefix_cache:
            self._caches.follow(address, agent=address.first.state is not None)

    def _mark_up(self, worker: Worker) -> None:
        if worker.down:
            self._rename()
            self._listen_to_caches(worker.address)
        self.conditions.answered(worker)
        self.on_change()

    def _rename(self) -> None:
        """One that comes late may take a name from one behind it, one that goes may free it."""
        taken = set[str]()
        for worker in self._all:
            name = worker.reported_name
            worker.name = f"{name}@{urlsplit(worker.url).netloc}" if name in taken else name
            taken.add(name)
