"""A queue of requests in order, kept apart by a key, such as who may serve them.

Thousands may wait; whoever plans looks at the first few of each group, so that no model's queue
stands in the way of another's, and putting one in or taking one out costs no look at the others.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from solver.routing.problem import Job


class Waiting(Hashable, Protocol):
    """A request that waits."""

    @property
    def job(self) -> Job:
        """What the planner knows of it."""
        ...


R = TypeVar("R", bound=Waiting)
K = TypeVar("K", bound=Hashable)
Members = frozenset[int] | None  # indices of the workers that may serve; None: all of them
Entry = tuple[float, int, R]  # rank, serial number, which no two share, request


class GroupedQueue(Generic[R, K]):
    """See the module.

    Attributes:
        groups: the entries of each group, in order.
        prompt_tokens, output_tokens: of all together, as expected.
    """

    def __init__(self) -> None:
        self.groups: dict[K, list[Entry[R]]] = {}
        self.prompt_tokens, self.output_tokens = 0, 0.0
        # Of each: its key, its entry, and the output tokens counted for it; first whose turn it is
        # in `next_in_turn`.
        self._where: OrderedDict[R, tuple[K, Entry[R], float]] = OrderedDict()
        self._serial = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._where)

    def __contains__(self, request: R) -> bool:
        """Whether it waits."""
        return request in self._where

    def key(self, request: R) -> K:
        """Which group it is in."""
        return self._where[request][0]

    def put(self, request: R, rank: float, key: K) -> None:
        """One more; of equal rank, who came first goes first."""
        self._serial += 1
        entry = (rank, self._serial, request)
        if key not in self.groups:
            self.groups = {other: mine for other, mine in self.groups.items() if mine}
        insort(self.groups.setdefault(key, []), entry)
        job = request.job
        self._where[request] = key, entry, job.expected_tokens
        self.prompt_tokens += job.prompt_tokens
        self.output_tokens += job.expected_tokens

    def discard(self, request: R) -> bool:
        """It waits no longer; whether it did."""
        found = self._where.pop(request, None)
        if found is None:
            return False
        key, entry, expected = found
        mine = self.groups[key]
        del mine[bisect_left(mine, entry)]
        self._count(-request.job.prompt_tokens, -expected)
        return True

    def rank(self, request: R) -> float:
        """As it was put in."""
        return self._where[request][1][0]

    def next_in_turn(self) -> R:
        """Each of them once before any a second time; there must be one."""
        request = next(iter(self._where))
        self._where.move_to_end(request)
        return request

    def grown(self, request: R) -> float:
        """How many more output tokens are expected of it than were counted for it."""
        return request.job.expected_tokens - self._where[request][2]

    def move(self, request: R, by: float) -> None:
        """Its rank is higher by so much; of equal rank, who was put in first still goes first."""
        key, entry, expected = self._where[request]
        mine, moved = self.groups[key], (entry[0] + by, entry[1], request)
        del mine[bisect_left(mine, entry)]
        insort(mine, moved)
        self._where[request] = key, moved, request.job.expected_tokens
        self.output_tokens += request.job.expected_tokens - expected

    def pop(self, key: K) -> list[R]:
        """Let a whole group go."""
        requests = [entry[2] for entry in self.groups.pop(key, [])]
        for request in requests:
            _, _, expected = self._where.pop(request)
            self._count(-request.job.prompt_tokens, -expected)
        return requests

    def regroup(self, key_of: Callable[[R], K]) -> None:
        """Their keys have changed."""
        found: dict[K, list[Entry[R]]] = {}
        for request, (_, entry, expected) in self._where.items():
            key = key_of(request)
            found.setdefault(key, []).append(entry)
            self._where[request] = key, entry, expected
        self.groups = {key: sorted(mine) for key, mine in found.items()}

    def by_arrival(self) -> list[R]:
        """All, as they were put in."""
        entries = sorted((where[1] for where in self._where.values()), key=lambda entry: entry[1])
        return [entry[2] for entry in entries]

    def _count(self, prompt_tokens: int, output_tokens: float) -> None:
        self.prompt_tokens += prompt_tokens
        self.output_tokens += output_tokens
        if not self._where:
            self.output_tokens = 0.0  # rounding must not add up


def merged(queues: Sequence[Sequence[Entry[R]]]) -> list[R]:
    """Of several groups, in order."""
    entries = queues[0] if len(queues) == 1 else heapq.merge(*queues)
    return [entry[2] for entry in entries]
