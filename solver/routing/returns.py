"""When those that were refused are to come back, so that there is a place for them when they do.

Rules:
- who was told a time stands in line like those who wait here: whoever is refused next is told a
  later one, or joins those who were told the same;
- a client that comes back has no name to be known by, but it comes when it was told to. From then
  on it is open for a moment (`Opening`), and whoever comes is let in. Strangers come then, too:
  openings lie as far apart as the fleet needs for both;
- only whole seconds can be told, so a client joins an opening that is so many away, if one is;
- how many strangers come, and how many of those told, is learnt from who comes while it is open and
  while not.

Work is in seconds of the whole fleet. Must not know: clocks, clients, workers.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from math import ceil, exp, inf

# Times told for one opening, and what a client needs from then on to sleep, connect and send again:
# some round trips, on a busy machine.
JOIN_S, COME_S = 0.1, 0.15
# Seconds of work told to come in one opening: a quarter of the time in which a first token is due.
MOST_AT_ONCE_S = 0.5
# For so long is remembered who came, and the least time of which something is said.
MEMORY_S, LEAST_S = 30.0, 1.0
# Even if hardly anybody comes back some are expected, or it would not be seen when that changes.
LEAST_SHARE = 0.05
# Nobody is told more, and of no more openings is kept account.
LONGEST_S, MOST_OPENINGS = 86_400, 10_000


@dataclass(slots=True)
class Opening:
    """A moment in which whoever comes is let in.

    Attributes:
        from_s, until_s: when.
        told_s: work that was told to come.
        left_s: work that may be told so, too.
        cost_s: what the fleet needs for all who come.
    """

    from_s: float
    until_s: float
    told_s: float
    left_s: float
    cost_s: float


class Returns:
    """The openings that are still to come.

    Attributes:
        openings: these, the next one first.
    """

    def __init__(self) -> None:
        self.openings: list[Opening] = []
        self._booked_s = self._at_s = 0.0
        # Work that came, and for how long, while it was open and while not; work told for then.
        self._open_work = self._told_work = self._shut_work = self._shut_s = 1.0
        self._open_s = 0.0

    @property
    def strangers(self) -> float:
        """Work that comes in a second without having been told to."""
        return self._shut_work / self._shut_s

    @property
    def share(self) -> float:
        """Of those told, how many come back."""
        came = self._open_work - self.strangers * self._open_s
        return min(1.0, max(LEAST_SHARE, came / self._told_work))

    def next_s(self, now: float) -> float:
        """Seconds until it opens, or 0; infinite: nobody has been told to come back."""
        if self.openings:
            self._pass(now)
        return max(0.0, self.openings[0].from_s - now) if self.openings else inf

    def came(self, now: float, work_s: float) -> None:
        """Somebody has come, told to or not."""
        next_s = self.next_s(now)
        if next_s <= 0:
            self._open_work += work_s
        elif next_s < inf:
            self._shut_work += work_s

    def tell(self, now: float, least_s: float, work_s: float) -> int:
        """Whole seconds, at least 1, after which there should be a place for so much work.

        `least_s`: until there is room, even if nobody else had been told anything; below 0: there
        is room now, for as many seconds of work.
        """
        self._pass(now)
        found = self._joined(now, least_s, work_s) or self._opened(now, least_s, work_s)
        if found is None:
            return LONGEST_S
        opening, seconds = found
        opening.told_s += work_s
        opening.left_s -= self.share * work_s
        return seconds

    def _joined(self, now: float, least_s: float, work_s: float) -> tuple[Opening, int] | None:
        for opening in self.openings:
            seconds = max(1, ceil(opening.from_s - now))
            joins = seconds <= opening.from_s + JOIN_S - now and seconds >= least_s
            if joins and opening.left_s >= self.share * work_s:
                return opening, seconds
        return None

    def _opened(self, now: float, least_s: float, work_s: float) -> tuple[Opening, int] | None:
        most_s = max(MOST_AT_ONCE_S, self.share * work_s)
        cost_s = most_s + self.strangers * (JOIN_S + COME_S)
        wait_s = max(0.0, least_s + cost_s) + self._booked_s
        if wait_s > LONGEST_S or len(self.openings) >= MOST_OPENINGS:
            return None
        seconds = max(1, ceil(wait_s))
        from_s = now + seconds
        opening = Opening(from_s, from_s + JOIN_S + COME_S, 0.0, most_s, cost_s)
        insort(self.openings, opening, key=lambda one: one.from_s)
        self._booked_s += cost_s
        return opening, seconds

    def _pass(self, now: float) -> None:
        """Time has passed: what is over is learnt from."""
        if not self.openings:
            self._at_s = now
            return
        passed_s, self._at_s = max(0.0, now - self._at_s), max(now, self._at_s)
        kept, opened_s = exp(-passed_s / MEMORY_S), 0.0
        self._open_work *= kept
        self._told_work *= kept
        self._shut_work *= kept
        while self.openings and self.openings[0].until_s <= now:
            over = self.openings.pop(0)
            opened_s += over.until_s - over.from_s
            self._told_work += over.told_s
            self._booked_s = max(0.0, self._booked_s - over.cost_s)
        self._open_s = self._open_s * kept + opened_s
        self._shut_s = max(LEAST_S, self._shut_s * kept + passed_s - opened_s)
        if not self.openings:
            self._booked_s = 0.0
