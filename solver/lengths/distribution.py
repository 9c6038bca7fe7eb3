"""The distribution of a number of output tokens, and of what is left of it while a request runs.

Lengths fall into bins that grow by an eighth of an octave (9 %); up to 12 tokens each length has
its own. Inside a bin all lengths are alike.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from operator import neg
from typing import Self

import numpy as np
from numpy.typing import NDArray

BINS_PER_OCTAVE = 8
OCTAVES = 20  # one million tokens; longer outputs count as this long
EDGES = sorted({round(2 ** (k / BINS_PER_OCTAVE)) for k in range(OCTAVES * BINS_PER_OCTAVE + 1)})
BINS = len(EDGES) - 1
MOST_TOKENS = EDGES[-1] - 1
EDGE_ARRAY: NDArray[np.float64] = np.array(EDGES, dtype=np.float64)
WIDTHS: NDArray[np.float64] = np.diff(EDGES).astype(np.float64)
HALF = (WIDTHS - 1.0) / 2.0
REVERSED_WIDTHS, REVERSED_HALF = WIDTHS[::-1].copy(), HALF[::-1].copy()


def bin_of(tokens: int) -> int:
    """The bin in which a length falls."""
    return bisect_right(EDGES, tokens, 1, BINS) - 1


@dataclass(frozen=True)
class LengthDistribution:
    """Tokens that a request will still make, after `made`: at least 1, and at most its limit's.

    All mass above the limit is at the limit. A request that runs on at its limit, against what it
    said, has one token to come.

    Attributes:
        survival: up to a common factor, the probability of a length of at least `EDGES[i]`.
        survival_sum: the sum of these probabilities over all lengths from `EDGES[i]` on.
        limit: most tokens in all.
        made: tokens made so far.
    """

    survival: Sequence[float]
    survival_sum: Sequence[float]
    limit: int
    made: int = 0

    @classmethod
    def of(cls, weights: NDArray[np.float64], limit: int | None = None) -> Self:
        """From the positive weight of each bin."""
        # From the top, not 1 - the sum so far: tails keep their precision.
        reach = weights[::-1].cumsum()
        ahead = (REVERSED_WIDTHS * reach - REVERSED_HALF * weights[::-1]).cumsum()
        most = MOST_TOKENS if limit is None else min(max(limit, 1), MOST_TOKENS)
        return cls(_from_top(reach), _from_top(ahead), most)

    @property
    def max_remaining(self) -> int:
        """The largest possible value."""
        return max(1, self.limit - self.made)

    @cached_property
    def mean(self) -> float:
        """Expected tokens to come."""
        return self.mean_after(0)

    def mean_after(self, made: int) -> float:
        """The same once `made` more have come: the mean of `remaining`."""
        found = self._means.get(made)
        if found is None:
            found = self._means[made] = self._mean_after(made)
        return found

    @cached_property
    def _means(self) -> dict[int, float]:
        """What `mean_after` has said: all that are predicted alike ask alike."""
        return {}

    def _mean_after(self, made: int) -> float:
        made += self.made
        most = self.limit - made
        if most <= 1:
            return 1.0
        between = self._survival_sum(made + 1) - self._survival_sum(self.limit + 1)
        return min(max(between / self._survival(made + 1), 1.0), float(most))

    def cdf(self, tokens: int) -> float:
        """Probability of at most `tokens` to come."""
        if tokens >= self.max_remaining:
            return 1.0
        return 1.0 - self._survival(self.made + max(tokens, 0) + 1) / self._here

    def later(self, tokens: float) -> float:
        """Probability that more than so many are to come, and half of that of as many."""
        most = int(tokens)
        return 1.0 - (self.cdf(most) + self.cdf(most - 1)) / 2.0 if most > 0 else 1.0

    def quantile(self, q: float) -> int:
        """The least number that is not exceeded with probability `q`."""
        if self.max_remaining == 1:
            return 1
        longer = (1.0 - q) * self._here
        k = bisect_left(self.survival, -longer, key=neg)
        if k == 0:
            return 1
        above, below = self.survival[k - 1], self.survival[k]
        into = ceil((above - longer) / (above - below) * (EDGES[k] - EDGES[k - 1]))
        return min(max(EDGES[k - 1] + into - 1 - self.made, 1), self.max_remaining)

    @cached_property
    def overrun(self) -> float:
        """Tokens by which one in fifty is longer than the mean, or more."""
        return max(0.0, self.quantile(0.98) - self.mean)

    def left_at_edges(self) -> NDArray[np.float64]:
        """(BINS + 1,) expected tokens to come once one before `EDGES[k]` have been made."""
        reach, ahead = np.array(self.survival), np.array(self.survival_sum)
        left = np.ones(BINS + 1)
        np.divide(ahead, reach, out=left, where=reach > 0)
        return np.minimum(np.maximum(left, 1.0), np.maximum(1.0, self.limit + 1.0 - EDGE_ARRAY))

    def remaining(self, made: int) -> Self:
        """What is to come when `made` tokens more have come without an end."""
        return replace(self, made=self.made + made)

    @cached_property
    def _here(self) -> float:
        """The survival that probabilities of what is to come are shares of."""
        return self._survival(self.made + 1)

    def _survival(self, tokens: int) -> float:
        """Probability of a length of at least `tokens`."""
        k, survival = bin_of(tokens), self.survival
        into = (tokens - EDGES[k]) / (EDGES[k + 1] - EDGES[k])
        return survival[k] + (survival[k + 1] - survival[k]) * into

    def _survival_sum(self, tokens: int) -> float:
        """The sum of `_survival` from `tokens` on."""
        k = bin_of(tokens)
        into, width = tokens - EDGES[k], EDGES[k + 1] - EDGES[k]
        fall = (self.survival[k] - self.survival[k + 1]) / width
        return self.survival_sum[k] - into * self.survival[k] + fall * into * (into - 1) / 2


def _from_top(sums: NDArray[np.float64]) -> list[float]:
    """Sums from the last entry down to each, in the order of entries, and a zero."""
    found: list[float] = sums[::-1].tolist()
    found.append(0.0)
    return found
