"""Intervals of time, and what must be done within each of them: who arrives and is due inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from solver.arrays import FloatArray, IntArray
from solver.batching.target_bounds import Asked, Demand

# Beginnings and ends that intervals are made of, at most: enough for two seconds in half an hour.
POINTS = 512
# The most broken interval is looked for in each of so many parts, squared.
PARTS = 8


class Interval(NamedTuple):
    """By the places of its beginning and its end among those that there are."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Intervals:
    """All intervals of some beginnings (s,) and ends (e,), seconds.

    Attributes:
        arrived: (n,) the last beginning that each request arrives at or after.
        first, last: (n,) the first end by which its first token is due, and its last; e if never.
    """

    starts_s: FloatArray
    ends_s: FloatArray
    arrived: IntArray
    first: IntArray
    last: IntArray

    @classmethod
    def of(cls, asked: Asked) -> Intervals:
        """Of requests; at most `POINTS` beginnings, and as many ends for first and last tokens."""
        due = asked.first_by_s, asked.last_by_s
        starts_s = _points(asked.arrival_s, "lower")
        ends_s = np.union1d(*(_points(by_s, "higher") for by_s in due))
        arrived = starts_s.searchsorted(asked.arrival_s, side="right") - 1
        return cls(starts_s, ends_s, arrived, *(ends_s.searchsorted(by_s) for by_s in due))

    def length_s(self, at: Interval) -> float:
        """How long it is."""
        return float(self.ends_s[at.end] - self.starts_s[at.start])

    def within(self, demand: Demand, at: Interval) -> FloatArray:
        """(n,) seconds of each request's work that surely lie within it."""
        due_first, due_last = self.first <= at.end, self.last <= at.end
        seconds = due_first * demand.first_s + due_last * demand.later_s
        return np.where(self.arrived >= at.start, seconds, 0.0)

    def broken(
        self, demand: Demand, share: FloatArray, workers: int, worth: float
    ) -> Iterator[tuple[float, Interval]]:
        """Intervals into which `share` (n,) of the requests does not fit, and by what seconds.

        The worst of each part, if it is too much by more than `worth` of its length.
        """
        work_s = self._work_s(demand, share)
        length_s = self.ends_s - self.starts_s[:, None]
        over_s = np.where(length_s > 0, work_s - workers * length_s, -np.inf)
        for rows in np.array_split(np.arange(len(self.starts_s)), PARTS):
            for columns in np.array_split(np.arange(len(self.ends_s)), PARTS):
                part = over_s[np.ix_(rows, columns)]
                if not part.size:
                    continue
                i, k = divmod(int(part.argmax()), len(columns))
                at = Interval(int(rows[i]), int(columns[k]))
                if part[i, k] > worth * workers * self.length_s(at):
                    yield float(part[i, k]), at

    def _work_s(self, demand: Demand, share: FloatArray) -> FloatArray:
        """(s, e) seconds that surely lie within each interval."""
        shape = len(self.starts_s), len(self.ends_s) + 1  # one more for what is never due
        work_s = np.zeros(shape)
        np.add.at(work_s, (self.arrived, self.first), share * demand.first_s)
        np.add.at(work_s, (self.arrived, self.last), share * demand.later_s)
        return work_s[::-1, :-1].cumsum(axis=0)[::-1].cumsum(axis=1)


def _points(times_s: FloatArray, method: str) -> FloatArray:
    finite = times_s[np.isfinite(times_s)]
    if not len(finite):
        return finite
    shares = np.linspace(0.0, 1.0, POINTS)
    return np.unique(np.quantile(finite, shares, method=method))  # type: ignore[call-overload]
