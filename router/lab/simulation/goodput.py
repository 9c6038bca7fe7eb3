"""How much load a fleet takes while most of its requests keep their targets.

More load mostly means fewer that do, but not always: luck differs from load to load. So the answer
is the highest load up to which every one that was simulated kept enough, and the next did not. The
loads asked for come first, for the curve; then the highest that kept enough and the first that did
not are brought together by bisection, to one percent of what the fleet could serve at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from router.lab.simulation.run import Choice
from router.lab.simulation.runs import Kind, Run, by_kind
from router.lab.simulation.sizing import Measure, next_counts

# The share by which DistServe (arXiv:2401.09670) and others since compare systems.
ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class Found:
    """All that was simulated, and what bounds it.

    Attributes:
        runs: of every policy and dispatcher, by load.
        bounds: by load, the share of the requests that can keep their targets, whoever routes.
        requests_per_s: what the fleet could serve at most: a load of 100 %.
    """

    runs: Sequence[Run]
    bounds: Mapping[int, float]
    requests_per_s: float

    def rate(self, load: int) -> float:
        """Requests a second at a load."""
        return self.requests_per_s * load / 100


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of one policy and dispatcher.

    Attributes:
        runs: by load, rising.
        kept: the highest load up to which enough was kept; None if it was not at the lowest.
        missed: the lowest at which it was not; None if there is none.
    """

    runs: Sequence[Run]
    kept: Run | None
    missed: Run | None

    @property
    def kind(self) -> Kind:
        """The policy and dispatcher."""
        return self.runs[0].kind


def search(
    loads: Sequence[int], kinds: Sequence[Kind], workers: int, measure: Measure
) -> list[Run]:
    """Runs of every policy and dispatcher at `loads`, and between them as its answer needs."""
    runs: list[Run] = []
    while choices := list(_open(loads, kinds, workers, runs)):
        runs.extend(measure(choices))
    return runs


def answers(runs: Sequence[Run]) -> list[Answer]:
    """One for each policy and dispatcher, the highest load first."""
    found = [_answer(sorted(ours, key=load_of)) for ours in by_kind(runs).values()]
    return sorted(found, key=lambda answer: -load_of(answer.kept) if answer.kept else 0)


def load_of(run: Run) -> int:
    """Its load, in percent; all runs of a search have one."""
    assert run.load is not None
    return run.load


def _open(
    loads: Sequence[int], kinds: Sequence[Kind], workers: int, runs: Sequence[Run]
) -> Iterator[Choice]:
    """What is to be simulated next."""
    known = by_kind(runs)
    for policy, dispatch in kinds:
        kept = {load_of(run): _is_enough(run) for run in known.get((policy, dispatch), ())}
        for load in _next_loads(loads, kept):
            yield Choice(policy, dispatch, workers, load)


def _next_loads(loads: Sequence[int], kept: Mapping[int, bool]) -> Sequence[int]:
    """As with numbers of workers, but that less load is what makes it easier."""
    if not kept:
        return sorted(loads)
    return next_counts(range(max(loads), min(loads) - 1, -1), kept)


def _answer(runs: Sequence[Run]) -> Answer:
    missed = next((run for run in runs if not _is_enough(run)), None)
    below = [run for run in runs if missed is None or load_of(run) < load_of(missed)]
    return Answer(runs, below[-1] if below else None, missed)


def _is_enough(run: Run) -> bool:
    return run.goodput >= ENOUGH
