"""What came of all runs: a table a situation, and where ours stands in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import median

import numpy as np

from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS
from tests.bench.peers.client import Answer
from tests.bench.peers.routers import OURS, ROUTERS
from tests.bench.peers.runs import Run
from tests.bench.peers.traffic import SITUATIONS

DASH = "\N{EN DASH}"
TARGETS = DEFAULT_TARGETS[Priority.DEFAULT]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run.

    Attributes:
        value: of one run; not a number where nothing was completed.
        percent: whether it is a share, else seconds.
        more: whether more of it is better.
        judged: whether ours is held against the best other in it.
    """

    value: Callable[[Run], float]
    percent: bool = False
    more: bool = False
    judged: bool = False

    def words(self, value: float) -> str:
        """The number as it is shown, without its unit."""
        if isnan(value):
            return DASH
        return f"{100 * value:.1f}" if self.percent else f"{value:.{2 if value >= 1 else 3}f}"


def goodput(run: Run) -> float:
    """Share of all requests that were completed within both targets."""
    met = (TARGETS.met(answer.ttft_s, answer.tpot_s) for answer in completed(run))
    return sum(met) / len(run.answers)


def completed(run: Run) -> list[Answer]:
    """The answers that came as they should."""
    return [answer for answer in run.answers if not answer.error]


def quantile(name: str, percent: float) -> Callable[[Run], float]:
    """Of that time of all completed requests."""

    def value(run: Run) -> float:
        times = [getattr(answer, name) for answer in completed(run)]
        return float(np.percentile(times, percent)) if times else nan

    return value


def makespan(run: Run) -> float:
    """When the last token of all came."""
    return max((answer.last_s for answer in completed(run)), default=nan)


def router_ms(run: Run) -> float:
    """Milliseconds of CPU time that the router took, a request."""
    return 1000 * run.router_cpu_s / len(run.answers)


def cached(run: Run) -> float:
    """Share of prompt tokens that engines found in their caches."""
    found = completed(run)
    return sum(a.cached_tokens for a in found) / max(1, sum(a.prompt_tokens for a in found))


FIGURES: Mapping[str, Figure] = {
    "goodput": Figure(goodput, percent=True, more=True, judged=True),
    "first token p50": Figure(quantile("ttft_s", 50)),
    "first token p95": Figure(quantile("ttft_s", 95), judged=True),
    "end to end p50": Figure(quantile("e2e_s", 50)),
    "end to end p95": Figure(quantile("e2e_s", 95), judged=True),
    "per token p95": Figure(quantile("tpot_s", 95)),
    "longest stall p95": Figure(quantile("stall_s", 95)),
    "all done": Figure(makespan),
    "found in caches": Figure(cached, percent=True, more=True),
    "router's CPU, ms a request": Figure(router_ms),
    "machine idle": Figure(lambda run: run.idle, percent=True),
}


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over all repetitions."""

    figure: Figure
    values: tuple[float, ...]

    @property
    def typical(self) -> float:
        """The median."""
        return median(self.values)

    def __str__(self) -> str:
        unit = " %" if self.figure.percent else ""
        middle, low, high = map(
            self.figure.words, (self.typical, min(self.values), max(self.values))
        )
        return f"{middle}{unit}" + (f" ({low}{DASH}{high})" if low != high else "")

    def against(self, other: Spread) -> str:
        """Level where the two ranges meet: repetitions do not tell them apart."""
        if min(len(self.values), len(other.values)) == 1:
            return "once"  # how much would be noise is not known
        if max(self.values) < min(other.values):
            return "behind" if self.figure.more else "ahead"
        if min(self.values) > max(other.values):
            return "ahead" if self.figure.more else "behind"
        return "level"


def spread(name: str, runs: Sequence[Run]) -> Spread:
    """That figure of these runs."""
    return Spread(FIGURES[name], tuple(FIGURES[name].value(run) for run in runs))


def report(runs: Sequence[Run]) -> str:
    """Everything about one run or more, in Markdown."""
    parts = [_heading(runs)]
    for situation in SITUATIONS:
        by_router = {
            router: [run for run in runs if (run.situation, run.router) == (situation, router)]
            for router in ROUTERS
        }
        there = {router: mine for router, mine in by_router.items() if mine}
        if there:
            parts += ["\n".join(_situation(situation, there)), "\n".join(_remarks(there))]
    return "\n\n".join(part for part in parts if part)


def _heading(runs: Sequence[Run]) -> str:
    dates, machines, versions = (
        ", ".join(dict.fromkeys(told for told in column if told))
        for column in zip(*(run.told for run in runs), strict=True)
    )
    setting = runs[0].setting
    speed = "" if setting.speed == 1 else f", sped up {setting.speed:g} times"
    return (
        f"{dates}, {machines}; {versions or 'no other router'}. Workers: {setting.profile}, "
        f"{setting.slots} slots{speed}; requests for {setting.seconds:g} s at {setting.load:.0%} "
        f"of the fleet's most, targets {TARGETS.ttft_s:g} s to the first token and "
        f"{TARGETS.tpot_s:g} s a token after it."
    )


def _situation(situation: str, runs: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    first = next(iter(runs.values()))[0]
    times = sorted({len(mine) for mine in runs.values()})
    repeated = DASH.join(map(str, (times[0], times[-1]) if times[1:] else times))
    yield f"**{situation}**: {SITUATIONS[situation].words}, {len(first.answers)} requests"
    yield f"({repeated} {'run' if times == [1] else 'runs'} each; seconds):"
    yield ""
    columns = {name: [spread(name, mine) for mine in runs.values()] for name in FIGURES}
    shown = {name: cells for name, cells in columns.items() if any(c.typical for c in cells)}
    yield f"| router | {' | '.join(shown)} |"
    yield f"| --- |{' ---: |' * len(shown)}"
    for router, *cells in zip(runs, *shown.values(), strict=True):
        yield f"| {ROUTERS[router].words} | {' | '.join(map(str, cells))} |"


def _remarks(runs: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    others = {router: mine for router, mine in runs.items() if router != OURS}
    if OURS in runs and others:
        judged = (name for name, figure in FIGURES.items() if figure.judged)
        told = "; ".join(_standing(name, runs[OURS], others) for name in judged)
        yield f"Makespan against the best other in each: {told}."
    for router, mine in runs.items():
        failed = sum(len(run.answers) - len(completed(run)) for run in mine)
        marks = sorted({mark for run in mine for mark in run.marks})
        marks += [f"{failed} requests failed"] if failed else []
        if marks:
            yield f"{ROUTERS[router].words}: {'; '.join(marks)}."


def _standing(name: str, ours: Sequence[Run], others: Mapping[str, Sequence[Run]]) -> str:
    sign = -1 if FIGURES[name].more else 1
    rivals = {router: spread(name, mine) for router, mine in others.items()}
    best = min(rivals, key=lambda router: sign * rivals[router].typical)
    own = spread(name, ours)
    said = own.against(rivals[best])
    return f"{name} {said}, {own} against {rivals[best]} ({best})"
