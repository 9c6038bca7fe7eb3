"""Who is next where several tenants want what there is: fair shares of engine time.

Rules:
- what a tenant has had is engine time: the slot-seconds that its requests take by a cost model, as
  expected, and once they have ended, as they were. The model is that of the first worker that may
  serve a request, wherever it goes: so a second on a fast worker is worth more than one on a slow
  one, and nobody pays for having been sent there. It fades with a half-life of `HALF_LIFE_S`, and
  divided by the tenant's weight it is its *level*;
- of requests that wait, equally urgent, the tenant with the least level is next; which of its own
  that is, and where it goes, is decided as ever: by rank (`solver.routing.order`), and by what all
  costs together (`solver.routing.objective`), so caches, speeds and the makespan count as before;
- who is more urgent goes before as ever: among the first of all tenants, the one of least rank
  names the priority whose turn it is;
- a tenant that had nothing waiting begins at the least level of those that have: it is next, and
  what it did not use is not saved up, nor is it owed to those who used it;
- a request whose tenant has nothing else waiting, and has had no more than any that has, *comes
  back*: it goes before its equals, may be sent ahead where others may not while turns are
  taken (`solver.routing.rolling`), ranks in a worker's queue as if its turn had come `BACK_S`
  sooner, and waits there for company no longer than `COMPANY_S`. So it waits for the next slot that
  falls free, and not for those who were sent ahead: nothing is kept for it;
- where only one tenant waits, nothing changes, and nothing is computed.

Why the least level and no price on it: with weights w, tenant u's level grows by c / w_u when it
is served c slot-seconds. Serving the least, any two that wait stay within the largest c / w of each
other, whatever they send (start-time fair queueing: Goyal, Vin, Cheng, IEEE/ACM ToN 5(5), 1997). A
price of p request-seconds for each unit of level, added to ranks, would leave them (a - b) / p
apart, with a and b how long their first have waited: as the lines of those who ask for more than
their share get longer without end, so would that. It is the limit of such a price.

Tenants beyond `MOST` at once share one name, as nobody can keep others from making names up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Generic, NamedTuple, Protocol, TypeVar

from solver.batching.priority import Priority
from solver.cost.model import CostModel, request_s
from solver.routing.grouped_queue import Entry, GroupedQueue, Members, Waiting

# A minute is what limits are told in, and longer than most answers: what was had before that is
# worth half, so that a tenant that has been served alone for an hour owes nobody an hour.
HALF_LIFE_S = 60.0
MOST, OTHERS = 100, "(others)"
# Longer than others have waited elsewhere: it goes before all that queue at its worker.
BACK_S = 600.0
# With a slot's end and a prefill, less than a second. Without company there are more stages: at two
# who come back a second, one in 200 of an engine's tokens that cannot mix less (at 0.25 s one in
# 100, and with no bound none).
COMPANY_S = 0.4
# Levels are kept in units that grow as what was had before fades; beyond so many doublings, anew.
MOST_DOUBLINGS = 64.0


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


class Turn(NamedTuple):
    """How a worker is to take a request: when its turn came, None where tenants do not take turns.

    `hurry_s`: from when on it waits for no company.
    """

    turn_s: float | None
    hurry_s: float

    @classmethod
    def of(cls, ahead_s: float | None, now: float) -> Turn:
        """Of one that comes now, as if it were so much sooner."""
        if ahead_s is None:
            return cls(None, inf)
        return cls(now - min(ahead_s, BACK_S), now + COMPANY_S if ahead_s else inf)


R = TypeVar("R", bound=Urgent)
Weight = Callable[[str], float]


def alike(_: str) -> float:
    """All tenants have the same weight."""
    return 1.0


def slot_seconds(cost: CostModel, slots: int, prompt: float, output: float, n: int = 1) -> float:
    """Slot-seconds that a request of so many uncached prompt and output tokens takes, in n answers.

    Engine seconds at full slots, times these: a prefill stalls them all, a decode round is shared.
    """
    return n * slots * request_s(cost, prompt / n, output / n, slots)


class Size(NamedTuple):
    """A request as shares count it: uncached prompt and output tokens, in so many answers."""

    cost: CostModel
    slots: int
    prompt: float
    output: float
    answers: int = 1

    @property
    def slot_s(self) -> float:
        """See `slot_seconds`."""
        return slot_seconds(*self)

    def become(self, prompt: float, output: float) -> Size:
        """It turned out otherwise."""
        return self._replace(prompt=prompt, output=output)


class FairShares(Generic[R]):
    """See the module.

    Attributes:
        weight: of each tenant, by its name.
    """

    def __init__(self, weight: Weight = alike) -> None:
        self.weight = weight
        self._had: dict[str, float] = {}  # in slot-seconds of `_since_s`, and twice that one
        self._since_s = 0.0  # half-life later, and so on
        self._waiting: Counter[str] = Counter()
        self._back: set[Hashable] = set()
        self._names: dict[Hashable, str] = {}  # of those that wait
        self._contended_s = -inf  # when turns were taken last
        self._charged: dict[Hashable, tuple[str, Size]] = {}

    @property
    def several(self) -> bool:
        """Whether there has been more than one tenant."""
        return len(self._had) > 1

    @property
    def named(self) -> bool:
        """Whether there has been one with a name."""
        return self.several or not self._had.keys() <= {""}

    @property
    def contended(self) -> bool:
        """Whether more than one waits."""
        return len(self._waiting) > 1

    def in_turns(self, now: float) -> bool:
        """Whether several wait, or have lately: what they were sent may still queue at workers."""
        if self.contended:
            self._contended_s = now
        return now - self._contended_s <= HALF_LIFE_S

    def see(self, tenant: str) -> str:
        """The name that it goes by."""
        if tenant in self._had:
            return tenant
        if len(self._had) >= MOST:
            idle = [name for name in self._had if name not in self._waiting and name != OTHERS]
            idle.sort(key=self._had.__getitem__)
            for name in idle[: MOST // 2]:
                del self._had[name]
        name = tenant if len(self._had) < MOST else OTHERS
        self._had.setdefault(name, 0.0)
        return name

    def join(self, request: Hashable, tenant: str) -> None:
        """One more of its requests waits."""
        name = self._names[request] = self.see(tenant)
        if name not in self._waiting and self._waiting:
            least = min(map(self._level, self._waiting))
            if self._level(name) <= least:
                self._back.add(request)
            self._had[name] = max(self._had[name], least * self.weight(name))
        self._waiting[name] += 1

    def is_back(self, request: Hashable) -> bool:
        """Whether it comes back; see the module."""
        return request in self._back

    @property
    def any_back(self) -> bool:
        """Whether somebody does."""
        return bool(self._back)

    def name(self, request: Hashable) -> str:
        """By which its tenant goes while it waits."""
        return self._names[request]

    def leave(self, request: Hashable) -> None:
        """It waits no longer; unknown ones are ignored."""
        name = self._names.pop(request, None)
        self._back.discard(request)
        if name is None:
            return
        self._waiting[name] -= 1
        if not self._waiting[name]:
            del self._waiting[name]

    def charge(self, request: Hashable, tenant: str, size: Size, now: float) -> None:
        """A request is sent, and is expected to be so large."""
        name = self.see(tenant)
        self._charged[request] = name, size
        self._add(name, size.slot_s, now)

    def settle(self, request: Hashable, prompt: float, output: float, now: float) -> None:
        """It has left its worker after so many uncached prompt and output tokens."""
        name, size = self._charged.pop(request, ("", None))
        if size is not None and name in self._had:
            self._add(name, size.become(prompt, output).slot_s - size.slot_s, now)

    def least(self, tenants: Iterable[str]) -> str:
        """Of these, who is next."""
        return min(tenants, key=lambda tenant: self._level(self.see(tenant)))

    def levels(self, now: float) -> dict[str, float]:
        """Slot-seconds that each tenant has had, faded and over its weight."""
        self._renew(now)
        fade = 2.0 ** ((self._since_s - now) / HALF_LIFE_S)
        return {name: self._level(name) * fade for name in self._had}

    def over_s(self, tenant: str, now: float) -> float:
        """Slot-seconds by which it is over its share; below 0: under it.

        Shared out by weight is what those have had, faded, that wait, itself among them.
        """
        self._renew(now)
        name = tenant if tenant in self._had else OTHERS
        among = {*self._waiting, name}
        had = sum(self._had.get(each, 0.0) for each in among)
        share = self.weight(name) / sum(map(self.weight, among))
        fade = 2.0 ** ((self._since_s - now) / HALF_LIFE_S)
        return float((self._had.get(name, 0.0) - share * had) * fade)

    def in_turn(
        self,
        lines: Mapping[Group, Sequence[Entry[R]]],
        most: Mapping[Members, int],
        slot_s: Callable[[R], float],
        now: float,
    ) -> list[R]:
        """Of requests that wait, at most so many that the same workers may serve, who is next.

        `slot_s` is what each is expected to take, on a worker like any; ranks order each line.
        """
        self._renew(now)
        grown = 2.0 ** ((now - self._since_s) / HALF_LIFE_S)
        levels = {key.tenant: self._level(key.tenant) for key in lines}
        turns = _Turns(lines, levels, self._back)
        left, found = dict(most), list[R]()
        while (taken := turns.next()) is not None:
            key, request = taken
            found.append(request)
            left[key.members] -= 1
            more = slot_s(request) * grown / self.weight(key.tenant)
            turns.served(key, more, ended=not left[key.members])
        return found

    def _level(self, name: str) -> float:
        return self._had[name] / self.weight(name)

    def _add(self, name: str, slot_s: float, now: float) -> None:
        self._renew(now)
        more = slot_s * 2.0 ** ((now - self._since_s) / HALF_LIFE_S)
        self._had[name] = max(0.0, self._had[name] + more)

    def _renew(self, now: float) -> None:
        """Before numbers grow too large, begin units anew."""
        doublings = (now - self._since_s) / HALF_LIFE_S
        if doublings > MOST_DOUBLINGS:
            fade = 2.0**-doublings
            self._had = {name: had * fade for name, had in self._had.items()}
            self._since_s = now


class TenantsQueue(GroupedQueue[R, Group]):
    """Requests that wait, by who may serve them and whose they are."""

    def __init__(self, shares: FairShares[R]) -> None:
        super().__init__()
        self._shares = shares

    def put_for(self, request: R, rank: float, members: Members) -> None:
        """One more, that these may serve."""
        self.put(request, rank, Group(members, self._shares.name(request), request.job.bulk))

    def pop_members(self, members: Members) -> list[R]:
        """Let all go that these may serve."""
        keys = [key for key in self.groups if key.members == members]
        return [request for key in keys for request in self.pop(key)]

    def regroup_members(self, members_of: Callable[[R], Members]) -> None:
        """Others may serve them now."""
        self.regroup(lambda one: self.key(one)._replace(members=members_of(one)))


_Place = tuple[float, int]  # rank and serial number


class _Turns(Generic[R]):
    """Who is next of several lines, with levels that rise as they are served.

    Of each priority there are two heaps of the first of the lines, one by rank and one by level;
    what has gone on since it was put in is passed over, or put in again.
    """

    def __init__(
        self,
        lines: Mapping[Group, Sequence[Entry[R]]],
        levels: dict[str, float],
        back: Container[Hashable],
    ) -> None:
        self._lines, self._levels, self._back = lines, levels, back
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
            if level != self._levels[key.tenant]:
                heappush(heap, (later, self._levels[key.tenant], place, key, at))
                continue
            self._at[key] += 1
            return key, self._lines[key][at][2]

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
            heappush(by_level, (later, self._levels[key.tenant], place, key, at))

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
