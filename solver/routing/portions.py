"""How much of a bound one of several may hold, so that something is always left for the others.

Rules:
- as long as nobody has a name, all of it may be held;
- else one may come to hold `TIMES` times what is free then, and no more: alone seven eighths of
  it, of two that come together each seven fifteenths, of one that comes after another has filled
  it seven eighths of what that left. Whoever holds little finds room,
  whatever the others want, and nobody has to be known before it comes;
- who holds nothing may have half of what is free, and the last place.

Thresholds that move with what is free: Choudhury, Hahne, IEEE/ACM ToN 6(2), 1998. Must not know:
what is held, or why.
"""

from __future__ import annotations

TIMES = 7


class Portions:
    """What each holds of a bound; see the module.

    Attributes:
        total: what all hold together.
    """

    def __init__(self) -> None:
        self.total = 0
        self._held: dict[str, int] = {}  # of each, once somebody has had a name
        self._named = False

    def add(self, name: str, amount: int) -> None:
        """It holds so much more, or less if that is below 0."""
        if name and not self._named:
            self._named, self._held[""] = True, self.total
        self.total += amount
        if not self._named:
            return
        held = self._held.get(name, 0) + amount
        if held:
            self._held[name] = held
        else:
            self._held.pop(name, None)

    def may_have(self, name: str, more: int, most: int) -> bool:
        """Whether it may hold so much more of `most`; whether there is so much is not asked."""
        if not (name or self._named):
            return True
        held, free = self._held.get(name, 0), most - self.total
        return held + more <= TIMES * (free - more) or (not held and 2 * more <= free + 1)
