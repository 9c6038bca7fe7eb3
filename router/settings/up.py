"""Settings of ``makespan up``: those of a gateway and of its agents, on one machine."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from router.settings.agent import ENGINE, AgentTuning
from router.settings.base import Port, Speeds
from router.settings.gateway import GatewayTuning


class UpSettings(GatewayTuning, AgentTuning):
    """Start a gateway and agents on this machine, under one supervisor."""

    table: ClassVar[str] = "up"

    engine: Literal["emulated", "transformers"] = Field("emulated", description=ENGINE)
    port: Port = Field(8000, description="Port of the gateway; 0 takes a free one.")
    agents: int = Field(2, ge=1, le=64, description="How many agents.")
    agent_port: Port = Field(
        0, description="Port of the first agent, the others follow; 0 takes free ones."
    )
    speed: Speeds = Field(
        (20.0,),
        description="Speed of the agents' emulated engines; several are dealt out in turn. Real "
        "engines have none.",
    )
    drain_s: float = Field(
        2.0, ge=0, le=86_400, description="Seconds that running requests get to end at shutdown."
    )

    @model_validator(mode="after")
    def _ports(self) -> Self:
        if self.agent_port and self.agent_port + self.agents > 65_536:
            raise ValueError(
                f"agent_port: {self.agents} agents from {self.agent_port} on pass 65535"
            )
        first = int(self.kv_events.rpartition(":")[2]) if self.kv_events else 0
        if first and first + self.agents > 65_536:
            raise ValueError(f"kv_events: {self.agents} agents from {first} on pass 65535")
        return self
