"""The fleet: which workers there are, how they are, and what they still have to do."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import ceil
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from router.connections import Connections
from router.gateway.lifeline import Lifeline
from router.gateway.prefixes import Prefixes
from router.hardware import hardware
from router.metrics import GatewayMetrics
from router.settings import GatewaySettings
from router.wire import SILENCE_S, STATE_PATH, AgentState, WireError
from solver.cost import CostModel
from solver.estimate import ScaleEstimator
from solver.load import WorkerLoad
from solver.problem import WorkerView
from solver.rolling import LEAD

log = logging.getLogger(__name__)

RETRY_S = (0.1, 0.2, 0.5, 1.0)  # pauses between attempts to reach a worker that is down
PROBE_S = 1.0  # between looks at a worker without an agent
# What a worker that does not tell is taken to keep of prompts; llama-65b-ascend's memory.
PLAIN_KV_TOKENS = 131_072


class Worker:
    """One worker as the gateway knows it.

    Attributes:
        called: what it calls itself; `name` tells it from others that do the same.
        state: what its agent last said; None for a plain OpenAI-compatible server.
        models: the entries of ``/v1/models`` that it serves, by id.
        load: what this gateway has sent it and it has not finished.
        scale: learnt correction of the cost model of a worker without an agent.
        offer: its models and the longest request of each, where known.
        lifeline: holds the requests that it has.
    """

    def __init__(
        self, url: str, slots: int, cost: CostModel, *, prefix_cache: bool = False
    ) -> None:
        self.url = url
        self.name = self.called = urlsplit(url).netloc
        self.up = False
        self.state: AgentState | None = None
        self.models: dict[str, dict[str, Any]] = {}
        self.load = WorkerLoad()
        self.scale = ScaleEstimator()
        self.offer: tuple[tuple[str, int | None], ...] = ()
        self.lifeline = Lifeline()
        self._slots, self._cost, self._prefix_cache = slots, cost, prefix_cache

    @property
    def available(self) -> bool:
        """Whether it takes new requests."""
        return self.up and not (self.state is not None and self.state.draining)

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
    def keeps_prefixes(self) -> bool:
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

    def serve(self, models: dict[str, dict[str, Any]]) -> None:
        """It has told what it serves."""
        if models != self.models:
            self.models = models
            self.offer = tuple((model, self.max_model_len(model)) for model in models)

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

    def hear(self, state: AgentState) -> None:
        """Its agent reports."""
        if self.state is None or state.cost_ms != self.state.cost_ms:
            self._cost = CostModel.from_ms(state.cost_ms)
        self.state, self.called = state, state.name
        self.serve({state.model: state.model_entry()})


class Workers:
    """Follows every worker for as long as the gateway runs; `changed` is called at each report."""

    def __init__(
        self,
        settings: GatewaySettings,
        connections: Connections,
        metrics: GatewayMetrics,
    ) -> None:
        cost = hardware(settings.plain_cost).cost
        keeps = settings.plain_prefix_cache
        self._all = [
            Worker(url, settings.plain_slots, cost, prefix_cache=keeps) for url in settings.worker
        ]
        self.prefixes = Prefixes()
        self._connections, self._metrics = connections, metrics
        self.changed: Callable[[], None] = lambda: None
        self._connect_s = settings.connect_timeout_s

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
            for worker in self._all:
                group.create_task(self._follow(worker))

    def mark_down(self, worker: Worker, why: str) -> None:
        """It could not be reached; `_follow` will find out when it is back."""
        if worker.up:
            log.warning("worker is down", extra={"worker": worker.name, "why": why})
            worker.up = False
            if worker.state is not None:
                worker.lifeline.lose()
            self.prefixes.forget(worker)
            self.changed()

    async def _follow(self, worker: Worker) -> None:
        failures = 0
        while True:
            try:
                await self._listen(worker)
                failures, why = 0, "its agent ended the state stream"
            except Exception as error:  # whatever one worker says, the others are followed on
                failures, why = failures + (not worker.up), str(error) or type(error).__name__
            self.mark_down(worker, why)
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])

    async def _listen(self, worker: Worker) -> None:
        """Follow an agent's state stream to its end, or a plain server until it fails."""
        timeout = aiohttp.ClientTimeout(sock_connect=self._connect_s, sock_read=SILENCE_S)
        async with self._connections.session.get(
            worker.url + STATE_PATH, timeout=timeout
        ) as response:
            if response.status == 200:
                async for line in response.content:
                    worker.hear(AgentState.decode(line))
                    self._mark_up(worker)
                return
            if response.status >= 500:
                raise WireError(f"{worker.url}{STATE_PATH} answers {response.status}")
        while True:
            await self._probe(worker)
            self._mark_up(worker)
            await asyncio.sleep(PROBE_S)

    def _mark_up(self, worker: Worker) -> None:
        if not worker.up:
            for other in self._all:  # one that comes late may take a name from one behind it
                other.name = self._name(other)
            log.info("worker is up", extra={"worker": worker.name, "models": list(worker.models)})
            worker.up = True
            worker.lifeline.find()
        self.changed()

    def _name(self, worker: Worker) -> str:
        """What it calls itself, with its address if one before it in the list does so too."""
        before = itertools.takewhile(lambda other: other is not worker, self._all)
        if any(other.called == worker.called for other in before):
            return f"{worker.called}@{urlsplit(worker.url).netloc}"
        return worker.called

    async def _probe(self, worker: Worker) -> None:
        timeout = aiohttp.ClientTimeout(total=SILENCE_S)
        async with self._connections.session.get(
            worker.url + "/v1/models", timeout=timeout
        ) as response:
            response.raise_for_status()
            body = await response.read()
        entries: Any = None
        with suppress(orjson.JSONDecodeError, TypeError, KeyError):
            entries = {str(entry["id"]): entry for entry in orjson.loads(body)["data"]}
        if entries is None:
            raise WireError(f"{worker.url}/v1/models is not OpenAI's list of models")
        worker.serve(entries)
