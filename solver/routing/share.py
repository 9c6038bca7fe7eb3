"""How much of a worker's room one of several senders may take, so that none goes without.

Rules:
- each may have its share of what a worker can be sent (slots and lead): what those have that want
  no more is theirs, and the rest is divided by those that want some, evenly or, where tenants take
  turns, as is due to those that wait at each (`portion`);
- who has its share or more takes only room that was there before, too, at its last look: so who has
  less comes first, and nothing stays empty for longer than from one look to the next;
- as long as nobody else wants any, all of it may be had.

Senders look at the worker now and then, each by itself; nothing is agreed upon, and nobody who is
gone is waited for.
"""

from __future__ import annotations

from math import ceil, floor, inf


class Share:
    """One sender's at one worker; see the module. Figures are sequences.

    Attributes:
        most: how many it may have now.
    """

    def __init__(self) -> None:
        self._fair = self.most = inf
        self._free = 0  # as of the last look, less what has been sent since

    def look(
        self,
        capacity: int,
        own: int,
        content: int,
        wanting: int,
        others: int,
        portion: tuple[float, bool] | None = None,
    ) -> None:
        """What there is now: `others` in flight, `content` of them from who wants no more.

        `wanting`: how many others do; `portion`: of the rest, this one's part, and whether it has
        the better of what that makes no whole place of; None: as much as each of the others.
        """
        free = max(0, capacity - own - others)
        before, self._free = self._free, free
        if not wanting:
            self._fair = self.most = inf
            return
        part, better = portion or (1 / (1 + wanting), True)
        places = round((capacity - content) * part, 6)  # a whole number stays one
        self._fair = max(1, (ceil if better else floor)(places))
        self.most = max(self._fair, own + min(free, before))

    def room(self, own: int) -> float:
        """How many more it may send; infinite: as many as there is room for."""
        return max(0.0, self.most - own)

    def sent(self, sequences: int) -> None:
        """It has sent so many more."""
        self._free = max(0, self._free - sequences)

    def left(self, sequences: int) -> None:
        """So many of its own have ended: what it has beyond its share is not its to fill again."""
        self.most = max(self._fair, self.most - sequences)
