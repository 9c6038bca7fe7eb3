"""Who decodes inside one worker, until which round, and when each made its tokens.

A round makes a token of everybody who decodes, so the gap before it is the same for all who also
took part in the round before: it is noted once a stage, not once a request.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass
from math import inf

from solver.batching.sequence import Sequence
from solver.sim.request import Request

NOT_DECODING = -1


@dataclass(slots=True)
class Running:
    """A request inside a worker, and what came of it so far.

    Attributes:
        number: its place in the order of arrival.
        uncached: prompt tokens that the worker's prefix cache did not hold when it came.
        begun_s: when its prefill began, at first.
        first_s, last_s: when it made its first token, and the last before it stopped decoding.
        stall_s: its longest gap between two tokens, until it last stopped decoding.
        since: the round of its first token since it decodes.
        turns: how often it has stopped decoding.
    """

    request: Request
    number: int
    uncached: int
    begun_s: float = inf
    first_s: float = inf
    last_s: float = inf
    stall_s: float = 0.0
    since: int = NOT_DECODING
    turns: int = 0


class Decoding:
    """See the module."""

    def __init__(self) -> None:
        self._ends: list[tuple[int, int, int, Running, Sequence]] = []  # by round; turns
        self._joined: list[tuple[Running, int]] = []  # without a token yet; turns
        self._gaps = TokenGaps()

    def rounds_to_next_end(self, made: int) -> int:
        """Rounds until somebody makes its last token, after `made` of them; 1 if nobody decodes."""
        ends = self._ends
        while ends and ends[0][3].turns != ends[0][2]:
            heapq.heappop(ends)  # it has stopped since
        return ends[0][0] - made if ends else 1

    def ended(self, made: int) -> list[Sequence]:
        """Those who have made their last token by the time `made` rounds are over."""
        ended: list[Sequence] = []
        while self._ends and self._ends[0][0] <= made:
            _, _, turns, running, sequence = heapq.heappop(self._ends)
            if running.turns == turns:
                ended.append(sequence)
        return ended

    def join(self, running: Running, sequence: Sequence, made: int) -> None:
        """It can decode: it does from the round after the `made` first ones on."""
        end = made + running.request.output_tokens - sequence.made
        heapq.heappush(self._ends, (end, running.number, running.turns, running, sequence))
        self._joined.append((running, running.turns))

    def note(self, number: int, first_s: float, rounds: int, end_s: float, last_s: float) -> None:
        """Rounds have been made: `number` by `first_s`, and as the last of `rounds` one by `end_s`.

        That one took `last_s` seconds.
        """
        self._gaps.note(number, first_s, rounds, end_s, last_s)
        for running, turns in self._joined:
            if running.turns == turns:
                running.since = number
                if running.first_s == inf:
                    running.first_s = first_s
                else:
                    running.stall_s = max(running.stall_s, first_s - running.last_s)
        self._joined.clear()

    def pause(self, running: Running) -> None:
        """It decodes no longer, if it did: it has ended, lost its memory, or steps back."""
        running.turns += 1
        if running.since != NOT_DECODING:
            running.stall_s = max(running.stall_s, self._gaps.longest(running.since))
            running.last_s, running.since = self._gaps.last_s, NOT_DECODING


class TokenGaps:
    """Gaps by the number of the round that ends them, as far as they may be somebody's longest.

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
        """As `Decoding.note`; between the first round and the last none was longer than that."""
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
