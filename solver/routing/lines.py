"""Lines of tenants' requests, and whose is first in turn.

Rules:
- the more urgent go first: among the first of all lines, the one of least rank names the priority
  whose turn it is; of those, who comes back, then the least level, then the least rank;
- levels rise as lines are served, so a window is the order that one by one would have been;
- of each priority there are two heaps of the first of the lines, by rank and by level; what has
  gone on since it was put in is passed over, or put in again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Generic, NamedTuple, Protocol, TypeVar

from solver.batching.priority import Priority
from solver.routing.grouped_queue import Entry, Members, Waiting


class Group(NamedTuple):
    """What waits together: who may serve it, the tenant's name, and whether it is bulk work."""

    members: Members
    tenant: str
    bulk: bool = False


class Urgent(Waiting, Protocol):
    """A request that waits, and how urgent it is."""

    @property
    def priority(self) -> Priority:
        """Its head start."""
        ...


R = TypeVar("R", bound=Urgent)
_Place = tuple[float, int]  # rank and serial number


class Lines(Generic[R]):
    """See the module; `back` are those who come back.

    `above`: by how much the level of a line counts as higher while a request is its first.
    """

    def __init__(
        self,
        lines: Mapping[Group, Sequence[Entry[R]]],
        levels: dict[str, float],
        back: Container[Hashable],
        above: Callable[[Group, R], float],
    ) -> None:
        self._lines, self._levels, self._back, self._above = lines, levels, back, above
        self._at = dict.fromkeys(lines, 0)
        self._ended: set[Members] = set()
        self._by_rank: dict[Priority, list[tuple[_Place, Group, int]]] = {}
        self._by_level: dict[Priority, list[tuple[bool, float, _Place, Group, int]]] = {}
        for key in lines:
            self._put(key)

    def next(self) -> tuple[Group, R] | None:
        """It; None if nobody is left."""
        priority = self._turn()
        if priority is None:
            return None
        heap = self._by_level[priority]
        while True:
            later, level, place, key, at = heappop(heap)
            if self._is_over(key, at):
                continue
            request = self._lines[key][at][2]
            if level != (now := self._level(key, request)):
                heappush(heap, (later, now, place, key, at))
                continue
            self._at[key] += 1
            return key, request

    def served(self, key: Group, more: float, *, ended: bool) -> None:
        """The one that was next rises so far; `ended`: nobody of its group is wanted any more."""
        self._levels[key.tenant] += more
        if ended:
            self._ended.add(key.members)
        else:
            self._put(key)

    def _put(self, key: Group) -> None:
        line, at = self._lines[key], self._at[key]
        if at < len(line):
            rank, serial, request = line[at]
            priority, place = request.priority, (rank, serial)
            heappush(self._by_rank.setdefault(priority, []), (place, key, at))
            by_level = self._by_level.setdefault(priority, [])
            later = request not in self._back
            heappush(by_level, (later, self._level(key, request), place, key, at))

    def _level(self, key: Group, request: R) -> float:
        return self._levels[key.tenant] + self._above(key, request)

    def _turn(self) -> Priority | None:
        """The priority of the least rank."""
        best: tuple[_Place, Priority] | None = None
        for priority, heap in self._by_rank.items():
            while heap and self._is_over(heap[0][1], heap[0][2]):
                heappop(heap)
            if heap and (best is None or heap[0][0] < best[0]):
                best = heap[0][0], priority
        return None if best is None else best[1]

    def _is_over(self, key: Group, at: int) -> bool:
        return at != self._at[key] or key.members in self._ended
