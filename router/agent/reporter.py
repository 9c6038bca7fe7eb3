"""What an agent tells about itself: metrics to Prometheus, its state to gateways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from router.agent.gateways import Gateways
from router.agent.slot_trace import SlotTrace
from router.http.drain import Drain
from router.observe.metrics import AgentMetrics
from router.settings.agent import AgentSettings
from router.wire import HEARTBEAT_S, STATE_EVERY_S, AgentState, Beside, PrefillSpan, SlotReport
from solver.batching.ledger import SlotLedger
from solver.cost.model import CostModel


class EngineStats(Protocol):
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


class ReportedEngine(Protocol):
    """What a `Reporter` reports of."""

    changed: asyncio.Event

    @property
    def stats(self) -> EngineStats:
        """Its slots, memory and work."""
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
    def steps_back(self) -> bool:
        """Whether bulk work steps back in it for all other."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether the engine can serve at all; where it cannot, nothing is reported."""
        ...

    def record_slots(self) -> AbstractContextManager[SlotTrace | None]:
        """Record what each slot does while the context lasts, where that can be seen."""
        ...


class Reporter:
    """Reads an engine's stats; owns nothing but what was last exported."""

    def __init__(
        self,
        settings: AgentSettings,
        engine: ReportedEngine,
        metrics: AgentMetrics,
        drain: Drain,
        gateways: Gateways,
    ) -> None:
        self._settings, self._engine, self._metrics, self._drain = settings, engine, metrics, drain
        self._gateways = gateways
        self._exported: dict[str, float] = {}

    def render(self) -> bytes:
        """The metrics, booked up to this moment."""
        stats = self._engine.stats
        stats.ledger.advance(time.monotonic())
        for state, seconds in stats.ledger.seconds.items():
            new = seconds - self._exported.get(state, 0.0)
            self._metrics.slot_seconds.labels(state).inc(new)
            self._exported[state] = seconds
        self._metrics.utilization.set(stats.ledger.utilization)
        self._metrics.useful.set(stats.ledger.useful)
        self._metrics.efficiency.set(stats.efficiency)
        self._metrics.kv_tokens.set(stats.kv_held)
        self._metrics.queue_requests.set(stats.queued)
        return self._metrics.render()

    def state(self, gateway: str | None = None) -> AgentState:
        """The agent's state now, for a gateway that has said which it is."""
        stats, settings = self._engine.stats, self._settings
        return AgentState(
            name=settings.name,
            model=settings.model,
            engine=self._engine.engine_name,
            policy=settings.policy,
            slots=stats.slots,
            kv_tokens=settings.kv_tokens,
            max_model_len=settings.max_model_len,
            cost_ms=stats.cost.to_ms(),
            running=stats.running,
            queued=stats.queued,
            kv_held=stats.kv_held,
            utilization=stats.ledger.utilization,
            draining=self._drain.begun,
            prefix_cache=self._engine.has_prefix_cache,
            steps_back=self._engine.steps_back,
            beside=Beside() if gateway is None else self._gateways.beside(gateway),
        )

    @property
    def healthy(self) -> bool:
        """Whether there is anything to report."""
        return self._engine.healthy

    async def stream(self, gateway: str | None = None) -> AsyncIterator[bytes]:
        """State lines as `router.wire` promises them.

        Ends when the agent has drained, or its engine is down.
        """
        while self._engine.healthy:
            state = self.state(gateway)
            yield state.encode()
            if state.draining and not state.running and not state.queued:
                return
            await asyncio.sleep(STATE_EVERY_S)
            if self._engine.healthy and self.state(gateway) == state:
                self._engine.changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._engine.changed.wait(), HEARTBEAT_S - STATE_EVERY_S)

    async def slots(self, every_s: float) -> AsyncIterator[bytes]:
        """`SlotReport` lines for one who looks on; they end with the agent's work."""
        with self._engine.record_slots() as trace:
            while self._engine.healthy and not self._done:
                await asyncio.sleep(every_s)
                yield self._slot_report(trace).encode()

    @property
    def _done(self) -> bool:
        stats = self._engine.stats
        return self._drain.begun and not stats.running and not stats.queued

    def _slot_report(self, trace: SlotTrace | None) -> SlotReport:
        stats, now = self._engine.stats, time.monotonic()
        stats.ledger.advance(now)
        held = None
        since_s, until_s, fills = now, now, list[PrefillSpan]()
        if trace is not None:
            since_s, until_s, held, fills = trace.take(now, idle=not stats.running)
        return SlotReport(
            now_s=now,
            slots=stats.slots,
            seconds={state: round(spent, 6) for state, spent in stats.ledger.seconds.items()},
            efficiency=stats.efficiency,
            since_s=since_s,
            until_s=until_s,
            held=held,
            fills=fills,
        )
