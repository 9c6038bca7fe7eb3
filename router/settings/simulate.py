"""Settings of ``makespan simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from router.settings.offline import DispatcherName, PolicyName, Traffic


class SimulateSettings(Traffic):
    """Run a trace through one or more workers in virtual time."""

    table: ClassVar[str] = "simulate"

    workers: int = Field(1, ge=1, le=10_000, description="How many workers.")
    policy: PolicyName = Field("adaptive", description="Decides each iteration.")
    dispatch: DispatcherName = Field("makespan", description="Decides who goes to which worker.")
    schedule: Path | None = Field(None, description="Write every stage to this file, JSON lines.")
    gantt: Path | None = Field(None, description="Draw the schedule into this file, SVG.")

    @model_validator(mode="after")
    def _outputs(self) -> Self:
        self._distinct(self.schedule, self.gantt)
        return self
