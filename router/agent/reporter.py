"""What an agent tells about itself: metrics to Prometheus, its state to gateways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from router.agent.slot_trace import SlotTrace
from router.http.drain import Drain
from router.observe.metrics import AgentMetrics
from router.settings.agent import AgentSettings
from router.wire import HEARTBEAT_S, STATE_EVERY_S, AgentState, Fill, SlotReport
from solver.batching.ledger import SlotLedger
from solver.cost.model import CostModel


class Books(Protocol):
    """What is known of an engine's slots, memory and work."""

    @property
    def ledger(self) -> SlotLedger:
        """Where slot-time went."""
        ...

    @property
    def cost(self) -> CostModel:
        """The engine's iteration times."""
        ...

    @property
    def efficiency(self) -> float:
        """Lower bound of the work of the last busy period over its time."""
        ...

    @property
    def slots(self) -> int:
        """Sequences that it runs at once."""
        ...

    @property
    def running(self) -> int:
        """Slots in use."""
        ...

    @property
    def queued(self) -> int:
        """Sequences waiting for a slot."""
        ...

    @property
    def kv_held(self) -> int:
        """Cached tokens now."""
        ...


class Source(Protocol):
    """What a `Reporter` reports of."""

    changed: asyncio.Event

    @property
    def books(self) -> Books:
        """The engine's books."""
        ...

    @property
    def engine_name(self) -> str:
        """What runs the model."""
        ...

    @property
    def has_prefix_cache(self) -> bool:
        """Whether the engine has a prefix cache."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the engine can serve at all; where it cannot, nothing is reported."""
        ...

    def traced(self) -> AbstractContextManager[SlotTrace | None]:
        """Record what each slot does while the context lasts, where that can be seen."""
        ...


class Reporter:
    """Reads an engine's books; owns nothing but what was last exported."""

    def __init__(
        self, settings: AgentSettings, source: Source, metrics: AgentMetrics, drain: Drain
    ) -> None:
        self._settings, self._source, self._metrics, self._drain = settings, source, metrics, drain
        self._exported: dict[str, float] = {}

    def render(self) -> bytes:
        """The metrics, booked up to this moment."""
        books = self._source.books
        books.ledger.advance(time.monotonic())
        for state, seconds in books.ledger.seconds.items():
            new = seconds - self._exported.get(state, 0.0)
            self._metrics.slot_seconds.labels(state).inc(new)
            self._exported[state] = seconds
        self._metrics.utilization.set(books.ledger.utilization)
        self._metrics.efficiency.set(books.efficiency)
        self._metrics.kv_tokens.set(books.kv_held)
        self._metrics.queue_requests.set(books.queued)
        return self._metrics.render()

    def state(self) -> AgentState:
        """The agent's state now."""
        books, settings = self._source.books, self._settings
        return AgentState(
            name=settings.name,
            model=settings.model,
            engine=self._source.engine_name,
            policy=settings.policy,
            slots=books.slots,
            kv_tokens=settings.kv_tokens,
            max_model_len=settings.max_model_len,
            cost_ms=books.cost.to_ms(),
            running=books.running,
            queued=books.queued,
            kv_held=books.kv_held,
            utilization=books.ledger.utilization,
            draining=self._drain.begun,
            prefix_cache=self._source.has_prefix_cache,
        )

    @property
    def serves(self) -> bool:
        """Whether there is anything to report."""
        return self._source.alive

    async def stream(self) -> AsyncIterator[bytes]:
        """State lines as `router.wire` promises them.

        Ends when the agent has drained, or its engine is down.
        """
        while self._source.alive:
            state = self.state()
            yield state.encode()
            if state.draining and not state.running and not state.queued:
                return
            await asyncio.sleep(STATE_EVERY_S)
            if self._source.alive and self.state() == state:
                self._source.changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._source.changed.wait(), HEARTBEAT_S - STATE_EVERY_S)

    async def slots(self, every_s: float) -> AsyncIterator[bytes]:
        """`SlotReport` lines for one who looks on; they end with the agent's work."""
        with self._source.traced() as trace:
            while self._source.alive and not self._done:
                await asyncio.sleep(every_s)
                yield self._slot_report(trace).encode()

    @property
    def _done(self) -> bool:
        books = self._source.books
        return self._drain.begun and not books.running and not books.queued

    def _slot_report(self, trace: SlotTrace | None) -> SlotReport:
        books, now = self._source.books, time.monotonic()
        books.ledger.advance(now)
        held = None
        since_s, until_s, fills = now, now, list[Fill]()
        if trace is not None:
            since_s, until_s, held, fills = trace.take(now, idle=not books.running)
        return SlotReport(
            now_s=now,
            slots=books.slots,
            seconds={state: round(spent, 6) for state, spent in books.ledger.seconds.items()},
            efficiency=books.efficiency,
            since_s=since_s,
            until_s=until_s,
            held=held,
            fills=fills,
        )
