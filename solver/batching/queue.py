"""Who is next: the order of an engine's waiting requests.

Rules:
- an order only ranks; when to admit, and how many fit, is decided elsewhere;
- in a burst the longest (or shortest) goes first, but in a steady stream nobody starves: none is
  overtaken by one that came later than it by more than the seconds that their lengths differ, and
  that their priorities' head starts differ;
- a deadline makes a request interactive from the last moment on at which it could start and be in
  time: it goes before the interactive ones that come after that moment;
- who was sent in its tenant's turn ranks by when that came: nobody whose turn comes later goes
  before it, unless that tenant comes back (`solver.routing.fair`);
- ranks are fixed when a request comes. Later ones can go before it only for so long (head starts
  and lengths are bounded), so a queue that is served at all reaches everybody;
- requests that rank alike go in the order in which they came.

`SlotLists` is the paper's Algorithm 1 (README section 4): a list a slot, and stealing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from itertools import islice
from math import inf
from typing import Protocol

import numpy as np

from solver.arrays import FloatArray
from solver.batching.priority import HEAD_START_S, Priority
from solver.batching.sequence import Sequence
from solver.packing.pipeline import first_plan
from solver.packing.plan import Method, evaluate
from solver.packing.problem import Problem

RankKey = Callable[[Sequence], float]
RemainingTokens = Callable[[], FloatArray]
# Few enough to be packed, requests alone and times slots: some hundred microseconds of planning.
FEW_LEFT, FEW_PAIRS = 32, 64
# So many new entries are put into a sorted list one by one; more are worth sorting it.
FEW = 16


class RequestQueue(Protocol):
    """Waiting requests of one engine."""

    def __len__(self) -> int:
        """How many wait."""
        ...

    def add(self, sequence: Sequence) -> None:
        """A request has come."""
        ...

    def discard(self, sequence: Sequence) -> None:
        """It waits no longer."""
        ...

    def head(self, slots: list[int], left: RemainingTokens) -> list[Sequence]:
        """Who would take each of these free `slots`, in order; fewer if fewer wait.

        `left` tells (slots,) tokens that each slot's own request will still make, 0 if it is free.
        """
        ...


class SortedQueue:
    """By a key, smallest first."""

    def __init__(self, key: RankKey) -> None:
        self._key = key
        self._sorted: list[tuple[float, int, Sequence]] = []
        self._new: list[tuple[float, int, Sequence]] = []
        self._entries: dict[str, tuple[float, int, Sequence]] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, sequence: Sequence) -> None:
        """Rank it among the others. The list runs from last to first, so that taking is cheap."""
        self._order -= 1
        rank = self._key(sequence) if sequence.turn_s is None else sequence.turn_s
        entry = (-rank, self._order, sequence)
        self._entries[sequence.id] = entry
        self._new.append(entry)

    def discard(self, sequence: Sequence) -> None:
        """Take it out, wherever it stands."""
        self._settle()
        entry = self._entries.pop(sequence.id)
        del self._sorted[bisect_left(self._sorted, entry[:2], key=_rank)]

    def head(self, slots: list[int], left: RemainingTokens) -> list[Sequence]:  # noqa: ARG002
        """The first in order; which slots they are for does not matter."""
        self._settle()
        return [entry[2] for entry in islice(reversed(self._sorted), len(slots))]

    def _settle(self) -> None:
        if len(self._new) <= FEW:
            for entry in self._new:
                insort(self._sorted, entry, key=_rank)
        else:
            self._sorted.extend(self._new)
            self._sorted.sort(key=_rank)
        self._new.clear()


def _rank(entry: tuple[float, int, Sequence]) -> tuple[float, int]:
    return entry[:2]


class LongestFirstQueue(SortedQueue):
    """Longest first; once few of a burst are left, the planner packs them onto the slots instead.

    Longest first is off by up to a request's length at the end, which matters the more the fewer
    requests a slot still gets. Each free slot then takes the first that the plan gives to it.
    """

    def __init__(self, key: RankKey) -> None:
        super().__init__(key)
        self._slots: dict[str, int] = {}

    def head(self, slots: list[int], left: RemainingTokens) -> list[Sequence]:
        """As planned, or in order; slots that the plan leaves free take what others would later."""
        self._settle()
        if not 1 < len(self) <= FEW_LEFT or not self._came_together():
            return super().head(slots, left)
        busy = left()
        if len(self) * len(busy) > FEW_PAIRS:
            return super().head(slots, left)
        waiting = [entry[2] for entry in reversed(self._sorted)]
        self._pack(waiting, busy)
        first = {self._slots[s.id]: s for s in reversed(waiting)}
        chosen = [first[slot] for slot in slots if slot in first]
        return [*chosen, *(s for s in waiting if s not in chosen)][: len(slots)]

    def _came_together(self) -> bool:
        """Whether order is all that is at stake: in a stream, a plan could overtake for ever."""
        waiting = (entry[2] for entry in self._sorted)
        return len({(one.arrival_s, one.priority, one.due_s, one.turn_s) for one in waiting}) == 1

    def _pack(self, waiting: list[Sequence], busy: FloatArray) -> None:
        """A slot for each; the last plan stays if it is no worse."""
        tokens = np.array([[sequence.expected_tokens] for sequence in waiting])
        problem = Problem.of(np.tile(tokens, len(busy)), busy)
        plan = first_plan(problem)
        assert plan is not None  # there is no memory to run out of
        if all(sequence.id in self._slots for sequence in waiting):
            last = [self._slots[sequence.id] for sequence in waiting]
            if evaluate(problem, last, 0.0, Method.HEURISTIC).finish_s <= plan.finish_s:
                return
        self._slots = {s.id: slot for s, slot in zip(waiting, plan.assignment, strict=True)}


class SlotLists:
    """Each slot has its own list, longest first; a slot whose list is empty steals.

    It takes the longest request of the slot with the most tokens left to do. What has come since
    the last call is packed onto the lists with as few tokens as possible on the fullest of them:
    the offline problem of README section 3, by the planner's own heuristic.
    """

    def __init__(self, slots: int) -> None:
        self._lists: list[list[tuple[float, int, Sequence]]] = [[] for _ in range(slots)]
        self._tokens = [0.0] * slots
        self._home: dict[str, int] = {}
        self._new: dict[str, Sequence] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._home) + len(self._new)

    def add(self, sequence: Sequence) -> None:
        """It will be packed with all others that come before the next call."""
        self._new[sequence.id] = sequence

    def discard(self, sequence: Sequence) -> None:
        """Out of the list of its slot."""
        if self._new.pop(sequence.id, None) is not None:
            return
        slot = self._home.pop(sequence.id)
        entries = self._lists[slot]
        entries.remove(next(entry for entry in entries if entry[2] is sequence))
        self._tokens[slot] = sum(entry[0] for entry in entries)

    def head(self, slots: list[int], left: RemainingTokens) -> list[Sequence]:  # noqa: ARG002
        """Own list first, then theft, slot by slot."""
        self._pack()
        at = [len(entries) for entries in self._lists]
        rest = list(self._tokens)
        found: list[Sequence] = []
        for slot in slots:
            owner = slot if at[slot] else max(range(len(rest)), key=rest.__getitem__)
            if not at[owner]:
                break
            at[owner] -= 1
            tokens, _, sequence = self._lists[owner][at[owner]]
            rest[owner] = rest[owner] - tokens if at[owner] else -1.0
            found.append(sequence)
        return found

    def _pack(self) -> None:
        new = list(self._new.values())
        if not new:
            return
        tokens = np.array([[_tokens(sequence)] for sequence in new])
        plan = first_plan(Problem.of(np.tile(tokens, len(self._lists)), self._tokens))
        assert plan is not None  # there is no memory to run out of
        for sequence, slot in zip(new, plan.assignment, strict=True):
            self._order -= 1
            insort(self._lists[slot], (_tokens(sequence), self._order, sequence), key=_rank)
            self._tokens[slot] += _tokens(sequence)
            self._home[sequence.id] = slot
        self._new.clear()


def _tokens(sequence: Sequence) -> float:
    return sequence.prompt_tokens + sequence.expected_tokens


class Sized(Protocol):
    """Something that came at a time and has a length, as expected, and an urgency."""

    @property
    def arrival_s(self) -> float:
        """Seconds."""
        ...

    @property
    def expected_tokens(self) -> float:
        """Output tokens."""
        ...

    @property
    def priority(self) -> Priority:
        """Its head start."""
        ...

    @property
    def due_s(self) -> float:
        """When it should be done, by the clock of `arrival_s`; infinite: whenever."""
        ...


def effective_arrival_s(item: Sized, round_s: float) -> float:
    """When it came, as its rank counts it: head start and deadline are in it.

    A deadline gives no more than interactive requests have, however short it is.
    """
    own = item.arrival_s - HEAD_START_S[item.priority]
    if item.due_s == inf:
        return own
    latest = max(item.arrival_s, item.due_s - item.expected_tokens * round_s)
    return min(own, latest - HEAD_START_S[Priority.INTERACTIVE])


def longest_first(round_s: float) -> Callable[[Sized], float]:
    """Longest first; each token is worth one decode round of `round_s` seconds of waiting."""
    return lambda item: effective_arrival_s(item, round_s) - item.expected_tokens * round_s


def shortest_first(round_s: float) -> Callable[[Sized], float]:
    """Shortest first, by the same measure."""
    return lambda item: effective_arrival_s(item, round_s) + item.expected_tokens * round_s


def first_come_first_served(round_s: float) -> Callable[[Sized], float]:
    """As they come."""
    return lambda item: effective_arrival_s(item, round_s)


def make_queue(order: str, slots: int, round_s: float) -> RequestQueue:
    """The queue of an engine with `slots`, whose decode rounds take about `round_s` seconds."""
    if order == "paper":
        return SlotLists(slots)
    if order == "longest":
        return LongestFirstQueue(longest_first(round_s))
    return SortedQueue(_KEYS[order](round_s))


_KEYS: Mapping[str, Callable[[float], Callable[[Sized], float]]] = {
    "longest": longest_first,
    "shortest": shortest_first,
    "fcfs": first_come_first_served,
}
ORDERS = (*_KEYS, "paper")
