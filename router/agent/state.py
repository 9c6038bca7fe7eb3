"""What an agent tells about itself: metrics to Prometheus, its state to gateways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from router.agent.loop import EngineLoop
from router.drain import Drain
from router.metrics import AgentMetrics
from router.settings import AgentSettings
from router.wire import HEARTBEAT_S, STATE_EVERY_S, AgentState


class Reporter:
    """Reads the loop's batcher; owns nothing but what was last exported."""

    def __init__(
        self, settings: AgentSettings, loop: EngineLoop, metrics: AgentMetrics, drain: Drain
    ) -> None:
        self._settings, self._loop, self._metrics, self._drain = settings, loop, metrics, drain
        self._exported: dict[str, float] = {}

    def render(self) -> bytes:
        """The metrics, booked up to this moment."""
        batcher = self._loop.batcher
        batcher.ledger.advance(time.monotonic())
        for state, seconds in batcher.ledger.seconds.items():
            new = seconds - self._exported.get(state, 0.0)
            self._metrics.slot_seconds.labels(state).inc(new)
            self._exported[state] = seconds
        self._metrics.utilization.set(batcher.ledger.utilization)
        self._metrics.efficiency.set(batcher.efficiency)
        self._metrics.kv_tokens.set(batcher.kv_held)
        self._metrics.queue_requests.set(batcher.queued)
        return self._metrics.render()

    def state(self) -> AgentState:
        """The agent's state now."""
        batcher, settings = self._loop.batcher, self._settings
        return AgentState(
            name=settings.name,
            model=settings.model,
            engine=self._loop.engine.name,
            policy=settings.policy,
            slots=batcher.slots,
            kv_tokens=settings.kv_tokens,
            max_model_len=settings.max_model_len,
            cost_ms=batcher.cost.to_ms(),
            running=batcher.running,
            queued=batcher.queued,
            kv_held=batcher.kv_held,
            utilization=batcher.ledger.utilization,
            draining=self._drain.begun,
            prefix_cache=batcher.cache is not None,
        )

    async def stream(self) -> AsyncIterator[bytes]:
        """State lines as `router.wire` promises them.

        Ends when the agent has drained, and when its engine breaks down.
        """
        while not self._loop.broken:
            state = self.state()
            yield state.encode()
            if state.draining and not state.running and not state.queued:
                return
            await asyncio.sleep(STATE_EVERY_S)
            if self.state() == state:
                self._loop.changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._loop.changed.wait(), HEARTBEAT_S - STATE_EVERY_S)
