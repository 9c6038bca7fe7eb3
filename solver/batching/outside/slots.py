"""How many sequences an engine really runs at once, from what it says of itself.

Rules:
- an engine that lets requests wait while it runs fewer than it was given has less room than was
  thought: after `REPORTS_TO_SHRINK` such reports in a row the limit is the most that it ran in
  them. But it must be slots or memory that they wait for, and not their turn to be prefilled, of
  which an engine takes only so many tokens an iteration: a report with prefills under way
  (`prefilling`) is none;
- they need not come in a row if it is known that somebody has waited for longer than for any turn
  (`lasting`): then only one that runs more speaks against them. Where work comes in bursts, or
  whoever sends it is slow, nobody waits at most looks, and the slots are no more for that;
- while it runs all that it may and nobody waits, the limit grows again, by an eighth or one at a
  time: memory may have been short only for a while;
- the limit is never below 1, nor above what the operator said.

Who sees no engine's word makes reports of what it sees: `solver.routing.slots`.
"""

from __future__ import annotations

REPORTS_TO_SHRINK = 3
REPORTS_TO_GROW = 8
# A share of itself by which the limit grows: as much as is sent ahead of slots, so that what is
# sent in vain is doubled at most.
GROWTH = 1 / 8


class SlotLimit:
    """See the module's rules; `limit` is the present one."""

    def __init__(self, slots: int, most: int | None = None) -> None:
        """`slots` at first, and at most `most`; unless given that is as many."""
        self.limit = slots
        self._most = self._ceiling = slots if most is None else most
        self._short: list[int] = []
        self._lasting: list[int] = []
        self._easy = 0

    def begin_at(self, slots: int) -> None:
        """So many are more likely than what it began with."""
        self.limit = max(1, min(self._ceiling, slots))

    def told(self, slots: int) -> None:
        """The engine says how many it was started with: the limit anew, as far as it may be."""
        self._ceiling = self.limit = max(1, min(self._most, slots))

    def untold(self) -> None:
        """It says that no more: it may run as many as it might before."""
        self._ceiling = self._most

    def observe(
        self, running: int, waiting: int, *, prefilling: bool, lasting: bool = False
    ) -> int:
        """The engine reports how many run and wait; the limit from now on."""
        if waiting > 0:
            self._easy = 0
        if running > max(self._lasting, default=running):
            self._lasting.clear()
        if waiting > 0 and running < self.limit and not prefilling:
            self._short.append(running)
            if lasting:
                self._lasting.append(running)
            self._shrink()
            return self.limit
        self._short.clear()
        if waiting == 0 and running >= self.limit:
            self._easy += 1
            if self._easy >= REPORTS_TO_GROW:
                more = max(1, int(GROWTH * self.limit))
                self.limit, self._easy = min(self._ceiling, self.limit + more), 0
        return self.limit

    def _shrink(self) -> None:
        for reports in (self._short, self._lasting):
            if len(reports) >= REPORTS_TO_SHRINK:
                self.limit = max(1, *reports)
                self._short, self._lasting = [], []
                return
