"""The upstream as gateways see it: an engine with slots, memory and a model."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from math import inf

import aiohttp

from router.agent.sidecar.engine_metrics import Signals, read_signals
from router.agent.sidecar.gate import Gate
from router.agent.sidecar.upstream import Upstream
from router.settings.agent import AgentSettings
from solver.batching.outside.release import Releaser
from solver.batching.outside.slots import SlotLimit

log = logging.getLogger(__name__)

SCRAPE_S = 0.5
# What is reported where nobody knows how long a request may be: no limit that anybody meets.
UNKNOWN_LEN = 1 << 20
MOST_KV = 1 << 31


class Engine:
    """What the server tells of itself, where the operator has not said otherwise."""

    def __init__(self, settings: AgentSettings, upstream: Upstream, gate: Gate) -> None:
        self._settings, self._upstream, self._gate = settings, upstream, gate
        self.changed = gate.changed
        self._limit = SlotLimit(settings.slots)
        self._scraped_life = 0  # the server's life in which it was seen to have no metrics
        upstream.moved = self._moved

    @property
    def books(self) -> Releaser:
        """Slots, memory and work."""
        return self._gate.books

    @property
    def engine_name(self) -> str:
        """What runs the model; ``emulated`` if the server says that nothing does."""
        return "emulated" if self._upstream.entry.get("emulated") is True else self._settings.engine

    @property
    def keeps_prefixes(self) -> bool:
        """Whether it has a prefix cache, by the operator's word."""
        return self._settings.prefix_cache

    @property
    def alive(self) -> bool:
        """Whether the server serves."""
        return self._upstream.up

    def traced(self) -> AbstractContextManager[None]:
        """Nobody outside the server sees what its single slots do."""
        return nullcontext()

    @property
    def model(self) -> str:
        """The model that it serves."""
        return self._upstream.model

    @property
    def max_model_len(self) -> int:
        """Prompt and output tokens that one request may have."""
        told = self._upstream.entry.get("max_model_len")
        if "max_model_len" not in self._settings.model_fields_set:
            return told if isinstance(told, int) and told > 1 else UNKNOWN_LEN
        return self._settings.max_model_len

    @property
    def kv_tokens(self) -> int:
        """Cached tokens that it can hold; as many as could be asked of it, if nobody knows."""
        known = self.books.kv_tokens
        return (
            min(MOST_KV, self._settings.slots * self.max_model_len) if known == inf else int(known)
        )

    async def run(self) -> None:
        """Read its metrics until cancelled, where it has some."""
        while True:
            if self._upstream.up and self._scraped_life != self._upstream.lives:
                try:
                    status, body = await self._upstream.fetch("/metrics")
                except (aiohttp.ClientError, TimeoutError, OSError):
                    status, body = 0, b""  # whether it lives is seen elsewhere
                if status == 200:
                    self._learn(read_signals(body.decode("utf-8", "replace")))
                elif status:
                    self._scraped_life = self._upstream.lives
            await asyncio.sleep(SCRAPE_S)

    def _learn(self, signals: Signals) -> None:
        books = self.books
        if signals.running is not None and signals.waiting is not None:
            prefilling = books.in_flight.is_prefilling(time.monotonic())
            slots = self._limit.observe(signals.running, signals.waiting, prefilling=prefilling)
            if slots != books.slots:
                log.info("the engine runs fewer or more at once", extra={"slots": slots})
                books.resize(slots, time.monotonic())
                self._gate.consider()
        if signals.kv_tokens is not None and "kv_tokens" not in self._settings.model_fields_set:
            books.kv_tokens = signals.kv_tokens

    def _moved(self) -> None:
        """It is up or down: streams of states end, and begin again."""
        self.changed.set()
        if self._upstream.up:
            self._limit = SlotLimit(self._settings.slots)
            self.books.resize(self._settings.slots, time.monotonic())
