"""How long requests inside a worker wait from one of their tokens to the next.

A round makes a token of everybody who decodes, so the gap before it is the same for all who also
took part in the round before: it is noted once a stage, not once a request.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import inf

from solver.sim.request import Request

NOT_DECODING = -1


class TokenGaps:
    """Gaps of one worker by the number of the round that ends them, as far as they may be longest.

    Rounds rise and seconds fall from the first to the last of them: a gap that is followed by a
    longer one is nobody's longest.

    Attributes:
        last_s: when the last round ended.
    """

    def __init__(self) -> None:
        self.last_s = -inf
        self._rounds: list[int] = []
        self._seconds: list[float] = []

    def note(self, number: int, first_s: float, rounds: int, end_s: float, last_s: float) -> None:
        """Rounds have been made: `number` by `first_s`, and as the last of `rounds` one by `end_s`.

        That one took `last_s` seconds; between the two, none took longer, as contexts only grow.
        """
        self._push(number, first_s - self.last_s)
        if rounds > 1:
            self._push(number + rounds - 1, last_s)
        self.last_s = end_s

    def longest(self, after: int) -> float:
        """Seconds of the longest gap that ends in a round later than `after`; 0 if none does."""
        at = bisect_left(self._rounds, after + 1)
        return self._seconds[at] if at < len(self._rounds) else 0.0

    def _push(self, number: int, seconds: float) -> None:
        while self._seconds and self._seconds[-1] <= seconds:
            self._seconds.pop()
            self._rounds.pop()
        self._rounds.append(number)
        self._seconds.append(seconds)


@dataclass(slots=True)
class Running:
    """A request inside a worker, and what came of it so far.

    Attributes:
        number: its place in the order of arrival.
        begun_s: when its prefill began, at first.
        first_s, last_s: when it made its first token, and the last before it stopped decoding.
        stall_s: its longest gap between two tokens, until it last stopped decoding.
    """

    request: Request
    number: int
    begun_s: float = inf
    first_s: float = inf
    last_s: float = inf
    stall_s: float = 0.0
    _since: int = NOT_DECODING  # the round of its first token since it decodes

    def go_on(self, number: int, now: float) -> None:
        """It decodes from round `number` on, which was over at `now`."""
        if self.first_s == inf:
            self.first_s = now
        else:
            self.stall_s = max(self.stall_s, now - self.last_s)
        self._since = number

    def pause(self, gaps: TokenGaps) -> None:
        """It decodes no longer: it has ended, or lost its memory."""
        if self._since != NOT_DECODING:
            self.stall_s = max(self.stall_s, gaps.longest(self._since))
            self.last_s, self._since = gaps.last_s, NOT_DECODING
