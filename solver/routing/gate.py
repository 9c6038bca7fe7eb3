"""Who joins those that wait, so that whoever waits is in time; the others are told when to come.

Rules:
- who would be next joins, and so does a burst: those who come before somebody has waited for as
  long as their first token may take. A line that does not end within that is too long;
- then only those join who begin within `SHARE` of that time by plan: the rest of it is for what no
  plan foresees, for the agent's queue and for the prefill. Who has no such target joins always;
- while others were told to come back (`solver.routing.returns`), a request joins if it begins
  before the next of them comes; while they come, everybody joins who will be in time at all;
- of a bound on all that is here, the last `RESERVED` is kept for those who come back, too;
- by plan: the work of those that wait and go before it, over what the fleet has lately done in a
  second of what its cost models say (`Pace`);
- where tenants take turns, each has a line of its own, and before who joins it go of each other
  line as much as of its own: nobody waits behind another's line, or is told to come after it.

Work is in seconds of the whole fleet (`solver.routing.speed`). Must not know: clocks, workers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import exp, inf
from typing import Generic, TypeVar

from solver.batching.priority import HEAD_START_S, Priority
from solver.routing.returns import Returns
from solver.routing.speed import FleetSpeed

# Of the time to the first token, what may be spent waiting; and by those who come back, as others
# came with them.
SHARE, RETURNED_SHARE = 0.5, 0.85
# Of a bound, as much as two openings bring where it is some hundred requests.
RESERVED = 0.125
# After so long without anybody waiting, what comes is a burst again.
CALM_S = 10.0
# The pace is that of so many seconds, or beginnings, whichever are more: in a gateway's first
# seconds what is predicted of answers changes fast. At first, `PRIOR_S` of such seconds are taken
# to have done a third: nothing has ended yet, and who is told too late a time still gets in.
MEMORY_S, MEMORY, PRIOR_S = 3.0, 16, 2.0
_EMPTY = dict.fromkeys(Priority, 0.0)
# Of each priority, those that go before somebody new of it.
_BEFORE = {
    one: tuple(other for other in Priority if HEAD_START_S[other] >= HEAD_START_S[one])
    for one in Priority
}

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that serve the same models, as of a moment.

    Attributes:
        speed: of them all.
        beyond: sequences that they have beyond their slots.
        full: no slot is free.
    """

    speed: FleetSpeed
    beyond: int
    full: bool


NO_FLEET = Fleet(FleetSpeed(), 0, full=False)


@dataclass(slots=True)
class _Crowd:
    """When somebody began to wait, and when somebody was last seen to."""

    since_s: float
    seen_s: float


class Pace:
    """How much of the work that the cost models tell is done in a second while all slots are held.

    What gets a slot then takes the place of what has ended.
    """

    def __init__(self) -> None:
        self._work_s, self._took_s = PRIOR_S / 3, PRIOR_S
        self._new_s, self._new = 0.0, 0
        self._at_s, self._full = 0.0, False

    @property
    def factor(self) -> float:
        """Above 1: faster than the cost models say."""
        return self._work_s / self._took_s

    def began(self, work_s: float) -> None:
        """Somebody has got a slot, or is next at one."""
        self._new_s += work_s
        self._new += 1

    def look(self, now: float, *, full: bool) -> None:
        """What has begun since the last look counts if all slots were held then, and are now."""
        took_s, self._at_s = now - self._at_s, now
        if full and self._full:
            kept = exp(max(-took_s / MEMORY_S, -self._new / MEMORY))
            self._work_s = self._work_s * kept + self._new_s
            self._took_s = self._took_s * kept + took_s
        self._full, self._new_s, self._new = full, 0.0, 0


def surely_has_place(there: float, most: float) -> bool:
    """Whether one more may come to those that are there, whoever was told to come back."""
    return there < most - int(most * RESERVED)


class Gate(Generic[K]):
    """Before one fleet; see the module.

    Where several tenants take turns each has one: `beside` are all of these, of the same `pace`.
    """

    def __init__(
        self, pace: Pace | None = None, beside: Callable[[], Iterable[Gate[K]]] = lambda: ()
    ) -> None:
        self._waiting: dict[K, tuple[Priority, float]] = {}
        self._lines = _EMPTY.copy()
        self._crowds: dict[Priority, _Crowd] = {}
        self._fleet = NO_FLEET
        self._used_s = -inf
        self._sequence_s = 0.0
        self._pace, self._returns = pace or Pace(), Returns()
        self._beside = beside

    def look(self, fleet: Fleet, now: float) -> None:
        """How its workers are now."""
        self._fleet = fleet
        self._pace.look(now, full=fleet.full)

    def is_used(self, now: float) -> bool:
        """Whether somebody waits, was told to come back, or came lately."""
        return bool(self._waiting) or self._returns.next_s(now) < inf or now < self._used_s + CALM_S

    def work_s(self, sequences: float, prompt_tokens: float, output_tokens: float) -> float:
        """The fleet's seconds for a request, by its cost models."""
        return self._fleet.speed.seconds(sequences, prompt_tokens, output_tokens)

    @property
    def sequence_s(self) -> float:
        """The work of one sequence, as a mean of the latest; 0 if there was none."""
        return self._sequence_s

    def add(self, key: K, priority: Priority, work_s: float, sequences: int) -> None:
        """One more waits."""
        self._waiting[key] = priority, work_s
        self._lines[priority] += work_s
        self._see(work_s, sequences)

    def passed(self, work_s: float, sequences: int) -> None:
        """One has begun that had not to wait."""
        self._see(work_s, sequences)
        self._pace.began(work_s)

    def _see(self, work_s: float, sequences: int) -> None:
        self._sequence_s += (work_s / max(1, sequences) - self._sequence_s) / MEMORY

    def remove(self, key: K, *, began: bool) -> None:
        """It waits no longer; `began`: as a worker has room for it."""
        priority, work_s = self._waiting.pop(key)
        self._lines[priority] -= work_s
        if began:
            self._pace.began(work_s)
        if not self._waiting:
            self._lines = _EMPTY.copy()  # rounding must not add up

    def wait_s(self, priority: Priority) -> float:
        """Seconds until somebody new would begin."""
        own_s, beyond = self.line_s(priority), self._fleet.beyond
        if not (own_s or beyond):
            return 0.0
        work_s = beyond * self._sequence_s + own_s
        if own_s:
            for other in self._beside():
                if other is not self:  # before it comes what is due to others in their turns
                    work_s += min(other.line_s(priority), own_s)
        return max(0.0, work_s) / self._pace.factor

    def line_s(self, priority: Priority) -> float:
        """The work of those that go before somebody new."""
        if not self._waiting:
            return 0.0
        before_s, lines = 0.0, self._lines
        for other in _BEFORE[priority]:
            before_s += lines[other]
        return max(0.0, before_s)

    def has_place(self, there: float, most: float, now: float) -> bool:
        """Whether one more may come to those that are there, of which `most` are allowed."""
        if surely_has_place(there, most):
            return True
        return there < most and not 0 < self._returns.next_s(now) < inf

    def came(self, work_s: float, now: float) -> None:
        """One has come, whether it may stay or not."""
        self._used_s = now
        if self._returns.openings:
            self._returns.came(now, work_s / self._pace.factor)

    def joins(self, priority: Priority, work_s: float, target_s: float, now: float) -> bool:
        """Whether one that has come joins those that wait; `target_s`: when it should begin."""
        self.came(work_s, now)
        if target_s == inf:
            return True
        wait_s = self.wait_s(priority)
        if wait_s <= 0 or self._is_burst(priority, target_s, now):
            return True
        next_s = self._returns.next_s(now)
        if next_s <= 0:
            return wait_s <= RETURNED_SHARE * target_s
        return wait_s <= min(next_s, SHARE * target_s)

    def _is_burst(self, priority: Priority, target_s: float, now: float) -> bool:
        crowd = self._crowds.get(priority)
        if crowd is None or now - crowd.seen_s > CALM_S:
            crowd = self._crowds[priority] = _Crowd(now, now)
        crowd.seen_s = now
        return now - crowd.since_s < target_s

    def again_s(self, wait_s: float, work_s: float, now: float, target_s: float = 0.0) -> int:
        """Whole seconds after which one that was refused should find a place.

        `wait_s` is how long it would have to wait now, of which some is no harm (`target_s`).
        """
        least_s = wait_s - RETURNED_SHARE * target_s
        return self._returns.tell(now, least_s, work_s / self._pace.factor)
