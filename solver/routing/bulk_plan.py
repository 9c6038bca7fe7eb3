"""A plan of all bulk work that is left, from what is known of it: as plain data, for any process.

What is asked (`Asked`) and what comes of it (`BulkPlan`) may be sent to another process and back: a
plan for hundreds of workers takes longer than an event loop can wait for. There is a plan as soon
as the heuristic has one; `better_plans` goes on with the relaxation, local search and the MILP of
`solver.packing.pipeline`, stage by stage, and tells of a plan where it is better as a whole: fewer
batches late, or as few and all done sooner.

The bound of a packing says nothing here, as pieces may be split; the one that is told is on what
engines have to do, whatever the schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from solver.batching.bounds import Engine, fleet_bound
from solver.errors import ProblemError
from solver.packing.pipeline import improvements, nothing_to_win
from solver.packing.plan import Method
from solver.packing.problem import TOLERANCE, SecondsLeft
from solver.routing.kinds import Homes, Kind, Length, Members
from solver.routing.pieces import gathered
from solver.routing.problem import WorkerView
from solver.routing.stages import Draft, Schedule, packed, scheduled


@dataclass(frozen=True, slots=True)
class Outlook:
    """When bulk work will be done, in seconds from when one looks.

    Attributes:
        finish_s: as planned.
        bound_s: no schedule is done before, if lengths are as expected.
        due_s: when it should be done; infinite: whenever.
    """

    finish_s: float
    bound_s: float
    due_s: float = inf

    @property
    def gap_ratio(self) -> float:
        """How far the plan is above its bound, as a fraction of it."""
        return self.finish_s / self.bound_s - 1.0 if self.bound_s > 0 else 0.0

    @property
    def late_s(self) -> float:
        """How long after it is due it is planned to be done."""
        return max(0.0, self.finish_s - self.due_s)

    def later(self, seconds: float) -> Outlook:
        """As seen so much later."""
        finish_s, bound_s = self.finish_s - seconds, self.bound_s - seconds
        return Outlook(max(0.0, finish_s), max(0.0, bound_s), self.due_s - seconds)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be planned.

    Attributes:
        number: of the question, by whoever asks.
        counts: lines of each kind, that somebody may serve.
        lengths: of a line of each.
        due_s: of each batch, seconds from now.
        weights: of the tenants.
        members: who may serve a model.
    """

    number: int
    counts: Mapping[Kind, int]
    lengths: Mapping[Kind, Length]
    workers: Sequence[WorkerView]
    due_s: Mapping[str, float]
    homes: Homes
    weights: Mapping[str, float]
    members: Mapping[str, Members]

    def weight(self, tenant: str) -> float:
        """Of a tenant's share."""
        return self.weights.get(tenant, 1.0)


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """What comes of it.

    Attributes:
        outlooks: of each batch.
        whole: of all together.
        method: what found it.
        gained_s: how much sooner that has it all done than the heuristic.
    """

    number: int
    schedule: Schedule
    outlooks: Mapping[str, Outlook]
    whole: Outlook
    method: Method = Method.HEURISTIC
    gained_s: float = 0.0

    @property
    def late(self) -> int:
        """Batches that are planned to end after they are due."""
        return sum(told.late_s > 0 for told in self.outlooks.values())

    @property
    def late_s(self) -> float:
        """By how many seconds, in all."""
        return sum(told.late_s for told in self.outlooks.values())


def plan_of(asked: Asked) -> BulkPlan:
    """The heuristic's; there are lines, and workers."""
    return _told(asked, _drafted(asked)[1])


def better_plans(
    asked: Asked, incumbent: BulkPlan | None, left_s: SecondsLeft | None
) -> Iterator[BulkPlan]:
    """The heuristic's plan, and then better ones as they are found, each than those before."""
    draft, schedule = _drafted(asked)
    first = _told(asked, schedule)
    best = incumbent or first
    if incumbent is None:
        yield first
    for found, method in _better_drafts(draft, left_s):
        told = _told(asked, scheduled(found, asked.weight), first)
        told = replace(
            told, method=method, gained_s=first.schedule.finish_s - told.schedule.finish_s
        )
        if supersedes(told, best):
            best = told
            yield best


def supersedes(a: BulkPlan, b: BulkPlan) -> bool:
    """Whether `a` makes fewer batches late, or as few less so, or as little and is done sooner."""
    if (a.late, a.late_s) != (b.late, b.late_s):
        return (a.late, a.late_s) < (b.late, b.late_s)
    return a.schedule.finish_s < b.schedule.finish_s * (1 - TOLERANCE)


def check(asked: Asked, plan: BulkPlan) -> None:
    """That it is for these workers, and for all of these batches.

    Raises:
        ProblemError: if it is not.
    """
    batches = {kind.batch for kind in asked.counts}
    if len(plan.schedule.lists) != len(asked.workers) or set(plan.outlooks) != batches:
        raise ProblemError("a plan of batches is for other workers, or of other batches")


def _drafted(asked: Asked) -> tuple[Draft, Schedule]:
    pieces = gathered(
        asked.counts, asked.workers, asked.lengths.__getitem__, asked.members.__getitem__
    )
    return packed(pieces, asked.workers, asked.due_s, asked.homes, asked.weight)


def _better_drafts(draft: Draft, left_s: SecondsLeft | None) -> Iterator[tuple[Draft, Method]]:
    """With one stage after the other improved, each for its share of the time."""
    for k, stage in enumerate(draft.stages):
        problem = replace(stage.problem, initial_s=stage.problem.initial_s + draft.before_s(k))
        if nothing_to_win(problem, stage.plan):
            continue
        own_left_s = left_s and _share(left_s, len(draft.stages) - k)
        for plan in improvements(problem, stage.plan, own_left_s):
            stages = list(draft.stages)
            stages[k] = replace(stage, plan=plan)
            draft = replace(draft, stages=stages)
            yield draft, plan.method


def _share(left_s: SecondsLeft, parts: int) -> SecondsLeft:
    spared_s = left_s() * (1 - 1 / parts)
    return lambda: max(0.0, left_s() - spared_s)


def _told(asked: Asked, schedule: Schedule, known: BulkPlan | None = None) -> BulkPlan:
    """With outlooks; their bounds are those `known`, if any are."""
    outlooks = {}
    for batch, end_s in schedule.ends.items():
        if known is not None:
            bound_s = known.outlooks[batch].bound_s
        else:
            mine = {kind: n for kind, n in asked.counts.items() if kind.batch == batch}
            bound_s = bound(asked, mine)
        outlooks[batch] = Outlook(max(end_s, bound_s), bound_s, asked.due_s.get(batch, inf))
    busy_s = [worker.backlog_s for worker in asked.workers]
    bound_s = bound(asked, asked.counts, busy_s) if known is None else known.whole.bound_s
    whole = Outlook(max(schedule.finish_s, bound_s, *busy_s), bound_s)
    return BulkPlan(asked.number, schedule, outlooks, whole)


def bound(asked: Asked, counts: Mapping[Kind, int], busy_s: Sequence[float] = ()) -> float:
    """Seconds before which so many lines of each kind cannot be done, whoever does which.

    What several begin with is prefilled once at least; `busy_s` (m,) is what workers do besides. Of
    models that only some of the workers have, those alone may do the lines.
    """
    best_s = _bound(counts, asked.workers, asked.lengths, busy_s)
    for some in {own for own in asked.members.values() if own}:
        models = {m for m, may in asked.members.items() if may is not None and may <= some}
        within = {kind: n for kind, n in counts.items() if kind.model in models}
        theirs = sorted(some)
        own_s = [busy_s[j] for j in theirs] if busy_s else ()
        own = [asked.workers[j] for j in theirs]
        best_s = max(best_s, _bound(within, own, asked.lengths, own_s))
    return best_s


def _bound(
    counts: Mapping[Kind, int],
    workers: Sequence[WorkerView],
    lengths: Mapping[Kind, Length],
    busy_s: Sequence[float],
) -> float:
    if not counts:
        return max(busy_s, default=0.0)
    own = [max(1, kind.prompt_tokens - kind.shared_tokens) for kind in counts]
    prompt = np.repeat(np.array(own, dtype=np.float64), list(counts.values()))
    output = np.repeat([lengths[kind].tokens for kind in counts], list(counts.values()))
    seen, at = set(), 0
    for kind, n in counts.items():
        if kind.prefix is not None and (kind.batch, kind.prefix) not in seen:
            seen.add((kind.batch, kind.prefix))
            prompt[at] += kind.shared_tokens
        at += n
    engines = [Engine(worker.cost, worker.slots) for worker in workers]
    return fleet_bound(engines, np.zeros(len(prompt)), prompt, output, busy_s)
