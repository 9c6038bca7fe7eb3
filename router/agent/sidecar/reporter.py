"""What a sidecar tells of its engine."""

from __future__ import annotations

from dataclasses import replace

from router.agent.gateways import Gateways
from router.agent.reporter import Reporter
from router.agent.sidecar.engine import Engine
from router.http.drain import Drain
from router.observe.metrics import AgentMetrics
from router.settings.agent import AgentSettings
from router.wire import AgentState


class SidecarReporter(Reporter):
    """As any agent's, but the model and its limits are the upstream's."""

    def __init__(
        self,
        settings: AgentSettings,
        engine: Engine,
        metrics: AgentMetrics,
        drain: Drain,
        gateways: Gateways,
    ) -> None:
        super().__init__(settings, engine, metrics, drain, gateways)
        self._upstream_engine = engine

    def state(self, gateway: str | None = None) -> AgentState:
        """The sidecar's state now."""
        engine = self._upstream_engine
        return replace(
            super().state(gateway),
            model=engine.model,
            kv_tokens=engine.kv_tokens,
            max_model_len=engine.max_model_len,
            more_models=engine.more_models,
        )
