"""All bulk work that is left, packed over the workers as a whole, and bound late.

Rules:
- the plan says which worker is to do how many lines of each kind (`solver.routing.stages`), so that
  deadlines are kept and all is done as soon as can be; which line of a kind it is does not matter,
  so none is bound before its worker has room for it;
- a worker takes its own share in order, stage by stage; within one the tenants take turns by weight
  (`solver.routing.fair`, the rule of online work), each with its own in order. What shares nothing
  waits for all together, and each takes the longest of it that no faster worker would be done with
  sooner, though it began later. Once its share is done it takes of what is for all, and then, of
  what begins alike, from who is predicted to finish last what stands last there, as long as it
  would itself be done with it sooner: so a wrong prediction costs little, and a slow worker gets no
  long line at the end;
- it is planned anew when lines come or go, when workers change, when lengths have become known
  (`due`): a quarter more ends than at the last time, and every `AGAIN_S`, as online work may have
  taken what was counted on;
- the bound is on all that is left, whatever the schedule (`solver.batching.bounds.fleet_bound`),
  for lengths as expected; no plan is told to end before it.

Must not know: files, clients, clocks. Whoever drives it looks up lengths and workers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from heapq import nlargest
from itertools import takewhile
from math import inf
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from solver.lengths.predictor import again_from
from solver.packing.problem import TOLERANCE
from solver.routing.bulk_plan import Asked, BulkPlan, Outlook, plan_of
from solver.routing.charges import Size
from solver.routing.fair import FairShares, Weight, alike
from solver.routing.kinds import Eligible, Expected, Kind, Length, Members
from solver.routing.pieces import Piece, allowed
from solver.routing.problem import WorkerView
from solver.routing.stages import alone_s


class Line(Hashable, Protocol):
    """A request of a batch."""

    @property
    def kind(self) -> Kind:
        """What it is like."""
        ...


L = TypeVar("L", bound=Line)
# A deadline is minutes away or more: soon enough to see that a plan has become too slow for it.
AGAIN_S = 60.0
# Who is idle looks for work at so many that finish last: elsewhere there is less to win.
MOST_LOOKED_AT = 8
NOBODY = frozenset[int]()


class Backlog(Generic[L]):
    """See the module.

    Attributes:
        planned_s: when it was last planned; minus infinity: never.
        shares: what each tenant has had of bulk work.
    """

    def __init__(self, weight: Weight = alike) -> None:
        self.shares: FairShares[Any] = FairShares(weight)
        self._tenants: Counter[str] = Counter()  # lines of each that wait
        self._lines: dict[Kind, deque[L]] = {}
        self._lists: list[deque[Piece]] = []  # of each worker, what it has still to take
        self._planned: Counter[Kind] = Counter()
        self._homes: dict[tuple[str, Hashable], int] = {}  # of what lines begin with
        self._left_s = np.zeros(0)  # (m,) seconds of what each worker has still to take
        self._least: dict[tuple[int, Kind], float] = {}  # see `_least_ahead`, as of this `take`
        self._earliest: int | None = None  # stage of which something is left, as of then
        self._changed, self._learned = False, 0
        self._added = self._asked_to = self._planned_to = 0  # lines so far
        self.planned_s = -inf
        self._eligible: Eligible = _everybody
        self._outlooks: dict[str, tuple[float, Outlook]] = {}  # each as of when
        self._whole: tuple[float, Outlook] | None = None
        self._staged = False  # whether the plan has several stages
        self._asked = 0  # questions so far
        self._taken: list[tuple[int, Kind]] = []  # since the last one, and by whom
        self._counts: Counter[Kind] = Counter()  # what was asked about then
        self._lengths: dict[Kind, Length] = {}

    def __len__(self) -> int:
        """Lines that wait."""
        return sum(map(len, self._lines.values()))

    def add(self, lines: Sequence[L]) -> None:
        """These wait."""
        for line in lines:
            self._lines.setdefault(line.kind, deque()).append(line)
            self._changed = True
            self._added += 1
            tenant = line.kind.tenant
            if not self._tenants[tenant]:
                self.shares.join(tenant, tenant)
            self._tenants[tenant] += 1

    def drop(self, batch: str) -> None:
        """The batch's lines are not to be done."""
        for kind in [kind for kind in self._lines if kind.batch == batch]:
            self._count_out(kind.tenant, len(self._lines.pop(kind)))
            self._changed = True
        self._outlooks.pop(batch, None)
        self._homes = {key: j for key, j in self._homes.items() if key[0] != batch}

    @property
    def kinds(self) -> int:
        """Kinds of lines that wait."""
        return len(self._lines)

    def waiting(self, batch: str) -> int:
        """Lines of a batch that wait."""
        return sum(len(own) for kind, own in self._lines.items() if kind.batch == batch)

    def due(self, learned: int, workers: int, now: float) -> bool:
        """Whether to plan anew, with `learned` ends to predict from, on so many workers."""
        if not self._lines:
            return False
        changed = self._changed or self._planned_to != self._added or workers != len(self._lists)
        old = now - self.planned_s >= AGAIN_S
        return changed or old or learned >= again_from(self._learned)

    def workers_changed(self, eligible: Eligible | None = None) -> None:
        """Others are there than when it was planned, of whom these may serve a model."""
        self._changed, self._eligible = True, eligible or _everybody
        self._asked += 1  # no answer is for them
        self._forget(0)
        self._homes.clear()  # they are told by their places

    def plan(
        self,
        workers: Sequence[WorkerView],
        expected: Expected,
        now: float,
        learned: int = 0,
        eligible: Eligible | None = None,
    ) -> None:
        """Plan all that waits on these workers, at once, and follow that."""
        asked = self.ask(workers, expected, now, learned, eligible)
        if asked is not None:
            self.follow(plan_of(asked))

    def ask(
        self,
        workers: Sequence[WorkerView],
        expected: Expected,
        now: float,
        learned: int = 0,
        eligible: Eligible | None = None,
    ) -> Asked | None:
        """What is to be planned now; None if there is nothing, or nobody.

        Until an answer is there to `follow`, the plan before it is, if it is for these workers.
        Lines that nobody may serve are left out; see `take_hopeless`.
        """
        self._eligible = eligible or _everybody
        members = {kind.model: self._eligible(kind.model) for kind in self._lines}
        self._changed, self._learned, self.planned_s = False, learned, now
        self._asked += 1
        self._taken.clear()
        counts = {k: len(own) for k, own in self._lines.items() if members[k.model] != NOBODY}
        if not counts or not workers or len(workers) != len(self._lists):
            self._forget(len(workers))
        if not counts or not workers:
            self._whole = now, Outlook(0.0, 0.0)
            return None
        self._counts, self._asked_to = Counter(counts), self._added
        self._lengths = {kind: expected(kind) for kind in counts}
        tenants = {kind.tenant for kind in counts}
        return Asked(
            self._asked,
            counts,
            self._lengths,
            workers,
            {kind.batch: kind.due_s - now for kind in counts},
            self._homes.copy(),
            {tenant: self.shares.weight(tenant) for tenant in tenants},
            members,
        )

    def follow(self, plan: BulkPlan) -> bool:
        """Do as it says from now on, as far as its lines still wait; whether it answers the last.

        Its pieces are this backlog's from now on. A better answer to the same question may come.
        """
        if plan.number != self._asked:
            return False
        at_s = self.planned_s
        self._lists, self._left_s = plan.schedule.lists, np.array(plan.schedule.left_s)
        self._planned, self._planned_to = self._counts.copy(), self._asked_to
        self._staged = len({piece.stage for own in self._lists for piece in own}) > 1
        for j, kind in self._taken:
            self._planned[kind] -= 1
            self._strike(j, kind)
        self._outlooks |= {batch: (at_s, told) for batch, told in plan.outlooks.items()}
        self._whole = at_s, plan.whole
        return True

    def _forget(self, workers: int) -> None:
        """The plan; nothing is planned for so many workers."""
        self._lists, self._left_s = [deque() for _ in range(workers)], np.zeros(workers)
        self._planned.clear()
        self._planned_to = -1

    def _strike(self, worker: int, kind: Kind) -> None:
        """Out of the lists, one that a worker has taken since it was asked."""
        for j in (worker, *range(len(self._lists))):
            piece = next((one for one in self._lists[j] if kind in one.kinds), None)
            if piece is not None:
                self._left_s = np.maximum(0.0, self._left_s - piece.take(kind, j))
                return

    def take(
        self, room: Sequence[int], workers: Sequence[WorkerView], now: float
    ) -> Iterator[tuple[int, L]]:
        """What the workers are to begin now, each as many lines at most as it has room for.

        They wait no longer. Workers take one each in turn: so what is long is spread over those
        that have room.
        """
        self._least.clear()
        self._earliest = None
        left = list(room)
        while open_ := [j for j, own in enumerate(left) if own > 0]:
            for j in open_:
                line = self._next(j, workers)
                if line is None:
                    left[j] = 0
                    continue
                left[j] -= 1
                self._taken.append((j, line.kind))
                if self.shares.several:
                    self._charge(line, workers, now)
                yield j, line

    def ended(self, line: L, prompt: float, output: float, now: float) -> None:
        """It has been answered, after so many uncached prompt and output tokens."""
        self.shares.settle(line, prompt, output, now)

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
        known = self._whole if batch is None else self._outlooks.get(batch)
        return None if known is None else known[1].later(now - known[0])

    def _next(self, j: int, workers: Sequence[WorkerView]) -> L | None:
        while (piece := self._own(j, workers)) is not None:
            kind = self._paying_kind(piece, j, workers)
            if kind is None:
                break
            self._left_s = np.maximum(0.0, self._left_s - piece.take(kind, j))
            self._planned[kind] -= 1
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
        if self._staged:  # what must go before is everybody's concern
            if self._earliest is None:
                self._earliest = min((piece.stage for piece in self._heads()), default=0)
            if not own or self._earliest < own[0].stage:
                self._steal(j, workers, self._earliest + 1)
        if not own and not self._steal(j, workers, inf):
            return None
        stage = own[0].stage
        first = [one for one in takewhile(lambda one: one.stage == stage, own) if one.kinds]
        first = [one for one in first if one.cost_s(j) > 0] or first  # its own part before others'
        return self._whose_turn(first) if len(self._tenants) > 1 else first[0]

    def _whose_turn(self, pieces: Iterable[Piece]) -> Piece:
        """The first of the tenant that is next."""
        firsts: dict[str, Piece] = {}
        for piece in pieces:
            firsts.setdefault(piece.tenant, piece)
        return firsts[self.shares.least(firsts)]

    def _charge(self, line: L, workers: Sequence[WorkerView], now: float) -> None:
        """The tenant has so much more, as expected, on the first worker that may serve it."""
        kind = line.kind
        view = workers[min(self._eligible(kind.model) or (0,))]
        prompt = float(max(1, kind.prompt_tokens - kind.shared_tokens))
        tokens = self._lengths[kind].tokens if kind in self._lengths else 1.0
        self.shares.charge(line, kind.tenant, Size(view.cost, view.slots, prompt, tokens), now)

    def _paying_kind(self, piece: Piece, j: int, workers: Sequence[WorkerView]) -> Kind | None:
        """The longest that pays, of what is for all; of what begins alike, the next if it pays."""
        if piece.quota_s is None:
            return piece.next_kind if self._pays(piece, piece.next_kind, j, workers) else None
        ahead_s = 0.0
        for kind, count in piece.kinds.items():
            line_s = float(piece.figures[kind].line_s[j])
            ahead_s += count * line_s
            if self._pays(piece, kind, j, workers, ahead_s / max(1e-12, line_s)):
                return kind
        return None

    def _pays(
        self,
        piece: Piece,
        kind: Kind,
        j: int,
        workers: Sequence[WorkerView],
        ahead: float | None = None,
    ) -> bool:
        """Whether a line, should it turn out long, is not done sooner by who comes to it later.

        Faster workers have first to begin what goes before it, worth so many such lines `ahead`;
        None: all that is left.
        """
        if (j, kind) not in self._least:
            self._least[j, kind] = _least_ahead(piece, kind, j, workers)
        least = self._least[j, kind]
        if ahead is None and least > 0:
            ahead = float((self._left_s / np.maximum(1e-12, piece.figures[kind].line_s)).sum())
        return least <= 0 or (ahead is not None and ahead >= least)

    def _heads(self) -> Iterator[Piece]:
        """The first piece of each worker's that has lines."""
        for own in self._lists:
            piece = next((piece for piece in own if piece.kinds), None)
            if piece is not None:
                yield piece

    def _steal(self, j: int, workers: Sequence[WorkerView], before: float) -> bool:
        """Take of stages `before` one from who finishes those last; whether that pays."""
        left_s = self._left_s.tolist()
        if before < inf:
            left_s = [
                sum(piece.cost_s(k) for piece in own if piece.kinds and piece.stage < before)
                for k, own in enumerate(self._lists)
            ]
        ends = [view.backlog_s + own_s for view, own_s in zip(workers, left_s, strict=True)]
        own = [self._own_pieces(k, before) if k != j else [] for k in range(len(ends))]
        rich = [k for k, pieces in enumerate(own) if pieces and allowed(pieces[-1], j)]
        for victim in nlargest(MOST_LOOKED_AT, rich, key=ends.__getitem__):
            piece = own[victim][-1]
            kind = piece.next_kind
            theirs_s = max(ends[victim], alone_s(piece, kind, workers[victim], long=True))
            mine_s = alone_s(piece, kind, workers[j], long=True)
            if mine_s >= theirs_s or not self._pays(piece, kind, j, workers):
                continue
            if piece.lines == 1 or len(own[victim]) > 1:
                self._lists[victim].remove(piece)
            else:
                piece = piece.split(piece.lines // 2)
            self._left_s[victim] = max(0.0, self._left_s[victim] - piece.cost_s(victim))
            self._left_s[j] += piece.cost_s(j)
            self._lists[j].appendleft(piece)
            return True
        return False

    def _own_pieces(self, worker: int, before: float) -> list[Piece]:
        """Those of stages `before` one that are in its list alone."""
        own = [piece for piece in self._lists[worker] if piece.quota_s is None]
        return [piece for piece in own if piece.kinds and piece.stage < before]

    def _unplanned(self, j: int) -> L | None:
        """One that no plan knows yet: of the tenant that is next, and of what is due first.

        Of those that are alike in this, of the kind that has waited first.
        """
        if self._planned_to == self._added:
            return None
        found = [
            kind
            for kind, own in self._lines.items()
            if len(own) > max(0, self._planned[kind]) and _may(self._eligible(kind.model), j)
        ]
        if not found:
            return None
        tenant = self.shares.least(dict.fromkeys(kind.tenant for kind in found))
        return self._pop(min((k for k in found if k.tenant == tenant), key=_due))

    def _pop(self, kind: Kind) -> L | None:
        own = self._lines.get(kind)
        if not own:
            return None
        line = own.popleft()
        if not own:
            del self._lines[kind]
        self._count_out(kind.tenant, 1)
        return line

    def _count_out(self, tenant: str, lines: int) -> None:
        """So many of its lines wait no longer."""
        self._tenants[tenant] -= lines
        if not self._tenants[tenant]:
            del self._tenants[tenant]
            self.shares.leave(tenant)


def _least_ahead(piece: Piece, kind: Kind, j: int, workers: Sequence[WorkerView]) -> float:
    """Lines like this that faster workers can begin and each still be done with one sooner than it.

    The nearer in speed, the earlier one stops: so each of them counts for its own lead.
    """
    line_s = piece.figures[kind].line_s
    may = range(len(line_s)) if piece.eligible is None else piece.eligible
    own_s = alone_s(piece, kind, workers[j], long=True)
    leads = (
        (own_s - alone_s(piece, kind, workers[k], long=True), max(1e-12, float(line_s[k])))
        for k in may
        if line_s[k] < line_s[j] * (1 - TOLERANCE)
    )
    return sum(max(0.0, lead_s) / each_s for lead_s, each_s in leads)


def _may(members: Members, worker: int) -> bool:
    return members is None or worker in members


def _due(kind: Kind) -> float:
    return kind.due_s


def _everybody(_: str) -> Members:
    return None
