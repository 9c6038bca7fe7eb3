"""How many workers traffic needs, in words and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from router.lab.pictures.svg import figure, percent
from router.lab.reports.words import NBSP
from router.lab.simulation.runs import Run, count, ordered
from router.lab.simulation.sizing import Answer, Goal, answers


def sized(goal: Goal, runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """The answer for each policy and dispatcher, and how it was found."""
    slos = " and ".join(f"{slo.words} within {slo.limit_s:g}{NBSP}s" for slo in goal.slos)
    yield "Asked", f"how many workers of {_range(goal.counts)} keep {slos}."
    for answer in answers(goal, runs):
        lead = "Too few" if answer.run is None else count(answer.run.workers)
        policy, dispatch = answer.kind
        yield lead, f"with {policy} and {dispatch}, {_why(goal, answer)}"
    tried = sorted({run.workers for run in runs})
    yield "Simulated", f"{_list(tried)} workers, {len(runs)} runs in all."


def _range(counts: Sequence[int]) -> str:
    whole = len(counts) > 2 and list(counts) == list(range(counts[0], counts[-1] + 1))
    return f"{counts[0]} to {counts[-1]}" if whole else _list(counts)


def _list(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def _why(goal: Goal, answer: Answer) -> str:
    if answer.run is None:
        best = answer.best
        return f"the nearest are {count(best.workers)}: {_latencies(goal, best)}."
    words = f"{_latencies(goal, answer.run)}, {_worth(goal, answer.run)}"
    if answer.less is None:
        return f"{words}. Fewer were not asked for, and may do."
    return f"{words}; {count(answer.less.workers)} would have {_latencies(goal, answer.less)}."


def _latencies(goal: Goal, run: Run) -> str:
    return " and ".join(f"{slo.words} {figure(slo.of(run))}{NBSP}s" for slo in goal.slos)


def _worth(goal: Goal, run: Run) -> str:
    cost = goal.cost(run)
    price = "" if cost is None else f" that cost {figure(cost)}"
    hours = f"{figure(run.worker_hours)} worker-hours{price}"
    return f"{percent(run.utilization)} utilized, {hours}"


def rows(goal: Goal, runs: Sequence[Run]) -> list[str]:
    """A table: all runs, fewest workers first."""
    heads = "".join(f"{slo.name:>12}" for slo in goal.slos)
    price = "" if goal.worker_cost is None else f"{'cost':>12}"
    named = len({run.kind for run in runs}) > 1
    who = f"  {'dispatch':<15}{'policy':<15}" if named else ""
    first = (
        f"{'workers':>7}{who}{heads}{'utilization':>13}{'worker-hours':>14}{price}  keeps the SLO"
    )
    return [first, *(_row(goal, run, named=named) for run in ordered(runs))]


def _row(goal: Goal, run: Run, *, named: bool) -> str:
    who = f"  {run.dispatch:<15}{run.policy:<15}" if named else ""
    latencies = "".join(f"{slo.of(run):>10.3f} s" for slo in goal.slos)
    cost = goal.cost(run)
    price = "" if cost is None else f"{figure(cost):>12}"
    keeps = "yes" if goal.keeps(run) else "no"
    return (
        f"{run.workers:>7}{who}{latencies}{run.utilization:>13.2%}{run.worker_hours:>14.3f}"
        f"{price}  {keeps}"
    )
