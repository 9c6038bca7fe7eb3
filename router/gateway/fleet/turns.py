"""Looks at workers that are down take turns, so that dead addresses cost next to nothing.

Rules:
- so many begin in a second at most, however many are down; more of those that have not failed since
  they came or were up last, and a fleet that starts is seen at once;
- who is new, or was up a moment ago, waits for none of those that have been dead for long;
- of equals, whoever has waited longest is next.

Must not know: what a look is, and who is well.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from math import inf

# A look at a dead address costs a millisecond: so many take a tenth of a core, and the first ones
# half of it. At once are as many first ones as the largest fleet that is planned for.
LOOKS_PER_S, FIRST_PER_S, AT_ONCE_S = 100.0, 500.0, 0.5
# Seconds after which who is down has been so for long: who restarts is back sooner.
LONG_S = 60.0


class Turns:
    """Whoever wants one waits for its turn."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._next_s = -inf
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, rank: int) -> None:
        """Until its turn: who has the lowest rank is next, 0 whoever has not failed yet."""
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), turn))
        if self._timer is None:
            self._give()
        await turn

    def _give(self) -> None:
        """To all whose turn it is, and look again when it is the next one's."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._next_s = max(self._next_s, now - AT_ONCE_S)
        while self._waiting and self._next_s <= now:
            rank, _, turn = heapq.heappop(self._waiting)
            if not turn.done():  # else who waited has left
                turn.set_result(None)
                self._next_s += 1 / (LOOKS_PER_S if rank else FIRST_PER_S)
        if self._waiting:
            self._timer = loop.call_at(self._next_s, self._give)
