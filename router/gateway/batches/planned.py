"""Lines in the order of a plan for all that is left, each for the worker that the plan gives it.

Rules:
- planned is anew when `solver.routing.backlog` says so: in a few milliseconds, as lines that are
  alike are planned as one; so kinds are bounded (`MOST_PREFIXES`, `MOST_KINDS`);
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
from math import inf, log2
from typing import Any, Generic, NamedTuple, TypeVar

from router.gateway.batches.lines import Waiting
from solver.batching.stepping_back import KEPT_FREE
from solver.cost.estimators import BYTES_PER_TOKEN
from solver.lengths.distribution import EDGES, bin_of
from solver.routing.backlog import Backlog
from solver.routing.pieces import Kind, Length, Members
from solver.routing.prefixes import BLOCK_TOKENS
from solver.routing.problem import WorkerView
from solver.routing.rolling import lead

# Beginnings that are told apart in a batch, and kinds in all: a plan looks at each.
MOST_PREFIXES, MOST_KINDS = 64, 256
# Between two plans, seconds: one takes some ten milliseconds of the event loop; what has come since
# the last is taken all the same.
PLAN_EACH_S = 1.0
# Of a line's bytes what is not its prompt: names, and the object around it.
AROUND_BYTES = 160
# Sizes of prompts in an octave that are told apart: 19 %.
A_OCTAVE = 4

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Seen(Generic[W]):
    """The workers that take requests now: each as itself, as planned with, and its models."""

    workers: Sequence[W]
    views: Sequence[WorkerView]
    models: Sequence[Container[str]]


class Label(NamedTuple):
    """What tells kinds apart beside what a plan must know: the tenant, size and limit."""

    tenant: str
    size: int
    limit: int


# Output tokens by model, prompt tokens, limit (0: none) and tenant.
Lengths = Callable[[str, int, int, str], Length]


@dataclass(frozen=True, slots=True)
class _Line:
    waiting: Waiting
    kind: Kind


class Planned(Generic[W]):
    """An `Order`; see the module.

    Args:
        see: the workers, as of now.
        lengths: what is predicted; `learned` from how many ends.
        of: a batch's model and tenant.
        clock: seconds; of the same clock as the views that `see` gives.
    """

    def __init__(
        self,
        see: Callable[[], Seen[W]],
        lengths: Lengths,
        learned: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._see, self._lengths, self._learned, self._clock = see, lengths, learned, clock
        self._backlog: Backlog[_Line] = Backlog()
        self._prefixes: dict[str, set[int]] = {}
        self._kinds: dict[tuple[str, int, int | None, int], Kind] = {}
        self._workers: list[W] = []
        self._at: dict[tuple[str, int], W] = {}  # lines that are given, and to whom
        self._given: Counter[int] = Counter()  # by worker, by its identity
        self._offset_s = time.time() - clock()  # from the clock to Unix time

    def add(self, lines: Sequence[Waiting]) -> None:
        """Part of `Order`."""
        for line in lines:
            self._leave(line)
        self._backlog.add([_Line(line, self._kind(line)) for line in lines])

    def take(self, room: int) -> list[Waiting]:
        """Part of `Order`."""
        if not len(self._backlog):
            return []
        seen = self._see()
        self._plan(seen)
        taken = [line.waiting for line in self._backlog.take_hopeless(room)]
        views = list(seen.views)
        many = len(self._backlog) > sum(view.slots for view in views)
        for j, (worker, view) in enumerate(zip(seen.workers, views, strict=True)):
            given = self._given[id(worker)]
            places = _places(view, given, many=many)
            free = max(places - max(view.in_flight, given), int(not given))
            for line in self._backlog.take(j, min(free, room - len(taken)), views):
                place = line.waiting.batch, line.waiting.number
                self._at[place] = worker
                self._given[id(worker)] += 1
                taken.append(line.waiting)
        return taken

    def worker(self, line: Waiting) -> W | None:
        """Part of `Order`."""
        return self._at.get((line.batch, line.number))

    def ended(self, line: Waiting, input_tokens: int, output_tokens: int) -> None:  # noqa: ARG002
        """Part of `Order`; lengths are learnt where all requests end."""
        self._leave(line)

    def lost(self, line: Waiting) -> None:
        """Part of `Order`."""
        self._leave(line)

    def drop(self, batch: str) -> None:
        """Part of `Order`."""
        self._backlog.drop(batch)
        self._prefixes.pop(batch, None)
        self._kinds = {key: kind for key, kind in self._kinds.items() if kind.batch != batch}

    def waiting(self, batch: str) -> int:
        """Part of `Order`."""
        return self._backlog.waiting(batch)

    def outlook(self, batch: str) -> dict[str, Any]:
        """Part of `Order`: seconds from now, for lengths as expected."""
        found = self._backlog.outlook(self._clock(), batch)
        if found is None:
            return {}
        return {
            "planned_finish_s": round(found.finish_s, 3),
            "lower_bound_s": round(found.bound_s, 3),
            "gap_ratio": round(found.gap_ratio, 4),
        }

    def _plan(self, seen: Seen[W]) -> None:
        backlog = self._backlog
        if [id(one) for one in self._workers] != [id(one) for one in seen.workers]:
            self._workers = list(seen.workers)
            backlog.workers_changed()
            backlog.planned_s = -inf
        learned = self._learned()
        lately = self._clock() - backlog.planned_s < PLAN_EACH_S
        if not lately and backlog.due(learned, len(seen.workers)):
            known: dict[str, Members] = {}

            def eligible(model: str) -> Members:
                if model not in known:
                    able = frozenset(j for j, own in enumerate(seen.models) if model in own)
                    known[model] = None if len(able) == len(seen.workers) > 0 else able
                return known[model]

            backlog.plan(seen.views, self._expected, self._clock(), learned, eligible)

    def _expected(self, kind: Kind) -> Length:
        label = kind.label
        assert isinstance(label, Label)
        return self._lengths(kind.model, kind.prompt_tokens, label.limit, label.tenant)

    def _kind(self, line: Waiting) -> Kind:
        tokens = max(1, (line.length - AROUND_BYTES) / BYTES_PER_TOKEN)
        size, prefix = int(A_OCTAVE * log2(tokens)), self._beginning(line)
        limit = 0 if not line.tokens else EDGES[bin_of(line.tokens)]
        key = line.batch, size, prefix, limit
        if key not in self._kinds and len(self._kinds) >= MOST_KINDS:
            key = line.batch, A_OCTAVE * int(log2(tokens)), None, 0  # roughly, then
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = self._new_kind(line, *key[1:])
        return kind

    def _new_kind(self, line: Waiting, size: int, prefix: int | None, limit: int) -> Kind:
        about = max(1, round(2 ** ((size + 0.5) / A_OCTAVE)))
        shared = 0 if prefix is None else min(BLOCK_TOKENS, about - 1)
        due_s = line.expires_s - self._offset_s
        label = Label(line.tenant, size, limit)
        return Kind(line.batch, about, due_s, prefix, shared, line.model, label)

    def _beginning(self, line: Waiting) -> int | None:
        if not line.prefix:
            return None
        known = self._prefixes.setdefault(line.batch, set())
        if line.prefix not in known and len(known) >= MOST_PREFIXES:
            return None
        known.add(line.prefix)
        return line.prefix

    def _leave(self, line: Waiting) -> None:
        """It is with no worker any more."""
        worker = self._at.pop((line.batch, line.number), None)
        if worker is None:
            return
        self._given[id(worker)] -= 1
        if self._given[id(worker)] <= 0:
            del self._given[id(worker)]


def _places(view: WorkerView, given: int, *, many: bool) -> int:
    """Sequences up to which a worker is sent lines, of which it has `given`."""
    if view.in_flight > given:  # online work is there
        return view.slots - int(KEPT_FREE * view.slots)
    return view.slots + (lead(view.slots) // 2 if many else 0)
