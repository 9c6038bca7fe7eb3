"""How much longer running requests go on, learnt from those that have ended.

Lengths are counted as multiples of what was expected of each request, so one table serves whatever
is known: with exact expectations it learns a spike at 1, with noisy ones the noise, with none (the
same expectation for all) the shape of the lengths themselves.

Must not know: clocks, requests, how expectations come about.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solver.arrays import FloatArray

IntArray = NDArray[np.int64]

# Bins per multiple of the expectation: at 512 expected tokens one bin is one token.
BINS = 512
# Requests that outlive their expectation by more than this are all alike.
MOST_MULTIPLES = 8
# Until something has ended, as many imagined requests with a constant hazard of one end per
# expected length stand in.
PRIOR = 8.0
# Ends that make a new table worth computing, and ends after which old ones count half.
REFRESH, MEMORY = 32, 4096


class Survival:
    """Kaplan and Meier's estimate, online: those still running count as not yet ended.

    `beyond` is (bins + 1,): beyond[i] is the probability to end after bin i.
    """

    def __init__(self) -> None:
        size = BINS * MOST_MULTIPLES
        self._ended = np.zeros(size + 1)
        self._imagined = PRIOR * np.exp(-np.arange(size + 1) / BINS)
        self._fresh = 0
        self.beyond = self._table(np.zeros(size + 1))

    def observe(self, multiple: float) -> None:
        """A request has ended after `multiple` times what was expected of it."""
        self._ended[min(int(multiple * BINS), len(self._ended) - 1)] += 1
        self._fresh += 1

    @property
    def stale(self) -> bool:
        """Whether `refresh` would learn something."""
        return self._fresh >= REFRESH

    def refresh(self, running: IntArray) -> None:
        """Compute the table anew; `running` are the bins that running requests have reached."""
        self._fresh = 0
        at_risk = np.bincount(running, minlength=len(self._ended)).astype(np.float64)
        self.beyond = self._table(at_risk)
        if self._ended.sum() > MEMORY:
            self._ended /= 2

    def _table(self, running: FloatArray) -> FloatArray:
        reached = (self._ended + running)[::-1].cumsum()[::-1] + self._imagined
        ending = self._ended + self._imagined / BINS
        going_on = np.cumprod(1.0 - np.minimum(1.0, ending / reached))
        return np.asarray(going_on, dtype=np.float64)
