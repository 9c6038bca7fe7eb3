"""Settings of ``makespan bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg, NoDecode

from router.settings.base import Comma
from router.settings.offline import DispatcherName, Offline, Order, PolicyName


class BenchSettings(Offline):
    """Print a table of figures: paper, plan, judge."""

    table: ClassVar[str] = "bench"

    what: CliPositionalArg[Literal["paper", "plan", "judge"]] = Field(
        description="paper: the figures of arXiv:2502.15763 beside ours, and its Gantt charts; "
        "plan: the planner's gaps and times, beside a MILP alone and CP-SAT; judge: a dispatcher "
        "beside every rival, over traces, hardware, fleets and loads."
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
    report: Path | None = Field(None, description="Write an HTML page to this file (judge).")
    out: Path = Field(Path(), description="Folder for the Gantt charts (paper).")

    situations: str = Field(
        "",
        description="Which of the situations (judge): so many, evenly over the list, or those "
        "whose name has all of these words, by comma (azure,unequal,85%); default: all.",
    )
    dispatch: Annotated[tuple[DispatcherName, ...], NoDecode, Comma] = Field(
        (),
        description="Who is compared with (judge), by comma; default: all but those for tenants' "
        "shares.",
    )
    ours: DispatcherName = Field("makespan", description="Who is judged (judge).")
    policy: PolicyName = Field(
        "mixed", description="Decides each iteration, of all workers alike (judge)."
    )
    order: Order = Field("longest", description="Order of the workers' queues (judge).")
    per_worker: int = Field(
        240,
        ge=1,
        le=10_000,
        description="Requests a worker in each situation (judge): fewer than slots never queue.",
    )

    @model_validator(mode="after")
    def _folder(self) -> Self:
        if not self.out.is_dir():
            raise ValueError(f"out: there is no folder {self.out}")
        return self
