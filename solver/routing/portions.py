"""How much of a bound one of several may hold, so that something is always left for the others.

Rules:
- as long as nobody has a name, all of it may be held;
- else one may come to hold `TIMES` times what is free then, and no more: alone seven eighths of
  it, of two that come together each seven fifteenths, of one that comes after another has filled
  it seven eighths of what that left. Whoever holds little finds room,
  whatever the others want, and nobody has to be known before it comes;
- of those that hold some, the one of the least weight may hold so much, and others as much more as
  they weigh more, up to `MOST_MORE` times: those that fill it together have it by their weights,
  and what the heavier leave is for the lighter;
- who holds nothing may have half of what is free, and the last place.

Thresholds that move with what is free: Choudhury, Hahne, IEEE/ACM ToN 6(2), 1998. Must not know:
what is held, or why.
"""

from __future__ import annotations

from collections import Counter

from solver.routing.fair import Weight, alike

TIMES = 7
# Of two thousand places 31 are free then, whoever floods them.
MOST_MORE = 8.0


class Portions:
    """What each holds of a bound, by `weight`; see the module.

    Attributes:
        total: what all hold together.
    """

    def __init__(self, weight: Weight = alike) -> None:
        self.total = 0
        self._weight = weight
        self._held: dict[str, int] = {}  # of each, once somebody has had a name
        self._weighs: dict[str, float] = {}  # as of when it came to hold some
        self._weights: Counter[float] = Counter()
        self._named = False

    def add(self, name: str, amount: int) -> None:
        """It holds so much more, or less if that is below 0."""
        if name and not self._named:
            self._named = True
            self._hold("", self.total)
        self.total += amount
        if self._named:
            self._hold(name, amount)

    def _hold(self, name: str, amount: int) -> None:
        held = self._held.get(name, 0) + amount
        if held:
            if name not in self._held:
                weight = self._weighs[name] = self._weight(name)
                self._weights[weight] += 1
            self._held[name] = held
        elif name in self._held:
            del self._held[name]
            weight = self._weighs.pop(name)
            self._weights[weight] -= 1
            if not self._weights[weight]:
                del self._weights[weight]

    def may_have(self, name: str, more: int, most: int) -> bool:
        """Whether it may hold so much more of `most`; whether there is so much is not asked."""
        if not (name or self._named):
            return True
        held, free = self._held.get(name, 0), most - self.total
        times = TIMES * self._more(name)
        return held + more <= times * (free - more) or (not held and 2 * more <= free + 1)

    def _more(self, name: str) -> float:
        """Its weight, over the least of those that hold some and its own."""
        own = self._weighs.get(name)
        if own is None:
            own = self._weight(name)
        return min(MOST_MORE, own / min((own, *self._weights)))
