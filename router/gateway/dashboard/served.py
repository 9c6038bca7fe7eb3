"""What has been served over the last minutes: rates, latencies and tenants' shares, point by point.

Requests that have ended are counted in bins of time, while somebody looks, out of those that the
gateway remembers: so a page that is opened shows what was before. Latencies are counted by their
logarithm, a quantile is exact to half a `STEP`; and bins of several processes add up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from math import exp, inf, log
from typing import Any

from router.gateway.explanations.request_log import RequestLog
from router.gateway.explanations.request_record import RequestRecord

Frame = dict[str, Any]

BIN_S, BINS = 5.0, 60  # five minutes, as charts show
# A point is of so many bins, itself the last: of fewer requests a p99 would be the longest, and the
# shares of tenants would be those of whoever has just ended.
FLAT, FLAT_SHARES = 3, 12
STEP = 0.07  # of a latency from one count to the next, as a fraction
LOG_STEP = log(1 + STEP)
# Requests that are counted at once, in some hundredths of a second at most: nobody waits for that.
MOST_COUNTED = 4000
LEAST_S = 1e-4
MOST_TENANTS = 6  # with shares of their own: as many as there are colours, less one
REST = "(all others)"
RATES = ("completed", "not_completed", "tokens")


class Bin:
    """Requests that ended within `BIN_S` seconds."""

    __slots__ = ("completed", "e2e", "not_completed", "slot_s", "tokens", "ttft")

    def __init__(self) -> None:
        self.completed = self.not_completed = self.tokens = 0
        self.ttft, self.e2e = Counter[int](), Counter[int]()
        self.slot_s = Counter[str]()  # by tenant

    def add(self, record: RequestRecord) -> None:
        """One has ended."""
        self.tokens += record.output_tokens or 0
        if record.slot_s:
            self.slot_s[record.tenant] += record.slot_s  # type: ignore[assignment]
        if record.ttft_s is not None:  # whatever became of it then
            self.ttft[_class(record.ttft_s)] += 1
        if record.outcome != "completed":
            self.not_completed += 1
            return
        self.completed += 1
        assert record.ended_s is not None
        self.e2e[_class(record.ended_s - record.received_s)] += 1

    def to_json(self) -> Frame:
        """Plain data."""
        counts = {name: getattr(self, name) for name in (*RATES, "slot_s")}
        times = {"ttft": self.ttft, "e2e": self.e2e}
        return counts | {
            name: {str(kind): n for kind, n in found.items()} for name, found in times.items()
        }


class Served:
    """Bins of the latest minutes, brought up to date when they are asked for."""

    def __init__(self, requests: RequestLog) -> None:
        self._log = requests
        self._since_s = time.time()  # nothing is known of what ended before
        self._counted = 0  # of all that have ended
        self._bins: dict[int, Bin] = {}

    def bins(self) -> Frame:
        """What `merged` takes."""
        now = int(time.time() / BIN_S)
        self._count((now - BINS) * BIN_S)
        self._bins = {at: one for at, one in self._bins.items() if now - BINS < at <= now}
        bins = {str(at): one.to_json() for at, one in self._bins.items()}
        return {"since": self._since_s, "bins": bins}

    def _count(self, oldest_s: float) -> None:
        """Those that have ended since the last call, as far as they are remembered."""
        new, self._counted = self._log.ended - self._counted, self._log.ended
        last_s = inf
        for record in islice(self._log.latest_ended(), min(new, MOST_COUNTED)):
            assert record.ended_s is not None
            if record.ended_s < oldest_s:
                return
            at = int(record.ended_s / BIN_S)
            found = self._bins.get(at)
            if found is None:
                found = self._bins[at] = Bin()
            found.add(record)
            last_s, new = record.ended_s, new - 1
        if new and last_s < inf:  # others before these have been forgotten, or are too many
            self._since_s = max(self._since_s, last_s)


def points(all_bins: Sequence[Frame], now: float) -> Frame:
    """Of the bins of all processes, a point every `BIN_S`.

    ``served`` has rows of: when, completed and not completed requests a second, output tokens a
    second, first token p50 and p99, end to end p50 and p99; None where nothing was. ``shares`` has
    the tenants that took most, and their parts of the engine time, where there are several.
    """
    since = max(one["since"] for one in all_bins)
    last = int(now / BIN_S)
    ours = {at: _sum(at, all_bins) for at in range(last - BINS + 1, last + 1)}
    known = [at for at in ours if (at + 1) * BIN_S > since]
    taken = Counter[str]()
    for one in ours.values():
        taken.update(one.slot_s)
    names = [name for name, _ in taken.most_common(MOST_TENANTS)]
    rest = len(taken) > len(names)
    parts = {at: [one.slot_s[name] for name in names] for at, one in ours.items()}
    for at, one in ours.items():
        parts[at].append(one.slot_s.total() - sum(parts[at]))  # of all others
    return {
        "served": [_row(at, ours, since, now) for at in known],
        "shares": {
            "tenants": [*names, *([REST] if rest else [])],
            "rows": [_shares(at, parts, rest=rest) for at in known],
        }
        if len(taken) > 1
        else None,
    }


def _sum(at: int, all_bins: Sequence[Frame]) -> Bin:
    total = Bin()
    for one in all_bins:
        found = one["bins"].get(str(at))
        if found is None:
            continue
        for name in RATES:
            setattr(total, name, getattr(total, name) + found[name])
        total.ttft.update({int(kind): n for kind, n in found["ttft"].items()})
        total.e2e.update({int(kind): n for kind, n in found["e2e"].items()})
        total.slot_s.update(found["slot_s"])
    return total


def _row(at: int, bins: dict[int, Bin], since: float, now: float) -> list[float | None]:
    parts = _parts(at, bins, FLAT)
    from_s = max(since, (at - FLAT + 1) * BIN_S)
    over_s = max(1.0, min(now, (at + 1) * BIN_S) - from_s)
    rates = (sum(getattr(one, name) for one in parts) / over_s for name in RATES)
    times = [q for name in ("ttft", "e2e") for q in _quantiles(getattr(one, name) for one in parts)]
    return [min(now, (at + 1) * BIN_S), *(round(rate, 3) for rate in rates), *times]


def _parts(at: int, bins: dict[int, Bin], many: int) -> list[Bin]:
    return [bins[one] for one in range(at - many + 1, at + 1) if one in bins]


def _shares(at: int, parts: Mapping[int, Sequence[float]], *, rest: bool) -> list[float]:
    lately = [parts[one] for one in range(at - FLAT_SHARES + 1, at + 1) if one in parts]
    taken = [max(0.0, sum(column)) for column in zip(*lately, strict=True)]
    total = sum(taken) or inf
    shown = taken if rest else taken[:-1]
    return [(at + 1) * BIN_S, *(round(part / total, 4) for part in shown)]


def _class(seconds: float) -> int:
    return round(log(max(LEAST_S, seconds)) / LOG_STEP)


def _quantiles(counts: Iterable[Counter[int]]) -> list[float | None]:
    """p50 and p99; None of nothing."""
    total = Counter[int]()
    for one in counts:
        total.update(one)
    number = total.total()
    if not number:
        return [None, None]
    found, below, ranks = list[float | None](), 0, [0.5 * number, 0.99 * number]
    for kind in sorted(total):
        below += total[kind]
        while len(found) < 2 and below >= ranks[len(found)]:
            found.append(float(f"{exp(kind * LOG_STEP):.3g}"))
    return found
