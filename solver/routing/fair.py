"""Who is next where several tenants want what there is: fair shares of engine time.

Rules:
- what a tenant has had is engine time: the slot-seconds that its requests take by a cost model, as
  expected, or as made where that is more (`solver.routing.charges`), and once they have ended, as
  they were. The model is that of the first worker that may
  serve a request, wherever it goes: so a second on a fast worker is worth more than one on a slow
  one, and nobody pays for having been sent there. It fades with a half-life of `HALF_LIFE_S`, and
  divided by the tenant's weight it is its *level*;
- of requests that wait, equally urgent, the tenant with the least level is next; which of its own
  that is, and where it goes, is decided as ever: by rank (`solver.routing.order`), and by what all
  costs together (`solver.routing.objective`), so caches, speeds and the makespan count as before;
- who is more urgent goes before as ever: among the first of all tenants, the one of least rank
  names the priority whose turn it is;
- a tenant that had nothing waiting begins at the least level of those that have, without what they
  have been charged and is still to come: it is next until as much is under way of its own, and what
  it did not use is not saved up, nor is it owed to those who used it. So levels of answers that
  turn out shorter, as those that end first do, are no debt of whoever comes meanwhile;
- a request whose tenant has nothing else waiting, and has had no more than any that has, *comes
  back*: for `FIRST_S` it goes before its equals, may be sent ahead where others may not while turns
  are taken (`solver.routing.rolling`), ranks in a worker's queue as if its turn had come `BACK_S`
  sooner, and waits there for company no longer than `COMPANY_S`. So it waits for the next slot that
  falls free, and not for those who were sent ahead: nothing is kept for it;
- a request of several answers that goes to a server whole, as nobody there can let others pass
  between them, counts as if its tenant had had all but one of them already, for as long as they
  would keep others waiting: who asks for less has its first answers before; and it never comes
  back;
- where only one tenant waits, nothing changes, and nothing is computed;
- where several processes send to the same workers, they tell each other what tenants have had and
  who waits (`solver.routing.elsewhere`): levels are those of all together.

Why the least level and no price on it: with weights w, tenant u's level grows by c / w_u when it
is served c slot-seconds. Serving the least, any two that wait stay within the largest c / w of each
other, whatever they send (start-time fair queueing: Goyal, Vin, Cheng, IEEE/ACM ToN 5(5), 1997). A
price of p request-seconds for each unit of level, added to ranks, would leave them (a - b) / p
apart, with a and b how long their first have waited: as the lines of those who ask for more than
their share get longer without end, so would that. It is the limit of such a price.

Tenants beyond `MOST` at once share one name, as nobody can keep others from making names up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from math import inf
from typing import Generic, NamedTuple, TypeVar

from solver.routing.charges import Charges, Size
from solver.routing.elsewhere import Elsewhere, Tenant
from solver.routing.grouped_queue import Entry, GroupedQueue, Members
from solver.routing.lines import Group, Lines, Urgent

# A minute is what limits are told in, and longer than most answers: what was had before that is
# worth half, so that a tenant that has been served alone for an hour owes nobody an hour.
HALF_LIFE_S = 60.0
MOST, OTHERS = 100, "(others)"
# Longer than others have waited elsewhere: it goes before all that queue at its worker.
BACK_S = 600.0
# So long it goes before its equals, and then by its level: where it waits for longer all wait long.
FIRST_S = 1.0
# With a slot's end and a prefill, less than a second. Without company there are more stages: at two
# who come back a second, one in 200 of an engine's tokens that cannot mix less (at 0.25 s one in
# 100, and with no bound none).
COMPANY_S = 0.4
# Levels are kept in units that grow as what was had before fades; beyond so many doublings, anew.
MOST_DOUBLINGS = 64.0


class Turn(NamedTuple):
    """How a worker is to take a request: when its turn came, None where tenants do not take turns.

    `hurry_s`: from when on it waits for no company.
    """

    turn_s: float | None
    hurry_s: float

    @classmethod
    def of(cls, ahead_s: float | None, now: float, later_s: float = 0.0) -> Turn:
        """Of one that comes now, as if it were so much sooner; `later_s`: after its request's."""
        if ahead_s is None:
            return cls(None, inf)
        if later_s > 0:
            return cls(now + later_s, inf)
        return cls(now - min(ahead_s, BACK_S), now + COMPANY_S if ahead_s else inf)


R = TypeVar("R", bound=Urgent)
Weight = Callable[[str], float]


def alike(_: str) -> float:
    """All tenants have the same weight."""
    return 1.0


class FairShares(Generic[R]):
    """See the module.

    Attributes:
        weight: of each tenant, by its name.
        several: whether there has been more than one tenant.
        named: whether there has been one with a name.
    """

    def __init__(self, weight: Weight = alike) -> None:
        self.weight, self.several, self.named = weight, False, False
        self._had: dict[str, float] = {}  # in slot-seconds of `_since_s`, and twice that one
        self._since_s = 0.0  # half-life later, and so on
        self._at_s = 0.0  # as of when anything was counted last
        self._waiting: dict[str, int] = {}  # how many of each
        self._back: dict[Hashable, float] = {}  # until when they go before their equals
        self._elsewhere, self._others = Elsewhere(), dict[str, float]()  # in units as `_had`
        self._names: dict[Hashable, str] = {}  # of those that wait
        self._contended_s = -inf  # when turns were taken last
        self._charges = Charges()

    def _look_who(self) -> None:
        """Others have come, or are forgotten."""
        self.several = len(self._had) > 1 or bool(self._others.keys() - self._had.keys())
        self.named = self.several or not self._had.keys() <= {""}

    @property
    def contended(self) -> bool:
        """Whether more than one waits."""
        return len(self._all_waiting) > 1

    @property
    def _all_waiting(self) -> Collection[str]:
        elsewhere = self._elsewhere.waits
        return self._waiting.keys() | elsewhere.keys() if elsewhere else self._waiting

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
        self._look_who()
        return name

    def join(self, request: Hashable, tenant: str, *, whole: bool = False) -> None:
        """One more of its requests waits; of one that is sent `whole` much comes at once."""
        name = self._names[request] = tenant if tenant in self._had else self.see(tenant)
        mine = self._waiting
        if name in mine:
            mine[name] += 1
            return
        if name not in (waiting := self._all_waiting) and waiting:
            if not whole and self._level(name) <= min(map(self._level, waiting)):
                self._back[request] = inf
            least = min(map(self._served, waiting))
            begins = least * self.weight(name) - self._others.get(name, 0.0)
            self._had[name] = max(self._had[name], begins)
        mine[name] = 1

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
        if self._back:
            self._back.pop(request, None)
        if name is None:
            return
        self._waiting[name] -= 1
        if not self._waiting[name]:
            del self._waiting[name]

    def charge(
        self,
        request: Hashable,
        tenant: str,
        size: Size,
        now: float,
        lasts_s: float | None = None,
        made: Callable[[], float | None] = lambda: 0.0,
    ) -> None:
        """A request is sent, and is expected to be so large; see `Charges.add`."""
        name = self.see(tenant)
        lasts_s = size.lasts_s if lasts_s is None else lasts_s
        self._charges.add(request, name, size, now, lasts_s, made)
        self._add(name, size.slot_s, now)

    def settle(self, request: Hashable, prompt: float, output: float, now: float) -> None:
        """It has left its worker after so many uncached prompt and output tokens."""
        charged = self._charges.pop(request)
        if charged is not None and charged[0] in self._had:
            name, size = charged
            self._add(name, size.become(prompt, output).slot_s - size.slot_s, now)

    def spend(self, tenant: str, slot_s: float, now: float) -> None:
        """It has had so much of what was not charged before."""
        self._add(self.see(tenant), slot_s, now)

    def least(self, tenants: Iterable[str]) -> str:
        """Of these, who is next; of those that have had alike, the first of them."""
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
        among = {*self._all_waiting, name}
        had = {each: self._level(each) * self._weight(each) for each in among}
        share = self._weight(name) / sum(map(self._weight, among))
        fade = 2.0 ** ((self._since_s - now) / HALF_LIFE_S)
        return float((had[name] - share * sum(had.values())) * fade)

    def part(self, tenant: str) -> float:
        """Of what those have who wait, its part by weight, as if at least one other waited."""
        name, own = tenant if tenant in self._had else OTHERS, self._weight(tenant)
        others = sum(self._weight(each) for each in self._all_waiting if each != name)
        return own / (own + max(own, others))

    def told(self, now: float) -> list[Tenant]:
        """What other processes are to know."""
        self._renew(now)
        fade = 2.0 ** ((self._since_s - now) / HALF_LIFE_S)
        return [
            Tenant(name, had * fade, self.weight(name), name in self._waiting)
            for name, had in self._had.items()
        ]

    def tell(self, elsewhere: Elsewhere, now: float) -> None:
        """What tenants have had and who waits in other processes, as of now."""
        self._renew(now)
        grown = 2.0 ** ((now - self._since_s) / HALF_LIFE_S)
        self._elsewhere = elsewhere
        self._others = {name: had * grown for name, had in elsewhere.had.items()}
        self._look_who()

    def portion(self) -> tuple[float, bool] | None:
        """Of what all tenants that wait may have, the part of those that wait here; None: nobody.

        A tenant that waits in several processes has as much of its own in each. And whether the
        least level of all is one of those that wait here.
        """
        if not self._waiting:
            return None
        every, waits = self._all_waiting, self._elsewhere.waits
        here = sum(self._weight(name) / (1 + waits[name]) for name in self._waiting)
        least = min(map(self._level, self._waiting)) <= min(map(self._level, every))
        return here / sum(map(self._weight, every)), least

    def in_turn(
        self,
        lines: Mapping[Group, Sequence[Entry[R]]],
        most: Mapping[Members, int],
        slot_s: Callable[[R], float],
        now: float,
        at_once_s: Callable[[R], float] = lambda _: 0.0,
    ) -> list[R]:
        """Of requests that wait, at most so many that the same workers may serve, who is next.

        `slot_s` is what each is expected to take, on a worker like any, and `at_once_s` by how much
        its tenant's level counts as higher for what would come with it; ranks order each line.
        """
        self._renew(now)
        grown = 2.0 ** ((now - self._since_s) / HALF_LIFE_S)
        levels = {key.tenant: self._level(key.tenant) for key in lines}
        for request, until_s in self._back.items():
            self._back[request] = min(until_s, now + FIRST_S)
        back = {one for one, at_s in self._back.items() if now < at_s}

        def above(key: Group, request: R) -> float:
            return float(at_once_s(request) * grown / self.weight(key.tenant))

        turns = Lines(lines, levels, back, above)
        left, found = dict(most), list[R]()
        while (taken := turns.next()) is not None:
            key, request = taken
            found.append(request)
            left[key.members] -= 1
            more = slot_s(request) * grown / self.weight(key.tenant)
            turns.served(key, more, ended=not left[key.members])
        return found

    def _level(self, name: str) -> float:
        had = self._had.get(name, 0.0) + self._others.get(name, 0.0)
        return had / self._weight(name)

    def _served(self, name: str) -> float:
        """Its level, without what it has been charged and not had yet."""
        grown: float = 2.0 ** ((self._at_s - self._since_s) / HALF_LIFE_S)
        to_come = self._charges.to_come(name, self._at_s) * grown
        return max(0.0, self._level(name) - to_come / self._weight(name))

    def _weight(self, name: str) -> float:
        return self.weight(name) if name in self._had else self._elsewhere.weights.get(name, 1.0)

    def _add(self, name: str, slot_s: float, now: float) -> None:
        self._renew(now)
        self._count(name, slot_s, now)

    def _count(self, name: str, slot_s: float, now: float) -> None:
        more = slot_s * 2.0 ** ((now - self._since_s) / HALF_LIFE_S)
        self._had[name] = max(0.0, self._had[name] + more)

    def _renew(self, now: float) -> None:
        """Charge those that run longer than expected; before numbers grow too large, begin anew."""
        self._at_s = now
        for name, more in self._charges.outlived(now):
            if name in self._had:
                self._count(name, more, now)
        doublings = (now - self._since_s) / HALF_LIFE_S
        if doublings > MOST_DOUBLINGS:
            fade = 2.0**-doublings
            self._had = {name: had * fade for name, had in self._had.items()}
            self._others = {name: had * fade for name, had in self._others.items()}
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
