"""Settings of the commands that work offline: simulate, replay, plan, bench."""

from __future__ import annotations

import warnings
from itertools import product
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import CliPositionalArg, NoDecode

from router.hardware import Cost
from router.lab.slo import Counts, Slos
from router.settings import Comma, Settings, Speeds
from solver.dispatch import DISPATCHERS
from solver.policies import POLICIES
from solver.queueing import ORDERS
from solver.sim.knowledge import knowledge

if TYPE_CHECKING:
    PolicyName: TypeAlias = str
    DispatcherName: TypeAlias = str
    Order: TypeAlias = str
else:
    PolicyName = Literal[tuple(POLICIES)]
    DispatcherName = Literal[tuple(DISPATCHERS)]
    Order = Literal[ORDERS]


def _lengths(value: str) -> str:
    knowledge(value, 0)
    return value


def _arrivals(value: str) -> str:
    name, _, rate = value.partition(":")
    if name == "poisson":
        try:
            if 0 < float(rate) < inf:
                return value
        except ValueError:
            pass
        raise ValueError(f"poisson:RATE takes requests a second above 0, not {rate!r}")
    if value not in ("trace", "all-at-once"):
        raise ValueError(f"{value!r} is none of trace, all-at-once, poisson:RATE")
    return value


Lengths = Annotated[str, AfterValidator(_lengths)]
Arrivals = Annotated[str, AfterValidator(_arrivals)]


with warnings.catch_warnings():
    # The flag is called --json; pydantic's own `json`, which a field of that name hides, is
    # deprecated and not used here.
    warnings.simplefilter("ignore", UserWarning)

    class Offline(Settings):
        """What all commands that work offline share."""

        json: bool = Field(  # type: ignore[assignment]
            False, description="Print one JSON object, nothing else."
        )


class Traffic(Offline):
    """Which requests, on which engines; what all that is simulated shares."""

    requests: Path = Field(
        description="Trace: CSV or JSON lines, gzip or not, of prompt_tokens, output_tokens and "
        "optionally arrival_s, id, priority, deadline_s, hash_ids."
    )
    cost: Cost = Field(
        "llama-65b-ascend",
        description="Cost model: a profile's name, a profile file, or JSON of its terms.",
    )
    slots: int | None = Field(
        None, ge=1, le=100_000, description="Slots a worker; default: the profile's."
    )
    kv_tokens: int | None = Field(
        None, ge=1, description="Cached tokens that fit into a worker; default: the profile's."
    )
    prefill_budget: int | None = Field(
        None, ge=1, description="Most prompt tokens in one iteration; default: no limit."
    )
    speed: Speeds = Field((1.0,), description="Speed of the workers; several are dealt out.")
    order: Order = Field(
        "longest", description="Order of a worker's queue; paper: the lists of its Algorithm 1."
    )
    lengths: Lengths = Field(
        "predicted",
        description="What is known of output lengths: known, unknown, noisy:SIGMA, predicted.",
    )
    arrivals: Arrivals = Field(
        "trace", description="When requests come: trace, all-at-once, poisson:RATE."
    )
    prefix_cache: bool = Field(
        True, description="Workers keep prompts' blocks, where the trace has hash_ids."
    )
    limit: int | None = Field(None, ge=1, description="Only the first so many requests.")
    seed: int = Field(0, description="Seed of everything random.")

    def _distinct(self, *outputs: Path | None) -> None:
        paths = [path.resolve() for path in (self.requests, *outputs) if path is not None]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(f"{path} would be overwritten: each file needs a name of its own")


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


class ReplaySettings(Traffic):
    """Run a trace through several policies, dispatchers and fleets; write an HTML report."""

    table: ClassVar[str] = "replay"

    workers: Counts = Field((1,), description="How many workers, by comma; 2..32 is a range.")
    policy: Annotated[tuple[PolicyName, ...], NoDecode, Comma, Field(min_length=1)] = Field(
        ("prefill-first", "mixed", "adaptive"),
        description="Iteration policies, by comma; with an slo adaptive, unless named.",
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
    report: Path = Field(Path("replay.html"), description="Where the report goes.")

    def kinds(self) -> list[tuple[str, str]]:
        """Each policy with each dispatcher; to size a fleet, what a fleet runs unless told."""

        def named(name: str, ours: str) -> tuple[str, ...]:
            values: tuple[str, ...] = getattr(self, name)
            return values if name in self.model_fields_set or not self.slo else (ours,)

        dispatchers, policies = named("dispatch", "makespan"), named("policy", "adaptive")
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
    def _combinations(self) -> Self:
        self._distinct(self.report)
        for name in ("workers", "policy", "dispatch"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: a value is there twice")
        return self


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
