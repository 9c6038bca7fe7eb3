"""When requests of a trace came: the unit of a column of times, and where the trace begins.

Rules; a column has one unit:
- where the first is a date all are, read by ISO 8601, as of UTC if they do not say where;
- where most of a column are as large as Unix times and near each other, they are Unix times: in
  seconds, or by their size in milli-, micro- or nanoseconds. Of these, and of dates, the earliest
  is where the trace begins;
- all else is counted since then already, unless the earliest is late: it comes after a minute or
  more that is ten times as long as from one to the next of all the others. Then the trace begins
  with it, and that is said;
- else the column's name tells the unit (``arrival_s``, ``timestamp_ms``, ``Time (us)``), and
  BurstGPT's is known;
- else the numbers do, and what was taken is said: with a fraction they are seconds, and whole ones
  are the largest unit in which requests come often, and not all of them at once;
- a Unix time among others, or another among Unix times, is no time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from math import isfinite
from statistics import median
from typing import cast

# What no trace's own clock reaches, in seconds, and every Unix time since 1986 does.
EPOCH = 5e8
A_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
NAMED = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_UNIT = re.compile(
    r"(?:^|[^a-z0-9])(?:(s|secs?|seconds?)|(ms|msecs?|millis|milliseconds?)"
    r"|(us|µs|μs|usecs?|micros|microseconds?)|(ns|nsecs?|nanos|nanoseconds?))[^a-z0-9]*$"
)
# Whose name tells no unit, but whose publisher does.
_KNOWN = {("Timestamp", "Request tokens"): "s"}
# Mooncake's are milliseconds, but others write seconds by its names.
_MOSTLY_MS = ("timestamp", "input_length")
# Whole numbers are of the first unit whose own these are not: the mean time between two requests,
# and from the first to the last. A trace has one in ten seconds or more, and goes on for a second,
# unless it is the beginning of one of Mooncake's.
_GAP, _SPAN = {"s": 10.0, "ms": 1e5, "us": 1e8}, {"s": 1e3, "ms": 1e6, "us": 1e9}
# Unix times of one trace are within five years.
_NEAR = 0.1
# A silence is told of if it is this long, and this many times all the rest.
LONG_S, LONELY = 3600.0, 10.0
# And one before the first request, if it is so many times what is between two others; then it goes.
LATE_S, LATE = 60.0, 10.0


def unit_of(name: str) -> str | None:
    """What the name of a column says of its unit: a key of `A_SECOND`."""
    found = _UNIT.search(name.lower())
    return list(A_SECOND)[cast("int", found.lastindex) - 1] if found else None


@dataclass(frozen=True, slots=True)
class Clock:
    """How a column tells the time.

    Attributes:
        unix: it counts from 1970, and its numbers tell their units by size.
        unit: else what they are; a key of `A_SECOND`.
        begin_s: when the trace begins by it.
        guessed: neither a name nor a size says the unit, and it matters.
    """

    unix: bool
    unit: str
    begin_s: float = 0.0
    guessed: bool = False

    @property
    def plain(self) -> bool:
        """Whether its numbers are arrivals as they are."""
        return not self.unix and self.unit == "s" and not self.begin_s

    def seconds(self, number: float) -> float:
        """Since the trace began; below 0 if this clock cannot have shown it."""
        if self.unix:
            return _since_1970(number) - self.begin_s if number >= EPOCH else -1.0
        found = number / A_SECOND[self.unit] - self.begin_s
        return found if found < EPOCH else -1.0


def clock(numbers: Sequence[float], name: str, beside: str, *, dates: bool) -> Clock:
    """Of a column and its `name`; `beside` is what the trace calls its prompts' lengths."""
    if dates or not numbers:
        return Clock(unix=False, unit="s", begin_s=min(numbers, default=0.0))
    told = unit_of(name) or _KNOWN.get((name, beside))
    if _are_unix(numbers, A_SECOND[told or "s"]):
        begin_s = min(map(_since_1970, (n for n in numbers if n >= EPOCH)))
        return Clock(unix=True, unit="s", begin_s=begin_s)
    if told:
        return Clock(unix=False, unit=told)
    whole = not any(number % 1 for number in numbers)
    long = (name, beside) != _MOSTLY_MS
    unit = _by_gap(sorted(numbers), long=long) if whole else "s"
    return Clock(unix=False, unit=unit, guessed=min(numbers) < max(numbers))


def _are_unix(numbers: Sequence[float], a_second: float) -> bool:
    middle = median(numbers)
    near = sum(abs(number - middle) <= _NEAR * middle for number in numbers)
    return middle >= EPOCH * a_second and 2 * near >= len(numbers)


def _by_gap(numbers: Sequence[float], *, long: bool) -> str:
    """By the half of them that is neither early nor late, where strays are."""
    aside = (len(numbers) - 1) // 4
    inner = numbers[aside : len(numbers) - aside]
    span, gaps = inner[-1] - inner[0] or inner[0], len(inner) - 1 or 1
    small = (u for u in _GAP if span < _GAP[u] * gaps or (long and span < _SPAN[u]))
    return next(small, "ns")


def _since_1970(number: float) -> float:
    """Seconds of a Unix time in whatever unit."""
    return next((number / a for a in A_SECOND.values() if number < EPOCH * 1e3 * a), number / 1e9)


def late(times: Sequence[float]) -> float:
    """Seconds before the first, if they are no part of the trace; else 0."""
    first = min(times, default=0.0)
    between = (max(times, default=0.0) - first) / max(1, len(times) - 1)
    return first if first >= LATE_S and first >= LATE * between else 0.0


def silences(times: Sequence[float]) -> list[str]:
    """A word of a silence that makes the rest of a trace a moment of it."""
    times = sorted(times)
    gaps = ((b - a, k) for k, (a, b) in enumerate(pairwise(times), start=1))
    gap, at = max(gaps, default=(0.0, 0))
    if gap < LONG_S or gap < LONELY * (times[-1] - gap):
        return []
    return [f"nothing comes for {gap:,.0f} s after {at:,} of {len(times):,}; is a time wrong?"]


def read_time(value: object, *, date: bool) -> float:
    """The number of a cell, or its date as a Unix time in seconds; below 0 if it is no time."""
    if date:
        return _date(value)
    number = number_of(value)
    return -1.0 if number is None else number


def is_date(value: object) -> bool:
    """Whether a cell has one."""
    return number_of(value) is None and _date(value) >= 0


def number_of(value: object) -> float | None:
    """A finite number; None if it is none, -1 if it is one that nothing is counted by."""
    try:
        number = float(cast("str", value))
    except OverflowError:
        return -1.0
    except (TypeError, ValueError):
        return None
    return number if isfinite(number) and not isinstance(value, bool) else -1.0


def _date(value: object) -> float:
    if not isinstance(value, str):
        return -1.0
    try:
        when = datetime.fromisoformat(value.strip())
    except ValueError:
        return -1.0
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
