"""What each worker was sent lately, for each second in which the fleet had something to do.

Rules:
- it fades away over `LATELY_S`, and so does the time that it is divided by, which passes only while
  something is in flight anywhere. So what comes after a pause is known from its first second on,
  and not as a part of the pause;
- that time is at least as long as what may be queued at a worker at once takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from solver.routing.formulas import QUEUED_S

# Some iterations with long prompts.
LATELY_S = 3.0


class Lately:
    """Requests, and seconds of prefill, of m workers; see the module."""

    def __init__(self) -> None:
        # Of each worker: requests, seconds of their prefill, and as of when.
        self._sent: list[tuple[float, float, float]] = []
        self._busy_s = 0.0
        self._as_of_s: float | None = None

    def regroup(self, before: Sequence[int | None], now: float) -> None:
        """Others are there: of each, where it stood before, or that it is new."""
        self._sent = [(0.0, 0.0, now) if j is None else self._sent[j] for j in before]

    def seen(self, now: float, *, busy: bool) -> None:
        """Whether anything is in flight; taken to have been so since the last look."""
        if self._as_of_s is not None:
            fade = exp((self._as_of_s - now) / LATELY_S)
            self._busy_s = self._busy_s * fade + (LATELY_S * (1.0 - fade) if busy else 0.0)
        self._as_of_s = now

    def sent(self, j: int, prefill_s: float, now: float) -> None:
        """Worker j was sent one more."""
        count, seconds, as_of_s = self._sent[j]
        fade = 1.0 if as_of_s == now else exp((as_of_s - now) / LATELY_S)
        self._sent[j] = count * fade + 1.0, seconds * fade + prefill_s, now

    def a_second(self, now: float) -> list[tuple[float, float]]:
        """(m, 2) requests, and seconds of prefill, that each was sent a second."""
        each_s = max(QUEUED_S, self._busy_s)
        return [
            (count * (fade := exp((as_of_s - now) / LATELY_S) / each_s), seconds * fade)
            for count, seconds, as_of_s in self._sent
        ]
