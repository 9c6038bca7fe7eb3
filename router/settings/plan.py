"""Settings of ``makespan plan``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from router.settings.offline import Offline


class PlanSettings(Offline):
    """Pack one problem, given as JSON, and print the plan with its bound."""

    table: ClassVar[str] = "plan"

    problem: Path = Field(
        description="JSON file: cost_s (n by m), and optionally initial_s, kv_tokens, kv_capacity, "
        "eligible, prefix_saving_s, weight, due_s, span_s."
    )
    deadline: float = Field(
        10.0, ge=0, le=86_400, description="Seconds until the plan must be there."
    )
