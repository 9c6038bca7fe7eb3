"""For whom bulk work steps back at one engine: the online work that is here, or was lately.

Online is whatever somebody waits for: all priorities but bulk. Rules:
- an iteration with bulk work may last as long as the tightest target of those online lets it, and
  of the last that was here, as long as it has gone lately;
- bulk work that its rank puts before online work that waits has its turn (it has waited for longer
  than any head start): it is online from then on. So is what holds a slot, stands still there, and
  came so long ago.

Must not know: slots, memory, engines. What follows from it inside an engine is
`solver.batching.stepping_back`'s, and before one `solver.batching.outside.release`'s.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from math import inf

from solver.batching.priority import HEAD_START_S, Priority
from solver.batching.sequence import Sequence
from solver.batching.targets import Targets

# Who comes waits for the iteration under way, for that of its prefill, and for its first round.
FIRST_TOKEN_ITERATIONS = 3
# Seconds for which an engine keeps room for online work after the last of it has gone: whoever
# sends once a minute or more finds short iterations; rarer requests may wait for one long one.
LATELY_S = 60.0
# Of slots and memory, what is left free for online work: an eighth, as much as a worker is sent
# ahead of what it can start.
KEPT_FREE = 1 / 8
# Seconds after which bulk work ranks before whatever comes.
TURN_S = HEAD_START_S[Priority.DEFAULT] - HEAD_START_S[Priority.BULK]


def iteration_s(targets: Targets) -> float:
    """Seconds that iterations may last, for these targets to be kept."""
    return min(targets.tpot_s, targets.ttft_s / FIRST_TOKEN_ITERATIONS)


class OnlineHere:
    """See the module.

    Attributes:
        bulk: bulk sequences here, waiting ones too.
        online: all others here; `waiting`: those of them that wait.
    """

    def __init__(self) -> None:
        self.bulk = self.online = self.waiting = 0
        self._limits: dict[float, int] = {}  # of those online here, how many have each
        self._last: tuple[float, float] = inf, -inf  # the tightest limit lately, and when it left

    def queued(self, sequence: Sequence, by: int) -> None:
        """It waits, if `by` is 1, or waits no longer, if that is -1."""
        self.waiting += 0 if sequence.is_bulk else by

    def came(self, sequence: Sequence) -> None:
        """It is here from now on."""
        if sequence.is_bulk:
            self.bulk += 1
        else:
            self._count(sequence)

    def gone(self, sequence: Sequence, now: float) -> None:
        """It is here no longer."""
        if sequence.is_bulk:
            self.bulk -= 1
            return
        self.online -= 1
        limit_s = iteration_s(sequence.targets)
        self._limits[limit_s] -= 1
        if not self._limits[limit_s]:
            del self._limits[limit_s]
        if limit_s <= self._last[0] or now - self._last[1] > LATELY_S:
            self._last = limit_s, now

    def concerns(self, now: float) -> bool:
        """Whether there is bulk work here, and somebody for whom it steps back."""
        return self.bulk > 0 and (self.online > 0 or now - self._last[1] <= LATELY_S)

    def limit_s(self, now: float) -> float:
        """Seconds that iterations with bulk work may last."""
        lately = self._last[0] if now - self._last[1] <= LATELY_S else inf
        return min(lately, min(self._limits, default=inf))

    def take_turns(self, queued: Many[Sequence]) -> None:
        """Of the first in the queue, bulk work before some that is online has its turn."""
        behind = self.waiting
        for sequence in queued:
            if not behind:
                return
            if sequence.is_bulk:
                self._give_turn(sequence)
                self.waiting += 1
            else:
                behind -= 1

    def has_turn(self, sequence: Sequence, now: float) -> bool:
        """Whether bulk work that holds a slot, and stands still there, has its turn now."""
        due = sequence.is_bulk and now - sequence.arrival_s >= TURN_S
        if due:
            self._give_turn(sequence)
        return due

    def _give_turn(self, sequence: Sequence) -> None:
        self.bulk -= 1
        sequence.priority = Priority.DEFAULT
        self._count(sequence)

    def _count(self, sequence: Sequence) -> None:
        limit_s = iteration_s(sequence.targets)
        self.online += 1
        self._limits[limit_s] = self._limits.get(limit_s, 0) + 1
