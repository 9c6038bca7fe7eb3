"""The upstream as gateways see it: an engine with slots, memory and a model."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from math import inf

import aiohttp
import orjson

from router.agent.sidecar.gate import Gate
from router.agent.sidecar.upstream import Upstream, UpstreamUnusable
from router.http.model_field import with_field
from router.observe.engine_metrics import Signals, read_signals
from router.settings.agent import AgentSettings
from router.wire import MOST_NAMES_BYTES, is_name
from solver.batching.outside.release import Releaser
from solver.batching.outside.slots import SlotLimit
from solver.batching.priority import Priority

log = logging.getLogger(__name__)

SCRAPE_S = 0.5
# What is reported where nobody knows how long a request may be: no limit that anybody meets.
UNKNOWN_LEN = 1 << 20
MOST_KV = 1 << 31
# As vLLM numbers them: lower is first.
VLLM_PRIORITY = {Priority.INTERACTIVE: -1, Priority.DEFAULT: 0, Priority.BULK: 1}


class Engine:
    """What the server tells of itself, where the operator has not said otherwise."""

    def __init__(self, settings: AgentSettings, upstream: Upstream, gate: Gate) -> None:
        self._settings, self._upstream, self._gate = settings, upstream, gate
        self.changed = gate.changed
        self._limit = SlotLimit(settings.slots)
        self._generation_without_metrics = 0  # the upstream's, when it was seen to have none
        upstream.on_change = self._upstream_changed

    @property
    def stats(self) -> Releaser:
        """Slots, memory and work."""
        return self._gate.releaser

    @property
    def engine_name(self) -> str:
        """What runs the model; ``emulated`` if the server says that nothing does."""
        return (
            "emulated"
            if self._upstream.model_entry.get("emulated") is True
            else self._settings.engine
        )

    @property
    def has_prefix_cache(self) -> bool:
        """Whether it has a prefix cache, by the operator's word."""
        return self._settings.prefix_cache

    @property
    def steps_back(self) -> bool:
        """What runs in a server gives up its slot for nobody."""
        return False

    def told(self, body: bytes, priority: Priority) -> bytes:
        """A body by which our scheduler in it knows the priority; any other server's as it is."""
        number = VLLM_PRIORITY[priority]
        own = number and self._settings.engine == "vllm"
        return with_field(body, "priority", number) if own else body

    @property
    def healthy(self) -> bool:
        """Whether the server serves."""
        return self._upstream.up

    def record_slots(self) -> AbstractContextManager[None]:
        """Nobody outside the server sees what its single slots do."""
        return nullcontext()

    @property
    def model(self) -> str:
        """The model that it serves."""
        return self._upstream.model

    @property
    def more_models(self) -> tuple[str, ...]:
        """Other names that it serves: of the model, and of adapters; as many as can be told."""
        found, size = list[str](), 0
        for name in self._upstream.models:
            size += len(orjson.dumps(name)) + 1
            if size > MOST_NAMES_BYTES:
                break
            if name != self.model and is_name(name):
                found.append(name)
        return tuple(found)

    @property
    def max_model_len(self) -> int:
        """Prompt and output tokens that one request may have."""
        reported = self._upstream.model_entry.get("max_model_len")
        if "max_model_len" not in self._settings.model_fields_set:
            return reported if isinstance(reported, int) and reported > 1 else UNKNOWN_LEN
        return self._settings.max_model_len

    @property
    def kv_tokens(self) -> int:
        """Cached tokens that it can hold; as many as could be asked of it, if nobody knows."""
        known = self._gate.releaser.kv_tokens
        return (
            min(MOST_KV, self._settings.slots * self.max_model_len) if known == inf else int(known)
        )

    async def run(self) -> None:
        """Read its metrics until cancelled, where it has some."""
        while True:
            if self._upstream.up and self._generation_without_metrics != self._upstream.generation:
                try:
                    status, body = await self._upstream.fetch("/metrics")
                except (aiohttp.ClientError, TimeoutError, OSError, UpstreamUnusable):
                    status, body = 0, b""  # whether it lives is seen elsewhere
                if status == 200:
                    self._learn(read_signals(body))
                elif status:
                    self._generation_without_metrics = self._upstream.generation
            await asyncio.sleep(SCRAPE_S)

    def _learn(self, signals: Signals) -> None:
        releaser = self._gate.releaser
        if signals.running is not None and signals.waiting is not None:
            prefilling = releaser.in_flight.is_prefilling(time.monotonic())
            slots = self._limit.observe(signals.running, signals.waiting, prefilling=prefilling)
            if slots != releaser.slots:
                log.info("the engine runs fewer or more at once", extra={"slots": slots})
                releaser.resize(slots, time.monotonic())
                self._gate.reconsider()
        if signals.kv_tokens is not None and "kv_tokens" not in self._settings.model_fields_set:
            releaser.kv_tokens = signals.kv_tokens

    def _upstream_changed(self) -> None:
        """It is up or down: streams of states end, and begin again."""
        self.changed.set()
        if self._upstream.up:
            self._limit = SlotLimit(self._settings.slots)
            self._gate.releaser.resize(self._settings.slots, time.monotonic())
