"""What ours is worth beside a rival: ratios of figures, over all situations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean

from router.lab.judging.situations import Situation
from solver.sim.report import Report

# What is compared as ours over theirs: below 1 is better.
RATIOS: Mapping[str, Callable[[Report], float]] = {
    "makespan": lambda report: report.makespan_s,
    "ttft p50": lambda report: report.ttft_s["p50"],
    "ttft p99": lambda report: report.ttft_s["p99"],
    "e2e p50": lambda report: report.e2e_s["p50"],
    "e2e p99": lambda report: report.e2e_s["p99"],
    "tpot p99": lambda report: report.tpot_s["p99"],
}
GOODPUT = "goodput"  # compared as ours less theirs, in points: above 0 is better
FIGURES = (*RATIOS, GOODPUT)
LEAST_S = 1e-9  # no figure is shorter: nothing is divided by 0
WORST = 3  # situations that are told of each figure


@dataclass(frozen=True, slots=True)
class Judged:
    """A situation, and each dispatcher's report on it."""

    situation: Situation
    reports: Mapping[str, Report]


@dataclass(frozen=True, slots=True)
class Case:
    """One figure of ours beside that of a rival in one situation.

    `value` is a ratio, or for goodput a difference in points.
    """

    situation: Situation
    rival: str
    value: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure over all situations; cases are worst first."""

    figure: str
    cases: Sequence[Case]

    @property
    def mean(self) -> float:
        """Geometric of ratios, arithmetic of points."""
        values = [case.value for case in self.cases]
        return fmean(values) if self.figure == GOODPUT else geometric_mean(values)

    @property
    def worst(self) -> float:
        """Of all situations."""
        return self.cases[0].value

    @property
    def better(self) -> bool:
        """Whether ours is, on average."""
        return self.mean > 0 if self.figure == GOODPUT else self.mean < 1


def rivals(judged: Sequence[Judged], ours: str) -> list[str]:
    """All but ours, in the order in which they ran."""
    return [name for name in judged[0].reports if name != ours]


def against(judged: Sequence[Judged], ours: str, rival: str) -> dict[str, Verdict]:
    """Ours beside one rival, by figure."""
    return {
        figure: _verdict(figure, [_case(one, figure, ours, rival) for one in judged])
        for figure in FIGURES
    }


def against_best(judged: Sequence[Judged], ours: str) -> dict[str, Verdict]:
    """Ours beside whoever is best in that figure and situation."""
    names = rivals(judged, ours)

    def hardest(one: Judged, figure: str) -> Case:
        cases = (_case(one, figure, ours, rival) for rival in names)
        return min(cases, key=lambda case: _goodness(figure, case))

    return {
        figure: _verdict(figure, [hardest(one, figure) for one in judged]) for figure in FIGURES
    }


def _case(one: Judged, figure: str, ours: str, rival: str) -> Case:
    own, other = one.reports[ours], one.reports[rival]
    if figure == GOODPUT:
        return Case(one.situation, rival, 100 * (own.goodput - other.goodput))
    measure = RATIOS[figure]
    ratio = max(measure(own), LEAST_S) / max(measure(other), LEAST_S)
    return Case(one.situation, rival, ratio)


def _verdict(figure: str, cases: Sequence[Case]) -> Verdict:
    return Verdict(figure, sorted(cases, key=lambda case: _goodness(figure, case)))


def _goodness(figure: str, case: Case) -> float:
    return case.value if figure == GOODPUT else -case.value


def lines(judged: Sequence[Judged], ours: str) -> Iterator[str]:
    """The table, for people."""
    head = "".join(f"{figure:>15}" for figure in FIGURES)
    yield f"{ours} over each rival, {len(judged)} situations: geometric mean (worst)"
    yield f"{'':<24}{head}"
    for rival in rivals(judged, ours):
        yield _line(rival, against(judged, ours, rival))
    best = against_best(judged, ours)
    yield _line("the best of each", best)
    yield ""
    yield "against the best rival of each situation, worst first"
    for figure, verdict in best.items():
        for k, case in enumerate(verdict.cases[:WORST]):
            name = figure if k == 0 else ""
            yield f"{name:<10}{words(figure, case.value):>8}  {case.situation.name}, {case.rival}"


def _line(name: str, verdicts: Mapping[str, Verdict]) -> str:
    cells = (
        f"{words(figure, verdict.mean)} ({words(figure, verdict.worst)})"
        for figure, verdict in verdicts.items()
    )
    return f"{name:<24}" + "".join(f"{cell:>15}" for cell in cells)


def words(figure: str, value: float) -> str:
    """A ratio or points, as text."""
    return f"{value:+.1f}" if figure == GOODPUT else f"{value:.2f}"
