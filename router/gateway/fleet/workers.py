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
from math import ceil
from typing import Any
from urllib.parse import urlsplit

from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.prefixes import Prefixes
from router.gateway.fleet.reports import reports
from router.gateway.fleet.stalls import StallGuard
from router.http.connections import Connections
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewaySettings
from router.settings.hardware import hardware
from router.wire import AgentState
from solver.cost.estimators import ScaleEstimator
from solver.cost.model import CostModel
from solver.routing.load import WorkerLoad
from solver.routing.problem import WorkerView
from solver.routing.rolling import LEAD

log = logging.getLogger(__name__)

RECONNECT_S = (0.1, 0.2, 0.5, 1.0)  # pauses between attempts to reach a worker that is down
# What a worker that does not tell is taken to keep of prompts; llama-65b-ascend's memory.
PLAIN_KV_TOKENS = 131_072


class Worker:
    """One worker as the gateway knows it.

    Attributes:
        reported_name: what it calls itself; `name` tells it from others that do the same.
        state: what its agent last said; None for a plain OpenAI-compatible server.
        models: the entries of ``/v1/models`` that it serves, by id.
        load: what this gateway has sent it and it has not finished.
        scale: learnt correction of the cost model of a worker without an agent.
        served: its models and the longest request of each, where known.
        stall_guard: times out the requests that it has, should it fall silent.
        leaving: it is to go as soon as it has nothing left to do.
    """

    def __init__(
        self, url: str, slots: int, cost: CostModel, *, prefix_cache: bool = False
    ) -> None:
        self.url = url
        self.name = self.reported_name = urlsplit(url).netloc
        self.up = False
        self.state: AgentState | None = None
        self.models: dict[str, dict[str, Any]] = {}
        self.load = WorkerLoad()
        self.scale = ScaleEstimator()
        self.served: tuple[tuple[str, int | None], ...] = ()
        self.stall_guard = StallGuard()
        self.leaving = False
        self._slots, self._cost, self._prefix_cache = slots, cost, prefix_cache

    @property
    def available(self) -> bool:
        """Whether it takes new requests."""
        return self.up and not self.draining

    @property
    def draining(self) -> bool:
        """Whether it only finishes what it has: it is to leave, or its agent shuts down."""
        return self.leaving or (self.state is not None and self.state.draining)

    @property
    def slots(self) -> int:
        """Sequences that it runs at once."""
        return self.state.slots if self.state is not None else self._slots

    @property
    def base_cost(self) -> CostModel:
        """Its cost model before what was learnt: its agent's word, or the assumed one."""
        return self._cost

    @property
    def cost(self) -> CostModel:
        """Its iteration times, as well as they are known."""
        return self._cost if self.state is not None else self._cost.scaled(self.scale.factor)

    @property
    def queued(self) -> int:
        """Requests that have not begun there, as its agent last said; they can be taken back."""
        return 0 if self.state is None else min(self.state.queued, len(self.load))

    @property
    def round_s(self) -> float:
        """Seconds of a decode round at full slots."""
        return self.cost.decode_s(self.slots)

    @property
    def free_slots(self) -> int:
        """Sequences that it could start at once; 0 where it is down or its memory is full."""
        return 0 if self._closed else max(0, self.slots - self.load.sequences)

    @property
    def room(self) -> int:
        """Sequences that it could start soon: free slots and a lead."""
        if self._closed:
            return 0
        return max(0, self.slots + ceil(LEAD * self.slots) - self.load.sequences)

    @property
    def _closed(self) -> bool:
        full = self.state is not None and self.load.kv_tokens >= self.state.kv_tokens
        return full or not self.available

    @property
    def has_prefix_cache(self) -> bool:
        """Whether its engine has a prefix cache."""
        return self._prefix_cache if self.state is None else self.state.prefix_cache

    @property
    def kv_free(self) -> float:
        """Cached tokens that it has room for beside what it has been sent."""
        tokens = PLAIN_KV_TOKENS if self.state is None else self.state.kv_tokens
        return tokens - self.load.kv_tokens

    def max_model_len(self, model: str) -> int | None:
        """Prompt and output tokens that a request for `model` may have; None if unknown."""
        length = self.models.get(model, {}).get("max_model_len")
        return length if isinstance(length, int) else None

    def update_models(self, models: dict[str, dict[str, Any]]) -> None:
        """It has told what it serves."""
        if models != self.models:
            self.models = models
            self.served = tuple((model, self.max_model_len(model)) for model in models)

    def backlog_s(self, more: int, now: float) -> float:
        """Seconds until it has done what it has."""
        return self.load.backlog_s(self.cost, self.slots, more, now)

    def view(self, now: float) -> WorkerView:
        """What the planner sees of it."""
        kv = None if self.state is None else self.state.kv_tokens - self.load.kv_reserved
        backlog = self.backlog_s(self.slots, now)
        return WorkerView(
            cost=self.cost,
            slots=self.slots,
            in_flight=self.load.sequences,
            backlog_s=backlog,
            prefill_s=self.load.prefill_s(self.cost, self.slots, now),
            kv_free=kv,
        )

    def update_state(self, state: AgentState) -> None:
        """Its agent reports."""
        if self.state is None or state.cost_ms != self.state.cost_ms:
            self._cost = CostModel.from_ms(state.cost_ms)
        self.state, self.reported_name = state, state.name
        self.update_models({state.model: state.model_entry()})


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
