"""Settings of ``makespan bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, NoDecode

from router.settings.base import Comma
from router.settings.offline import Offline


class BenchSettings(Offline):
    """Print a table of figures: paper, plan."""

    table: ClassVar[str] = "bench"

    what: CliPositionalArg[Literal["paper", "plan"]] = Field(
        description="paper: the figures of arXiv:2502.15763 beside ours, and its Gantt charts; "
        "plan: the planner's gaps and times, beside a MILP alone and CP-SAT."
    )
    cases: int = Field(
        100,
        ge=1,
        description="How many random cases (paper), or instances of what is timed (plan).",
    )
    deadlines: Annotated[
        tuple[Annotated[float, Field(gt=0, le=3600)], ...], NoDecode, Comma, Field(min_length=1)
    ] = Field(
        (0.01, 0.05, 1.0, 60.0), description="Seconds that each planner gets (plan), by comma."
    )
    busy: bool = Field(False, description="Keep all cores busy with other work meanwhile (plan).")
    out: Path = Field(Path(), description="Folder for the Gantt charts (paper).")

    @model_validator(mode="after")
    def _folder(self) -> Self:
        if not self.out.is_dir():
            raise ValueError(f"out: there is no folder {self.out}")
        return self
