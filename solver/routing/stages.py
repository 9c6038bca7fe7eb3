"""A plan of all bulk work in stages: what must go before, and then everything else.

Rules:
- each stage is a packing of its own (`solver.routing.pieces`, README section 3) on top of those
  before it, so that each is spread over the workers, and done as soon as can be;
- without deadlines in danger there is one stage (`solver.routing.deadlines`); where that
  makes batches late, an order by deadlines alone is tried, and the better one taken: that with the
  fewest batches late, then the least late, then that which is done first;
- what a packing of whole pieces leaves uneven is evened out by splitting them, and what shares
  nothing then waits for all workers together (`solver.routing.pooling`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import inf

import numpy as np

from solver.arrays import FloatArray
from solver.cost.model import span_s
from solver.packing.pipeline import first_plan_or_queue
from solver.packing.plan import Plan
from solver.packing.problem import Problem
from solver.routing.deadlines import Demand, Precedence, by_deadline, in_turn, precedence
from solver.routing.kinds import Homes, Kind
from solver.routing.pieces import Piece, allowed, problem_of, stay
from solver.routing.pooling import pooled
from solver.routing.problem import WorkerView

# Pieces that are split so that workers end together, for each worker at most.
EVENINGS = 4
# Stages at most: each takes a packing. Batches that go first beyond that share one, by deadline.
MOST_STAGES = 8

Weight = Callable[[str], float]


@dataclass(frozen=True, slots=True)
class Stage:
    """What is packed at once.

    Attributes:
        pieces: all of them.
        staying: those that are not to be placed, and where they are.
        problem: that of placing the others, on what stays and on what workers have, as if it were
            the only stage.
        plan: of that, on top of the stages before.
    """

    pieces: Sequence[Piece]
    staying: Mapping[int, int]
    problem: Problem
    plan: Plan


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan, stage by stage, and for whom: enough to search for a better one."""

    stages: Sequence[Stage]
    workers: Sequence[WorkerView]

    def before_s(self, stage: int) -> FloatArray:
        """(m,) seconds that the stages before one add."""
        return sum((added_s(own) for own in self.stages[:stage]), np.zeros(len(self.workers)))


@dataclass(slots=True)
class Schedule:
    """What each worker is to do, in order.

    Attributes:
        lists: of each worker.
        left_s: seconds of what each has to do besides what it has.
        ends: of each batch, seconds until it is done.
    """

    lists: list[deque[Piece]]
    left_s: list[float]
    ends: dict[str, float]

    @property
    def finish_s(self) -> float:
        """Seconds until all is done."""
        return max(self.ends.values())

    def badness(self, due_s: Mapping[str, float]) -> tuple[int, float, float]:
        """Batches that end after they are due, by how many seconds in all, and when all is done."""
        over_s = [end_s - due_s.get(batch, inf) for batch, end_s in self.ends.items()]
        late_s = [own for own in over_s if own > 0]
        return len(late_s), sum(late_s), self.finish_s


def packed(
    pieces: Sequence[Piece],
    workers: Sequence[WorkerView],
    due_s: Mapping[str, float],
    homes: Homes,
    weight: Weight,
) -> tuple[Draft, Schedule]:
    """The best of few plans; `due_s` of batches, in seconds from now."""
    demands = _demands(pieces, workers, due_s)
    weights = {one.tenant: weight(one.tenant) for one in demands}
    chosen = precedence(demands, weights, _level_s(workers))
    best = _packed(pieces, workers, chosen, homes, weight)
    other = by_deadline(demands)
    if best[1].badness(due_s)[0] and other != chosen:
        found = _packed(pieces, workers, other, homes, weight)
        if found[1].badness(due_s) < best[1].badness(due_s):
            return found
    return best


def _packed(
    pieces: Sequence[Piece],
    workers: Sequence[WorkerView],
    order: Precedence,
    homes: Homes,
    weight: Weight,
) -> tuple[Draft, Schedule]:
    stages, before_s = list[Stage](), np.zeros(len(workers))
    for group in _grouped(pieces, order):
        stage = _stage(group, workers, homes, before_s)
        stages.append(stage)
        before_s = before_s + added_s(stage)
    draft = Draft(stages, workers)
    return draft, scheduled(draft, weight)


def scheduled(draft: Draft, weight: Weight) -> Schedule:
    """What the plans of a draft mean for each worker."""
    workers = draft.workers
    found = Schedule([deque() for _ in workers], [0.0] * len(workers), {})
    lists: list[list[deque[Piece]]] = []
    for number, stage in enumerate(draft.stages):
        own: list[deque[Piece]] = [deque() for _ in workers]
        placed = iter(stage.plan.assignment)
        for k, piece in enumerate(stage.pieces):
            j = stage.staying.get(k)
            own[next(placed) if j is None else j].append(piece.copy())
        for j, mine in enumerate(own):
            found.left_s[j] += sum(piece.cost_s(j) for piece in mine)
        _even_out(own, found.left_s, workers)
        ready = pooled(own)
        for piece in chain.from_iterable(ready):
            piece.stage = number
        lists.append(ready)
    for j, view in enumerate(workers):
        found.lists[j].extend(piece for stage in lists for piece in stage[j])
        own_stages = [[piece for piece in stage[j] if piece.cost_s(j) > 0] for stage in lists]
        own_stages = [stage for stage in own_stages if stage]
        for batch, end_s in _ends(j, view, own_stages, weight):
            found.ends[batch] = max(found.ends.get(batch, 0.0), end_s)
    return found


def _demands(
    pieces: Sequence[Piece], workers: Sequence[WorkerView], due_s: Mapping[str, float]
) -> list[Demand]:
    """Of each batch, as if the fleet were one machine; none if nothing is due."""
    if not any(due_s.get(piece.batch, inf) < inf for piece in pieces):
        return []
    work_s: dict[tuple[str, str], float] = {}
    lasts = {piece.batch: piece for piece in pieces}
    for piece in pieces:
        key = piece.batch, piece.tenant
        cost_s = piece.lines_s + piece.shared_s
        may = cost_s if piece.eligible is None else cost_s[sorted(piece.eligible)]
        rate = float((1.0 / np.maximum(1e-12, may)).sum())
        work_s[key] = work_s.get(key, 0.0) + 1.0 / rate
    quickest = min(workers, key=lambda view: view.cost.decode_s(view.slots))
    return [
        Demand(
            batch,
            tenant,
            own_s,
            due_s.get(batch, inf) - drained_s(lasts[batch], quickest, alone=False),
        )
        for (batch, tenant), own_s in work_s.items()
    ]


def _level_s(workers: Sequence[WorkerView]) -> float:
    """Seconds that the fleet takes for what it has, were that spread over it."""
    speed = [1.0 / view.cost.decode_s(view.slots) for view in workers]
    own = (rate * view.backlog_s for rate, view in zip(speed, workers, strict=True))
    return sum(own) / sum(speed)


def _grouped(pieces: Sequence[Piece], order: Precedence) -> Iterable[list[Piece]]:
    """Stage by stage."""
    stage = {batch: min(k, MOST_STAGES - 1) for k, batch in enumerate(order.first)}
    groups: dict[int, list[Piece]] = {}
    for piece in pieces:
        given_up = piece.batch in order.given_up
        number = stage.get(piece.batch, MOST_STAGES + given_up)
        groups.setdefault(number, []).append(piece)
    return (groups[number] for number in sorted(groups))


def _stage(
    pieces: Sequence[Piece], workers: Sequence[WorkerView], homes: Homes, before_s: FloatArray
) -> Stage:
    staying = stay(pieces, workers, homes)
    more_s = np.zeros(len(workers))
    for k, j in staying.items():
        more_s[j] += pieces[k].cost_s(j)
    free = [piece for k, piece in enumerate(pieces) if k not in staying]
    alone = problem_of(free, workers, more_s)
    above = replace(alone, initial_s=alone.initial_s + before_s)
    problem, plan = first_plan_or_queue(above)
    problem = replace(problem, initial_s=problem.initial_s - before_s)
    return Stage(pieces, staying, problem, plan)


def added_s(stage: Stage) -> FloatArray:
    """(m,) seconds that it adds."""
    problem = stage.problem
    loads, chosen = np.zeros(problem.workers), np.asarray(stage.plan.assignment, dtype=np.intp)
    np.add.at(loads, chosen, problem.costs_of(chosen))
    for k, j in stage.staying.items():
        loads[j] += stage.pieces[k].cost_s(j)
    return loads


def _even_out(
    lists: Sequence[deque[Piece]], left_s: list[float], workers: Sequence[WorkerView]
) -> None:
    """Split pieces where that ends everything sooner: what begins alike is packed whole."""
    for _ in range(EVENINGS * len(workers)):
        ends = [view.backlog_s + own for view, own in zip(workers, left_s, strict=True)]
        last, first = max(range(len(ends)), key=ends.__getitem__), ends.index(min(ends))
        piece = lists[last][-1] if lists[last] else None
        if piece is None or not allowed(piece, first):
            return
        each_s = float(piece.lines_s[last] + piece.lines_s[first]) / piece.lines
        lines = int((ends[last] - ends[first] - float(piece.shared_s[first])) / each_s)
        if lines < 1 or alone_s(piece, piece.next_kind, workers[first]) > ends[last]:
            return
        if lines >= piece.lines:
            given = lists[last].pop()
            left_s[last] -= given.cost_s(last)
        else:
            given = piece.split(lines)
            left_s[last] -= float(given.lines_s[last])
        left_s[first] += given.cost_s(first)
        lists[first].append(given)


def _ends(
    j: int, worker: WorkerView, stages: Sequence[Sequence[Piece]], weight: Weight
) -> Iterable[tuple[str, float]]:
    """When a worker has done its part of each batch; tenants take turns within a stage."""
    at_s = worker.backlog_s
    for k, stage in enumerate(stages, 1):
        cost_s = np.array([piece.cost_s(j) for piece in stage])
        tenants = [piece.tenant for piece in stage]
        if len(set(tenants)) > 1:
            after_s = in_turn(cost_s, tenants, {name: weight(name) for name in set(tenants)})
        else:
            after_s = cost_s.cumsum()
        last_s = float(after_s.max())
        for piece, own_s in zip(stage, after_s.tolist(), strict=True):
            alone = k == len(stages) and own_s >= last_s
            done_s = max(at_s + own_s, alone_s(piece, piece.next_kind, worker))
            yield piece.batch, done_s + drained_s(piece, worker, alone=alone)
        at_s += last_s


def alone_s(piece: Piece, kind: Kind, worker: WorkerView, *, long: bool = False) -> float:
    """Seconds that a line of a kind takes there from now on.

    `long`: as one of the longest, and one of the last; those beside it end before it, one by one.
    """
    length = piece.figures[kind].length
    occupancy = max(1.0, float(min(worker.slots, worker.in_flight + piece.lines)))
    prompt, tokens = max(1, kind.prompt_tokens - kind.shared_tokens), length.tokens
    if long:
        tokens, occupancy = tokens + length.overrun, (occupancy + 1.0) / 2
    return span_s(worker.cost, float(prompt), tokens, occupancy)


def drained_s(piece: Piece, worker: WorkerView, *, alone: bool) -> float:
    """Seconds by which the last to end outlasts what its worker does with full slots.

    Of those that run when the last line begins, half of each is over on average (more where lengths
    differ much), and one is as long as can be: so many rounds, which pay their fixed time for ever
    fewer if it is `alone`, and are full if others come after.
    """
    length = piece.last_length
    spread = (length.overrun / 2) ** 2 / max(1.0, length.tokens)  # an overrun is two deviations
    rounds = length.tokens + length.overrun - (length.tokens + spread) / 2
    round_s = worker.cost.alpha_d_s if alone else worker.cost.decode_s(worker.slots)
    return round_s * max(0.0, rounds)
