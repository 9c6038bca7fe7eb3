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
# What was sent is kept in units that grow as what came before fades; after so long, in new ones.
MOST_S = 64.0 * LATELY_S


class Lately:
    """Requests, and seconds of prefill, of m workers; see the module."""

    def __init__(self) -> None:
        # (m,) each, as much as they were worth at that time.
        self._requests, self._prefill_s, self._since_s = list[float](), list[float](), 0.0
        self._busy_s = 0.0
        self._as_of_s: float | None = None

    def regroup(self, before: Sequence[int | None]) -> None:
        """Others are there: of each, where it stood before, or that it is new."""
        self._requests, self._prefill_s = (
            [0.0 if k is None else sent[k] for k in before]
            for sent in (self._requests, self._prefill_s)
        )

    def seen(self, now: float, *, busy: bool) -> None:
        """Whether anything is in flight; taken to have been so since the last look."""
        if self._as_of_s is not None:
            fade = exp((self._as_of_s - now) / LATELY_S)
            self._busy_s = self._busy_s * fade + (LATELY_S * (1.0 - fade) if busy else 0.0)
        self._as_of_s = now

    def sent(self, j: int, prefill_s: float, now: float) -> None:
        """Worker j was sent one more."""
        if now - self._since_s > MOST_S:
            self._requests, self._prefill_s = self._faded(exp((self._since_s - now) / LATELY_S))
            self._since_s = now
        worth = exp((now - self._since_s) / LATELY_S)
        self._requests[j] += worth
        self._prefill_s[j] += worth * prefill_s

    def a_second(self, now: float) -> tuple[list[float], list[float]]:
        """(m,) requests, and seconds of prefill, that each was sent a second."""
        fade = exp((self._since_s - now) / LATELY_S)
        return self._faded(fade / max(QUEUED_S, self._busy_s))

    def _faded(self, to: float) -> tuple[list[float], list[float]]:
        return [sent * to for sent in self._requests], [sent * to for sent in self._prefill_s]
