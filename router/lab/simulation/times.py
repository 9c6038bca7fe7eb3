"""When requests of a trace came: as seconds, milliseconds, Unix times or dates, since the first.

Rules:
- a number is seconds since the trace began, or milliseconds in Mooncake's column;
- one that is as large as a Unix time is one, in seconds, or by its size in milli-, micro- or
  nanoseconds; a date is read by ISO 8601, as of UTC if it does not say where;
- of Unix times and dates the earliest is where the trace begins.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf, isfinite
from typing import cast

# What no trace's own clock reaches, in seconds, and every Unix time since 1986 does.
EPOCH = 5e8
# Units of a Unix time by its size: the first that it is below, and what its second has of them.
UNITS = ((EPOCH * 1e3, 1.0), (EPOCH * 1e6, 1e3), (EPOCH * 1e9, 1e6), (inf, 1e9))


def seconds(value: object, *, in_ms: bool) -> float:
    """Of one cell; negative if it is no time. What is beyond `EPOCH` counts from 1970."""
    number = number_of(value)
    if number is None:
        return _date(value)
    if number < (EPOCH * 1e3 if in_ms else EPOCH):
        return number / 1000 if in_ms else number
    return next(number / unit for least, unit in UNITS if number < least)


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
