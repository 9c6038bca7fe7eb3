"""How many workers traffic needs: the smallest fleet that keeps every SLO.

More workers mostly mean shorter latencies, but not always: one more may deal requests out less
luckily. So the answer is the number from which on every fleet that was simulated keeps the SLOs,
and the one before does not. A few numbers across the range come first, for the curve; then the
last that fails and the next that keeps them are brought together by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from router.lab.simulation.run import Choice
from router.lab.simulation.runs import Kind, Run, by_kind
from router.settings.slo import Slo

# Numbers of workers that are simulated in any case, if there are as many.
ACROSS = 8

Measure = Callable[[Sequence[Choice]], Sequence[Run]]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked.

    Attributes:
        slos: all to be kept, at least one.
        counts: numbers of workers to choose from, rising.
        worker_cost: what a worker costs an hour, if known.
    """

    slos: Sequence[Slo]
    counts: Sequence[int]
    worker_cost: float | None = None

    def strain(self, run: Run) -> float:
        """The figure nearest to its limit, or farthest above it, as a share of that limit."""
        return max(slo.of(run) / slo.limit_s for slo in self.slos)

    def keeps(self, run: Run) -> bool:
        """Whether the run keeps every SLO."""
        return self.strain(run) <= 1

    def cost(self, run: Run) -> float | None:
        """What the run's fleet costs until its makespan."""
        return None if self.worker_cost is None else run.worker_hours * self.worker_cost


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of one policy and dispatcher.

    Attributes:
        run: the smallest fleet that keeps the SLOs; None if the largest does not.
        less: the next smaller fleet, which does not; None if there is none to choose.
        best: of all fleets the one that comes nearest to the SLOs, or keeps them best.
        kind: the policy and dispatcher.
    """

    run: Run | None
    less: Run | None
    best: Run

    @property
    def kind(self) -> Kind:
        """The policy and dispatcher."""
        return self.best.kind


def search(goal: Goal, kinds: Sequence[Kind], measure: Measure) -> list[Run]:
    """Runs of every policy and dispatcher, enough of them for its answer and a curve."""
    runs: list[Run] = []
    while choices := list(_open(goal, kinds, runs)):
        runs.extend(measure(choices))
    return runs


def answers(goal: Goal, runs: Sequence[Run]) -> list[Answer]:
    """One for each policy and dispatcher, fewest workers first."""
    found = [_answer(goal, {run.workers: run for run in ours}) for ours in by_kind(runs).values()]

    def rank(answer: Answer) -> tuple[float, float]:
        return answer.run.workers if answer.run else inf, goal.strain(answer.run or answer.best)

    return sorted(found, key=rank)


def _open(goal: Goal, kinds: Sequence[Kind], runs: Sequence[Run]) -> Iterator[Choice]:
    """What is to be simulated next."""
    known = by_kind(runs)
    for policy, dispatch in kinds:
        kept = {run.workers: goal.keeps(run) for run in known.get((policy, dispatch), ())}
        for workers in next_counts(goal.counts, kept):
            yield Choice(policy, dispatch, workers)


def next_counts(counts: Sequence[int], kept: Mapping[int, bool]) -> list[int]:
    """Which of the numbers of workers to simulate next, knowing which of them kept the SLOs."""
    if not kept:
        return across(counts)
    failed = _last_failed(counts, kept)
    above = next((k for k in range(failed + 1, len(counts)) if counts[k] in kept), failed + 1)
    return [counts[(failed + above) // 2]] if above - failed > 1 else []


def across(counts: Sequence[int]) -> list[int]:
    """About `ACROSS` of the numbers, both ends among them, at nearly equal ratios."""
    steps = range(ACROSS)
    low, high = counts[0], counts[-1]
    wanted = [low * (high / low) ** (step / (ACROSS - 1)) for step in steps]
    near = {min(counts, key=lambda n: abs(n - value)) for value in wanted}
    return list(counts) if len(counts) <= ACROSS else sorted(near)


def _last_failed(counts: Sequence[int], kept: Mapping[int, bool]) -> int:
    """The place of the greatest number that did not keep the SLOs; -1 if all did."""
    return max((k for k, n in enumerate(counts) if not kept.get(n, True)), default=-1)


def _answer(goal: Goal, runs: Mapping[int, Run]) -> Answer:
    kept = {workers: goal.keeps(run) for workers, run in runs.items()}
    failed = _last_failed(goal.counts, kept)
    return Answer(
        run=None if failed == len(goal.counts) - 1 else runs[goal.counts[failed + 1]],
        less=None if failed < 0 else runs[goal.counts[failed]],
        best=min(runs.values(), key=goal.strain),
    )
