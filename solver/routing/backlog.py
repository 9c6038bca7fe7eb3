"""All bulk work that is left, packed over the workers as a whole, and bound late.

Rules:
- the plan says which worker is to do how many lines of each kind (`solver.routing.pieces`), by the
  grouped packing of README section 3; which line of a kind it is does not matter, so none is bound
  before its worker has room for it;
- a worker takes its own share in order, but for what a faster one would be done with sooner, though
  it began later; once it has none left, it takes from who is predicted to
  finish last, what stands last there, as long as it would itself be done with it sooner: so a wrong
  prediction costs little, and a slow worker gets no long line at the end;
- it is planned anew when lines come or go, when workers change, or when lengths have become known
  (`due`): a quarter more ends than at the last time, so a few times in all;
- the bound is on all that is left, whatever the schedule (`solver.batching.bounds.fleet_bound`),
  for lengths as expected; no plan is told to end before it.

Must not know: files, clients, clocks. Whoever drives it looks up lengths and workers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, Protocol, TypeVar

import numpy as np

from solver.batching.bounds import Engine, fleet_bound
from solver.cost.model import span_s
from solver.lengths.predictor import worth_again
from solver.packing.pipeline import first_plan_or_queue
from solver.packing.plan import Plan
from solver.packing.problem import Problem
from solver.routing.dealing import dealt
from solver.routing.pieces import (
    Eligible,
    Expected,
    Kind,
    Members,
    Piece,
    gathered,
    problem_of,
    stay,
)
from solver.routing.problem import WorkerView


class Line(Protocol):
    """A request of a batch."""

    @property
    def kind(self) -> Kind:
        """What it is like."""
        ...


L = TypeVar("L", bound=Line)
# Pieces that are split so that workers end together, for each worker at most.
EVENINGS = 4
NOBODY = frozenset[int]()


@dataclass(frozen=True, slots=True)
class Outlook:
    """When bulk work will be done, in seconds from when one looks.

    Attributes:
        finish_s: as planned.
        bound_s: no schedule is done before, if lengths are as expected.
    """

    finish_s: float
    bound_s: float

    @property
    def gap_ratio(self) -> float:
        """How far the plan is above its bound, as a fraction of it."""
        return self.finish_s / self.bound_s - 1.0 if self.bound_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan, and what it is a plan of: whoever searches for a better one needs the problem."""

    problem: Problem
    plan: Plan
    pieces: Sequence[Piece]
    staying: Mapping[int, int]  # those of the pieces that are not to be placed, and where they are


class Backlog(Generic[L]):
    """See the module.

    Attributes:
        planned_s: when it was last planned; minus infinity: never.
    """

    def __init__(self) -> None:
        self._lines: dict[Kind, deque[L]] = {}
        self._lists: list[deque[Piece]] = []  # of each worker, what it has still to take
        self._planned: Counter[Kind] = Counter()
        self._homes: dict[tuple[str, Hashable], int] = {}  # of what lines begin with
        self._left_s: list[float] = []  # of each worker, seconds of what it has still to take
        self._changed, self._learned = False, 0
        self.planned_s = -inf
        self._eligible: Eligible = _everybody
        self._outlooks: dict[str, tuple[float, Outlook]] = {}  # each as of when
        self._whole = Outlook(0.0, 0.0)

    def __len__(self) -> int:
        """Lines that wait."""
        return sum(map(len, self._lines.values()))

    def add(self, lines: Sequence[L]) -> None:
        """These wait."""
        for line in lines:
            self._lines.setdefault(line.kind, deque()).append(line)
            self._changed = True

    def drop(self, batch: str) -> None:
        """The batch's lines are not to be done."""
        for kind in [kind for kind in self._lines if kind.batch == batch]:
            del self._lines[kind]
            self._changed = True
        self._outlooks.pop(batch, None)
        self._homes = {key: j for key, j in self._homes.items() if key[0] != batch}

    def waiting(self, batch: str) -> int:
        """Lines of a batch that wait."""
        return sum(len(own) for kind, own in self._lines.items() if kind.batch == batch)

    def due(self, learned: int, workers: int) -> bool:
        """Whether to plan anew, with `learned` ends to predict from, on so many workers."""
        if not self._lines:
            return False
        changed = self._changed or workers != len(self._lists)
        return changed or worth_again(learned, self._learned)

    def workers_changed(self) -> None:
        """Others are there than when it was planned."""
        self._changed = True
        self._homes.clear()  # they are told by their places

    def plan(
        self,
        workers: Sequence[WorkerView],
        expected: Expected,
        now: float,
        learned: int = 0,
        eligible: Eligible | None = None,
    ) -> Draft | None:
        """Plan all that waits on these workers; None if there is nothing to plan, or nobody.

        Whoever finds a better plan of the draft than its own may `adopt` it later. Lines that
        nobody may serve are left out; see `take_hopeless`.
        """
        self._eligible = eligible or _everybody
        counts = self._counts()
        self._changed, self._learned, self.planned_s = False, learned, now
        self._lists, self._left_s = [deque() for _ in workers], [0.0] * len(workers)
        self._planned = Counter()
        if not counts or not workers:
            self._whole = Outlook(0.0, 0.0)
            return None
        pieces = gathered(counts, workers, expected, self._eligible)
        staying = stay(pieces, workers, self._homes)
        more_s = np.zeros(len(workers))
        for k, j in staying.items():
            more_s[j] += pieces[k].cost_s(j)
        free = [piece for k, piece in enumerate(pieces) if k not in staying]
        problem, plan = first_plan_or_queue(problem_of(free, workers, more_s))
        draft = Draft(problem, plan, pieces, staying)
        self.adopt(draft, plan, workers, expected)
        return draft

    def adopt(
        self, draft: Draft, plan: Plan, workers: Sequence[WorkerView], expected: Expected
    ) -> None:
        """Follow this plan of a draft from now on, as far as its lines still wait."""
        lists: list[deque[Piece]] = [deque() for _ in workers]
        placed = iter(plan.assignment)
        for k, piece in enumerate(draft.pieces):
            j = draft.staying.get(k)
            lists[next(placed) if j is None else j].append(piece.copy())
        self._lists = dealt(lists, workers)
        self._left_s = [sum(p.cost_s(j) for p in own) for j, own in enumerate(lists)]
        self._even_out(workers)
        self._planned = Counter()
        for piece in draft.pieces:
            self._planned.update(piece.kinds)
        self._look_ahead(workers, expected)

    def take(self, worker: int, room: int, workers: Sequence[WorkerView]) -> list[L]:
        """What a worker is to begin now, `room` lines at most; they wait no longer."""
        taken: list[L] = []
        while len(taken) < room and (line := self._next(worker, workers)) is not None:
            taken.append(line)
        return taken

    def take_hopeless(self, room: int) -> list[L]:
        """Lines that nobody may serve: whoever sends them hears why."""
        kinds = [kind for kind in self._lines if self._eligible(kind.model) == NOBODY]
        taken: list[L] = []
        for kind in kinds:
            while len(taken) < room and (line := self._pop(kind)) is not None:
                taken.append(line)
        return taken

    def outlook(self, now: float, batch: str | None = None) -> Outlook | None:
        """Of a batch, or of everything, from `now` on; None: that has not been planned yet."""
        if self.planned_s == -inf:
            return None
        known = (self.planned_s, self._whole) if batch is None else self._outlooks.get(batch)
        if known is None:
            return None
        at_s, told = known
        passed_s = now - at_s
        return Outlook(max(0.0, told.finish_s - passed_s), max(0.0, told.bound_s - passed_s))

    def _next(self, j: int, workers: Sequence[WorkerView]) -> L | None:
        while (piece := self._own(j, workers)) is not None:
            kind = piece.next_kind
            line_s = piece.take(kind)
            self._planned[kind] -= 1
            self._left_s[j] = max(0.0, self._left_s[j] - float(line_s[j]))
            line = self._pop(kind)
            if line is not None:
                if kind.prefix is not None:
                    self._homes[kind.batch, kind.prefix] = j
                return line
        return self._unplanned(j)

    def _own(self, j: int, workers: Sequence[WorkerView]) -> Piece | None:
        """The piece that it takes from; another's if it has none."""
        if j >= len(self._lists):
            return None
        own = self._lists[j]
        while own and not own[0].kinds:
            own.popleft()
        if not own and not self._steal(j, workers):
            return None
        return own[0] if self._pays(own[0], j, workers) else None

    def _pays(self, piece: Piece, j: int, workers: Sequence[WorkerView]) -> bool:
        """Whether a line, should it turn out long, is not done sooner by who comes to it later.

        Faster workers come to it once they have taken all that is left.
        """
        own_s = _alone_s(piece, workers[j], long=True)
        line_s = piece.figures[piece.next_kind].line_s
        work = rate = 0.0
        soonest_s = inf
        for other, left_s in enumerate(self._left_s):
            speed = 1.0 / max(1e-12, float(line_s[other]))
            work += left_s * speed
            if other == j or not _may(piece, other):
                continue
            theirs_s = _alone_s(piece, workers[other], long=True)
            if theirs_s < own_s:
                rate, soonest_s = rate + speed, min(soonest_s, theirs_s)
        return rate == 0.0 or soonest_s + work / rate >= own_s

    def _steal(self, j: int, workers: Sequence[WorkerView]) -> bool:
        """Take a piece from who finishes last; whether that pays."""
        ends = [view.backlog_s + left for view, left in zip(workers, self._left_s, strict=True)]
        for victim in sorted(range(len(ends)), key=ends.__getitem__, reverse=True):
            theirs = self._lists[victim]
            while theirs and not theirs[-1].kinds:
                theirs.pop()
            if not theirs:
                continue
            piece = theirs[-1]
            if not _may(piece, j):
                continue
            theirs_s = max(ends[victim], _alone_s(piece, workers[victim], long=True))
            mine_s = _alone_s(piece, workers[j], long=True)
            if mine_s >= theirs_s or not self._pays(piece, j, workers):
                continue
            if len(theirs) > 1 or piece.lines == 1:
                theirs.pop()
            else:
                piece = piece.split(piece.lines // 2)
            cost_s = piece.cost_s(victim)
            self._left_s[victim] = max(0.0, self._left_s[victim] - cost_s)
            self._left_s[j] += piece.cost_s(j)
            self._lists[j].append(piece)
            return True
        return False

    def _unplanned(self, j: int) -> L | None:
        """One that has come since the plan."""
        if not self._changed:
            return None
        for kind, own in self._lines.items():
            eligible = self._eligible(kind.model)
            if (eligible is None or j in eligible) and len(own) > max(0, self._planned[kind]):
                return self._pop(kind)
        return None

    def _counts(self) -> dict[Kind, int]:
        """Lines of each kind that somebody may serve."""
        found = {kind: len(own) for kind, own in self._lines.items()}
        return {kind: n for kind, n in found.items() if self._eligible(kind.model) != NOBODY}

    def _pop(self, kind: Kind) -> L | None:
        own = self._lines.get(kind)
        if not own:
            return None
        line = own.popleft()
        if not own:
            del self._lines[kind]
        return line

    def _even_out(self, workers: Sequence[WorkerView]) -> None:
        """Split pieces where that ends everything sooner: what begins alike is packed whole."""
        left = self._left_s
        for _ in range(EVENINGS * len(workers)):
            ends = [view.backlog_s + own for view, own in zip(workers, left, strict=True)]
            last, first = max(range(len(ends)), key=ends.__getitem__), ends.index(min(ends))
            piece = self._lists[last][-1] if self._lists[last] else None
            if piece is None or not _may(piece, first):
                return
            each_s = float(piece.lines_s[last] + piece.lines_s[first]) / piece.lines
            lines = int((ends[last] - ends[first] - float(piece.shared_s[first])) / each_s)
            if lines < 1:
                return
            if lines >= piece.lines:
                given = self._lists[last].pop()
                left[last] -= given.cost_s(last)
            else:
                given = piece.split(lines)
                left[last] -= float(given.lines_s[last])
            left[first] += given.cost_s(first)
            self._lists[first].append(given)

    def _look_ahead(self, workers: Sequence[WorkerView], expected: Expected) -> None:
        """When what is planned will be done: all of it, and each batch."""
        ends: dict[str, float] = {}
        for j, own in enumerate(self._lists):
            at_s = workers[j].backlog_s
            for piece, last in _with_last(own):
                at_s += piece.cost_s(j)
                end_s = max(at_s, _alone_s(piece, workers[j]))
                if last:
                    end_s += _drain_s(piece, workers[j])
                batch = piece.batch
                ends[batch] = max(ends.get(batch, 0.0), end_s)
        counts = self._counts()
        busy_s = [worker.backlog_s for worker in workers]
        for batch, end_s in ends.items():
            mine = {kind: n for kind, n in counts.items() if kind.batch == batch}
            bound_s = bound(mine, workers, expected)
            self._outlooks[batch] = self.planned_s, Outlook(max(end_s, bound_s), bound_s)
        bound_s = bound(counts, workers, expected, busy_s)
        self._whole = Outlook(max(*ends.values(), bound_s, *busy_s), bound_s)


def bound(
    counts: dict[Kind, int],
    workers: Sequence[WorkerView],
    expected: Expected,
    busy_s: Sequence[float] = (),
) -> float:
    """Seconds before which so many lines of each kind cannot be done, whoever does which.

    What several begin with is prefilled once at least; `busy_s` (m,) is what workers do besides.
    """
    counts = {kind: n for kind, n in counts.items() if n}
    if not counts:
        return max(busy_s, default=0.0)
    own = [max(1, kind.prompt_tokens - kind.shared_tokens) for kind in counts]
    prompt = np.repeat(np.array(own, dtype=np.float64), list(counts.values()))
    output = np.repeat([expected(kind).tokens for kind in counts], list(counts.values()))
    seen, at = set(), 0
    for kind, n in counts.items():
        if kind.prefix is not None and (kind.batch, kind.prefix) not in seen:
            seen.add((kind.batch, kind.prefix))
            prompt[at] += kind.shared_tokens
        at += n
    engines = [Engine(worker.cost, worker.slots) for worker in workers]
    return fleet_bound(engines, np.zeros(len(prompt)), prompt, output, busy_s)


def _everybody(_: str) -> Members:
    return None


def _with_last(pieces: deque[Piece]) -> Iterator[tuple[Piece, bool]]:
    for k, piece in enumerate(pieces, 1):
        yield piece, k == len(pieces)


def _may(piece: Piece, j: int) -> bool:
    return piece.eligible is None or j in piece.eligible


def _alone_s(piece: Piece, worker: WorkerView, *, long: bool = False) -> float:
    """Seconds that one line of it takes there from now on; `long`: one of the longest."""
    kind = piece.next_kind
    length = piece.figures[kind].length
    occupancy = min(worker.slots, worker.in_flight + piece.lines)
    prompt = max(1, kind.prompt_tokens - kind.shared_tokens)
    tokens = length.tokens + (length.overrun if long else 0.0)
    return span_s(worker.cost, float(prompt), tokens, float(max(1, occupancy)))


def _drain_s(piece: Piece, worker: WorkerView) -> float:
    """Seconds by which the last to end outlasts what its worker does with full slots.

    Of those that run when the last line begins, half of each is over on average (more where lengths
    differ much), and one is as long as can be: so many rounds pay their fixed time for ever fewer.
    """
    length = piece.last_length
    spread = (length.overrun / 2) ** 2 / max(1.0, length.tokens)  # an overrun is two deviations
    rounds = length.tokens + length.overrun - (length.tokens + spread) / 2
    return worker.cost.alpha_d_s * max(0.0, rounds)
