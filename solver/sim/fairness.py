"""How evenly tenants were served: engine time by tenant, and how far apart those that waited were.

Service is slot-seconds by the cost model of the first worker, whichever served a request, as shares
are counted (`solver.routing.fair`): that of its prompt from when its prefill began until its first
token, that of its answer from then until its last. A tenant is backlogged as long as a request of
its has come and not begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from solver.arrays import BoolArray, FloatArray
from solver.routing.charges import slot_seconds
from solver.routing.fair import Weight, alike
from solver.sim.fleet import Fleet

# Moments at which services are compared: of a trace of an hour every four seconds.
MOMENTS = 1000
# Seconds for which a tenant must be backlogged for its rate to be told: over less, what it is
# served is whether one request happened to begin.
STRETCH_S = 10.0


@dataclass(frozen=True, slots=True)
class Fairness:
    """See the module.

    Attributes:
        slot_s: slot-seconds of each tenant.
        largest_difference_slot_s: between two tenants, by weight, in any stretch of time through
            which both were backlogged; 0 if there was none.
        jain: Jain's index of what tenants were served, by weight, in a second in which they and
            others were backlogged, for `STRETCH_S` at least: 1 if all got the same, 1 / n if one
            of n got everything.
    """

    slot_s: Mapping[str, float]
    largest_difference_slot_s: float = 0.0
    jain: float = 1.0


@dataclass(frozen=True, slots=True)
class _Served:
    """One tenant at k moments: (k,) slot-seconds by weight until then, and whether it waits."""

    slot_s: FloatArray
    waits: BoolArray


def fairness(fleet: Fleet, weight: Weight = alike) -> Fairness:
    """Of a fleet that has run."""
    tenants = np.array([request.tenant for request in fleet.requests])
    parts = _parts(fleet)
    arrival_s = np.array([request.arrival_s for request in fleet.requests])
    moments = np.linspace(0.0, float(fleet.end_s.max()), MOMENTS)
    names = sorted(set(tenants.tolist()))
    totals = {name: float(parts[:, tenants == name].sum()) for name in names}
    if len(names) < 2:
        return Fairness(totals)
    served: dict[str, _Served] = {}
    for name in names:
        own = tenants == name
        times = fleet.begun_s[own], fleet.first_s[own], fleet.end_s[own]
        slot_s = _until(moments, times, parts[:, own]) / weight(name)
        come = np.sort(arrival_s[own]).searchsorted(moments, side="right")
        begun = np.sort(fleet.begun_s[own]).searchsorted(moments, side="right")
        served[name] = _Served(slot_s, come > begun)
    pairs = combinations(served.values(), 2)
    largest = max((apart for pair in pairs for apart in _apart(*pair)), default=0.0)
    return Fairness(totals, largest, _jain(moments, list(served.values())))


def _parts(fleet: Fleet) -> FloatArray:
    """(2, n) slot-seconds of each request's prompt and of its answer."""
    parts = np.zeros((2, len(fleet.requests)))
    worker = fleet.workers[0]
    for i, request in enumerate(fleet.requests):
        prompt, output = float(fleet.uncached[i]), float(request.output_tokens)
        parts[0, i] = slot_seconds(worker.cost, worker.slots, prompt, 0.0)
        parts[1, i] = slot_seconds(worker.cost, worker.slots, prompt, output) - parts[0, i]
    return parts


def _until(
    moments: FloatArray, times: tuple[FloatArray, FloatArray, FloatArray], parts: FloatArray
) -> FloatArray:
    """(k,) how much of the parts (2, n) was done by then, each evenly over its time."""
    begun, first, end = times
    lasts = np.maximum(1e-9, first - begun), np.maximum(1e-9, end - first)
    rates = parts[0] / lasts[0], parts[1] / lasts[1]
    at = np.concatenate((begun, begun + lasts[0], first, first + lasts[1]))
    change = np.concatenate((rates[0], -rates[0], rates[1], -rates[1]))
    order = at.argsort(kind="stable")
    at, rate = at[order], change[order].cumsum()
    done = np.concatenate(((0.0,), (rate[:-1] * np.diff(at)).cumsum()))
    return np.asarray(np.interp(moments, at, done), dtype=np.float64)


def _apart(one: _Served, other: _Served) -> Iterator[float]:
    """How far two came apart in each stretch of time through which both waited."""
    difference = one.slot_s - other.slot_s
    for start, end in _stretches(one.waits & other.waits):
        stretch = difference[start:end]
        yield float(stretch.max() - stretch.min())


def _stretches(holds: BoolArray) -> list[tuple[int, int]]:
    """From where to before where it holds without a break."""
    edges = np.flatnonzero(np.diff(np.concatenate(((False,), holds, (False,))).astype(np.int8)))
    return [(start, end) for start, end in edges.reshape(-1, 2).tolist()]


def _jain(moments: FloatArray, served: list[_Served]) -> float:
    waits = np.zeros((len(served), len(moments) - 1), dtype=np.bool_)
    for row, one in zip(waits, served, strict=True):
        for start, end in _stretches(one.waits):
            if moments[end - 1] - moments[start] >= STRETCH_S:
                row[start : end - 1] = True
    contended = waits.sum(axis=0) > 1
    rates: list[float] = []
    for row, one in zip(waits, served, strict=True):
        then = row & contended
        seconds = float(np.diff(moments)[then].sum())
        if seconds > 0:
            rates.append(float(np.diff(one.slot_s)[then].sum()) / seconds)
    squares = len(rates) * sum(rate * rate for rate in rates)
    return sum(rates) ** 2 / squares if squares else 1.0
