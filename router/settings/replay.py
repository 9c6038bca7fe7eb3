"""Settings of ``makespan replay``."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator
from pydantic_settings import NoDecode

from router.settings.base import Comma
from router.settings.offline import DispatcherName, PolicyName, Traffic
from router.settings.slo import Counts, Slos


class ReplaySettings(Traffic):
    """Run a trace through several policies, dispatchers and fleets; write an HTML report."""

    table: ClassVar[str] = "replay"

    workers: Counts = Field((1,), description="How many workers, by comma; 2..32 is a range.")
    policy: Annotated[tuple[PolicyName, ...], NoDecode, Comma, Field(min_length=1)] = Field(
        ("prefill-first", "mixed", "adaptive"),
        description="Iteration policies, by comma; with an slo or goodput adaptive, unless named.",
    )
    dispatch: Annotated[tuple[DispatcherName, ...], NoDecode, Comma, Field(min_length=1)] = Field(
        ("round-robin", "least-requests", "makespan"),
        description="Dispatchers, by comma; with an slo makespan, unless named.",
    )
    slo: Slos = Field(
        (),
        description="Find how many of the workers keep it, instead of running them all: ttft, e2e "
        "or tpot, _mean, _p50, _p95 or _p99, = and a duration (ttft_p99=2s), by comma.",
    )
    worker_cost: float | None = Field(
        None, gt=0, le=1e9, description="What a worker costs an hour, to tell what fleets cost."
    )
    goodput: bool = Field(
        False,
        description="Find how much load the workers take while 90 % of the requests keep their "
        "targets, beside a bound that no router can beat.",
    )
    loads: Counts = Field(
        (50, 60, 70, 80, 90, 100, 110, 120),
        description="With goodput: percent of what the workers could serve at most, by comma.",
    )
    report: Path = Field(Path("replay.html"), description="Where the report goes.")

    def kinds(self) -> list[tuple[str, str]]:
        """Each policy with each dispatcher; to answer a question, what a fleet runs unless told."""
        dispatchers, policies = self.dispatch, self.policy
        if self.slo and "dispatch" not in self.model_fields_set:
            dispatchers = ("makespan",)
        if (self.slo or self.goodput) and "policy" not in self.model_fields_set:
            policies = ("adaptive",)
        return [(policy, dispatch) for dispatch, policy in product(dispatchers, policies)]

    @model_validator(mode="after")
    def _objectives(self) -> Self:
        names = [slo.name for slo in self.slo]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"slo: {name} is there twice")
        if self.worker_cost is not None and not self.slo:
            raise ValueError("worker_cost: only an slo asks what fleets cost")
        return self

    @model_validator(mode="after")
    def _loads(self) -> Self:
        if self.goodput and self.slo:
            raise ValueError("goodput: it and slo ask for reports of their own; give one of them")
        if self.goodput and len(self.workers) > 1:
            raise ValueError("workers: loads are those of one fleet; give one number with goodput")
        if "loads" in self.model_fields_set and not self.goodput:
            raise ValueError("loads: only goodput asks for them")
        return self

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        self._distinct(self.report)
        for name in ("workers", "policy", "dispatch", "loads"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: a value is there twice")
        return self
