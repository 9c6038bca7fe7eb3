"""The figures of finished runs, what to call each, how they rank, and which to look at first.

Nobody can be done before the last request has come. So the makespan of a trace whose requests come
over time is the trace's own length, whoever serves it: such runs rank by goodput, and of those that
keep as many targets, by latency. Of a burst the makespan is what was made of it, and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, prod
from statistics import fmean

from solver.sim.report import Report

Kind = tuple[str, str]  # policy and dispatcher
# Of a burst all requests come within this share of the lower bound, so that nine tenths at least of
# the least time that it can take are work.
BURST = 0.1
# What runs are ranked by, as reports call it.
BY_MAKESPAN, BY_GOODPUT = "makespan", "goodput, then latency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Report):
    """One policy and dispatcher on so many workers, and what came of it.

    Attributes:
        policy, dispatch, workers: what was tried.
        ttft_curve: a sorted sample of times to first token, at most about 200.
        load: percent of what the workers could serve at most; None: as the trace's arrivals say.
        gantt_svg: a picture of the schedule by `router.lab.pictures.gantt`, put into the page as it
            is.
    """

    policy: str
    dispatch: str
    workers: int
    ttft_curve: Sequence[float]
    load: int | None = None
    gantt_svg: str = ""

    @property
    def kind(self) -> Kind:
        """What was tried, whatever the workers."""
        return self.policy, self.dispatch

    @property
    def worker_hours(self) -> float:
        """What the fleet was held for: all workers until the makespan."""
        return self.workers * self.makespan_s / 3600

    @property
    def ttft_p99_s(self) -> float:
        """99th percentile of the time to first token; infinite if unknown."""
        return _known(self.ttft_s, "p99")

    @property
    def latency_s(self) -> float:
        """Geometric mean of p50 and p99 of the end and p99 of the first token; infinite if unknown.

        So a tenth off any of them counts as much, however long it is.
        """
        ends = _known(self.e2e_s, "p50"), _known(self.e2e_s, "p99")
        return prod((*ends, self.ttft_p99_s)) ** (1 / 3)

    @property
    def timed(self) -> bool:
        """Whether its requests came over time, and were no burst."""
        return self.arrivals_s > BURST * self.lower_bound_s

    @property
    def ranked_by(self) -> str:
        """By what it is better or worse than its peers."""
        return BY_GOODPUT if self.timed else BY_MAKESPAN

    @property
    def rank(self) -> tuple[float, float]:
        """The least is the best among runs of the same requests on as many workers."""
        # To a tenth of a percent, as reports show it.
        return (-round(self.goodput, 3), self.latency_s) if self.timed else (self.makespan_s, 0.0)


def _known(spread: Mapping[str, float], quantile: str) -> float:
    """A latency, seconds; infinite if unknown."""
    value = spread.get(quantile, inf)
    return value if isfinite(value) else inf


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was replayed."""

    name: str
    requests: int
    prompt_tokens: int
    output_tokens: int


def kind_name(run: Run, runs: Sequence[Run]) -> str:
    """The run's policy and dispatcher, of which only what differs among the runs."""
    policies, dispatches = {run.policy for run in runs}, {run.dispatch for run in runs}
    if len(policies) == 1 and len(dispatches) > 1:
        return run.dispatch
    if len(dispatches) == 1:
        return run.policy
    return f"{run.policy} + {run.dispatch}"


def run_name(run: Run, runs: Sequence[Run]) -> str:
    """The same with the workers, if those differ."""
    name = kind_name(run, runs)
    return f"{name}, {count(run.workers)}" if len({run.workers for run in runs}) > 1 else name


def count(workers: int) -> str:
    """So many workers."""
    return f"{workers} worker{'' if workers == 1 else 's'}"


def by_workers(runs: Sequence[Run]) -> dict[int, list[Run]]:
    """Runs that may be compared with each other, fewest workers first."""
    counts = sorted({run.workers for run in runs})
    return {workers: [run for run in runs if run.workers == workers] for workers in counts}


def ordered(runs: Sequence[Run]) -> list[Run]:
    """The least load and fewest workers first, of as many the best."""
    return sorted(runs, key=lambda run: (run.load or 0, run.workers, run.rank))


def by_kind(runs: Sequence[Run]) -> dict[Kind, list[Run]]:
    """Runs of one policy and dispatcher each, in the order of their first appearance."""
    kinds: dict[Kind, list[Run]] = {}
    for run in runs:
        kinds.setdefault(run.kind, []).append(run)
    return kinds


def first_look(runs: Sequence[Run]) -> set[Kind]:
    """The baseline, what ranks best over all numbers of workers, and what is best in p99 TTFT."""
    kinds = by_kind(runs)
    places = [
        (run.kind, place)
        for peers in by_workers(runs).values()
        for place, run in enumerate(sorted(peers, key=lambda run: run.rank))
    ]
    least = {n: min(run.ttft_p99_s for run in peers) for n, peers in by_workers(runs).items()}

    def mean_place(kind: Kind) -> float:
        return fmean(place for of, place in places if of == kind)

    def over_least(kind: Kind) -> float:
        ours = kinds[kind]
        return fmean(r.ttft_p99_s - least[r.workers] for r in ours if isfinite(least[r.workers]))

    known = [kind for kind, ours in kinds.items() if any(isfinite(r.ttft_p99_s) for r in ours)]
    firsts = [min(known, key=over_least)] if known else []
    return {runs[0].kind, min(kinds, key=mean_place), *firsts}
