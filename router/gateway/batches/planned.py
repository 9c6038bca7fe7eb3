"""Lines in the order of a plan for all that is left, each for the worker that the plan gives it.

Rules:
- planned is anew when `solver.routing.backlog` says so. Lines that are alike are planned as one,
  and kinds are bounded (`MOST_PREFIXES`, `MOST_KINDS`); a plan for few of them is made here, any
  other in another process, as the event loop is not to wait for it. Until it is there the one
  before is followed, and lines that none knows go to whoever has room;
- a worker gets as many lines as it has slots for, and half of a lead while there are many: the rest
  of the lead is for online work, which comes in at once, and for which lines step back; beside
  online work a share of the slots is left free for more of it. Who has none gets one in any case:
  it waits for its turn here, so that bulk work goes on however full others say that workers are;
- a line of a model that nobody serves goes out all the same: its answer says so;
- where several processes plan the same lines, each has its plan, and the database says who runs
  which.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from router.gateway.batches.lines import Waiting
from solver.batching.online import KEPT_FREE
from solver.cost.estimators import A_OCTAVE, BYTES_PER_TOKEN, size_of, tokens_of
from solver.lengths.distribution import EDGES, bin_of
from solver.routing.backlog import Backlog
from solver.routing.bulk_plan import Asked, BulkPlan, plan_of
from solver.routing.fair import Weight, alike
from solver.routing.kinds import Kind, Length, Members
from solver.routing.prefixes import BLOCK_TOKENS
from solver.routing.problem import WorkerView
from solver.routing.rolling import lead

# Beginnings that are told apart in a batch, and kinds in all: a plan looks at each.
MOST_PREFIXES, MOST_KINDS = 64, 256
# Between two plans, seconds; what has come since the last is taken all the same.
PLAN_EACH_S = 1.0
# Pairs of a kind and a worker up to which a plan is made here, in 6 to 12 ms: a small batch does
# not wait for a process that has to start first.
MOST_HERE = 32
# Of a line's bytes what is not its prompt: names, and the object around it.
AROUND_BYTES = 160

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Seen(Generic[W]):
    """The workers that take requests now: each as itself, as planned with, and its models."""

    workers: Sequence[W]
    views: Sequence[WorkerView]
    models: Sequence[Container[str]]


class Label(NamedTuple):
    """What tells kinds apart beside what a plan must know: the size and the limit."""

    size: int
    limit: int


# Output tokens by model, prompt tokens, limit (0: none) and tenant.
Lengths = Callable[[str, int, int, str], Length]


class Planner(Protocol):
    """Plans what takes longer than an event loop can wait for."""

    def ready(self) -> bool:
        """Whether it could plan something now."""
        ...

    def plan(self, asked: Asked, follow: Callable[[BulkPlan], None]) -> None:
        """Begin to; `follow` is called with every better plan."""
        ...

    def stop(self) -> None:
        """For good."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    waiting: Waiting
    kind: Kind


class Planned(Generic[W]):
    """See the module. It runs in one event loop and does not wait; processes have one each.

    What one gives may have been claimed by another process: then it is lost here.

    Args:
        see: the workers, as of now.
        lengths: what is predicted; `learned` from how many ends.
        of: a batch's model and tenant.
        clock: seconds; of the same clock as the views that `see` gives.
        weight: of a tenant's share.
        planner: of what is too large to be planned here; None: everything is planned here.
    """

    def __init__(
        self,
        see: Callable[[], Seen[W]],
        lengths: Lengths,
        learned: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        weight: Weight = alike,
        planner: Planner | None = None,
    ) -> None:
        self._see, self._lengths, self._learned, self._clock = see, lengths, learned, clock
        self._planner = planner
        self._plan_found: BulkPlan | None = None
        self._backlog: Backlog[_Line] = Backlog(weight)
        self._prefixes: dict[str, set[int]] = {}
        self._kinds: dict[tuple[str, str, int, int | None, int], Kind] = {}
        self._workers: list[W] = []
        self._at: dict[tuple[str, int], tuple[W, _Line]] = {}  # lines given, and to whom
        self._given: Counter[int] = Counter()  # by worker, by its identity
        self._due: dict[str, float] = {}  # by batch, when it ends, by the clock

    def add(self, lines: Sequence[Waiting]) -> None:
        """These wait: of a batch that has begun, or given back."""
        for line in lines:
            self._leave(line)
        self._backlog.add([_Line(line, self._kind(line)) for line in lines])

    def take(self, room: int) -> list[Waiting]:
        """The next lines, at most `room`; they wait no longer."""
        if not len(self._backlog):
            return []
        seen, now = self._see(), self._clock()
        self._plan(seen, now)
        taken = [line.waiting for line in self._backlog.take_hopeless(room)]
        views = list(seen.views)
        many = len(self._backlog) > sum(view.slots for view in views)
        free = [
            self._free(worker, view, many=many)
            for worker, view in zip(seen.workers, views, strict=True)
        ]
        for j, line in islice(self._backlog.take(free, views, now), room - len(taken)):
            place, worker = (line.waiting.batch, line.waiting.number), seen.workers[j]
            self._at[place] = worker, line
            self._given[id(worker)] += 1
            taken.append(line.waiting)
        return taken

    def worker(self, line: Waiting) -> W | None:
        """To whom it should go, of those that take requests; None: whoever is best then."""
        given = self._at.get((line.batch, line.number))
        return None if given is None else given[0]

    def ended(self, line: Waiting, input_tokens: int, output_tokens: int) -> None:
        """It has been answered, as long as that; 0: nobody has said."""
        given = self._at.get((line.batch, line.number))
        if given is not None and output_tokens:
            self._backlog.ended(given[1], input_tokens, output_tokens, self._clock())
        self._leave(line)

    def lost(self, line: Waiting) -> None:
        """It does not run here any more, or never did: another process has it."""
        self._leave(line)

    def drop(self, batch: str) -> None:
        """The batch's lines are not to be run any more."""
        self._backlog.drop(batch)
        self._prefixes.pop(batch, None)
        self._due.pop(batch, None)
        self._kinds = {key: kind for key, kind in self._kinds.items() if kind.batch != batch}

    def waiting(self, batch: str) -> int:
        """Lines of a batch that it knows to wait."""
        return self._backlog.waiting(batch)

    def outlook(self, batch: str) -> dict[str, Any]:
        """What is told of a batch's finish, in seconds from now; empty: nothing is known of it."""
        found = self._backlog.outlook(self._clock(), batch)
        if found is None:
            return {}
        told: dict[str, Any] = {
            "planned_finish_s": round(found.finish_s, 3),
            "lower_bound_s": round(found.bound_s, 3),
            "gap_ratio": round(found.gap_ratio, 4),
        }
        if found.late_s > 0:
            told["late_s"] = round(found.late_s, 3)
        plan = self._plan_found
        if plan is not None and batch in plan.outlooks:
            told |= {"planner": plan.method.value, "planner_gain_s": round(plan.gained_s, 3)}
        return told

    def close(self) -> None:
        """Nothing is asked of it any more."""
        if self._planner is not None:
            self._planner.stop()

    def _plan(self, seen: Seen[W], now: float) -> None:
        backlog = self._backlog
        known: dict[str, Members] = {}

        def eligible(model: str) -> Members:
            if model not in known:
                able = frozenset(j for j, own in enumerate(seen.models) if model in own)
                known[model] = None if len(able) == len(seen.workers) > 0 else able
            return known[model]

        if [id(one) for one in self._workers] != [id(one) for one in seen.workers]:
            self._workers = list(seen.workers)
            backlog.workers_changed(eligible)
            backlog.planned_s = -inf
        learned, lately = self._learned(), now - backlog.planned_s < PLAN_EACH_S
        if lately or not backlog.due(learned, len(seen.workers), now):
            return
        planner = self._planner
        if planner is not None and backlog.kinds * len(seen.workers) <= MOST_HERE:
            planner = None
        if planner is not None and not planner.ready():
            return
        asked = backlog.ask(seen.views, self._expected, now, learned, eligible)
        if asked is None:
            return
        if planner is None:
            self._follow(plan_of(asked))
        else:
            planner.plan(asked, self._follow)

    def _follow(self, plan: BulkPlan) -> None:
        if self._backlog.follow(plan):
            self._plan_found = plan

    def _expected(self, kind: Kind) -> Length:
        label = kind.label
        assert isinstance(label, Label)
        return self._lengths(kind.model, kind.prompt_tokens, label.limit, kind.tenant)

    def _kind(self, line: Waiting) -> Kind:
        tokens = max(1, (line.length - AROUND_BYTES) / BYTES_PER_TOKEN)
        size, prefix = size_of(tokens), self._beginning(line)
        limit = 0 if not line.tokens else EDGES[bin_of(line.tokens)]
        key = line.batch, line.model, size, prefix, limit
        if key not in self._kinds and len(self._kinds) >= MOST_KINDS:
            key = line.batch, line.model, size - size % A_OCTAVE, None, 0  # roughly, then
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = self._new_kind(line, *key[2:])
        return kind

    def _new_kind(self, line: Waiting, size: int, prefix: int | None, limit: int) -> Kind:
        about = tokens_of(size)
        shared = 0 if prefix is None else min(BLOCK_TOKENS, about - 1)
        # By what the time is when it comes: clocks are set, and machines sleep.
        due_s = self._due.setdefault(line.batch, line.expires_s - time.time() + self._clock())
        label = Label(size, limit)
        return Kind(line.batch, about, due_s, prefix, shared, line.model, line.tenant, label)

    def _beginning(self, line: Waiting) -> int | None:
        if not line.prefix:
            return None
        known = self._prefixes.setdefault(line.batch, set())
        if line.prefix not in known and len(known) >= MOST_PREFIXES:
            return None
        known.add(line.prefix)
        return line.prefix

    def _free(self, worker: W, view: WorkerView, *, many: bool) -> int:
        """Lines that it may be given now."""
        given = self._given[id(worker)]
        return max(_places(view, given, many=many) - max(view.in_flight, given), int(not given))

    def _leave(self, line: Waiting) -> None:
        """It is with no worker any more."""
        given = self._at.pop((line.batch, line.number), None)
        if given is None:
            return
        worker, left = given
        self._backlog.ended(left, 0, 0, self._clock())  # unless it has, and with what it took
        self._given[id(worker)] -= 1
        if self._given[id(worker)] <= 0:
            del self._given[id(worker)]


def _places(view: WorkerView, given: int, *, many: bool) -> int:
    """Sequences up to which a worker is sent lines, of which it has `given`."""
    if view.in_flight > given:  # online work is there
        return view.slots - int(KEPT_FREE * view.slots)
    return view.slots + (lead(view.slots) // 2 if many else 0)
