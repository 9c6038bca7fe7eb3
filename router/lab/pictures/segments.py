"""What each slot of a worker did when, derived from the lines of its schedule alone.

A request holds its slot from its first prefill until its last decode round. While it does so and
takes no part in what the worker runs, the slot is stalled. A request that is prefilled again after
it decoded was preempted in between: its slot was free then. Everything else is idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from solver.sim.schedule import ScheduleLine

State = Literal["prefill", "decode", "stalled"]
STATES: tuple[State, ...] = ("prefill", "decode", "stalled")
INSTANT_S = 1e-6  # a microsecond: less is rounding in the times of adjoining lines


class Segment(NamedTuple):
    """A stretch of one slot in one state; no two of a slot overlap."""

    slot: int
    state: State
    start_s: float
    end_s: float


class _Stretch:
    """A segment under way, and whose it is."""

    __slots__ = ("end_s", "request", "start_s", "state")

    def __init__(self, request: str, state: State, start_s: float, end_s: float) -> None:
        self.request, self.state, self.start_s, self.end_s = request, state, start_s, end_s


def segments(lines: Iterable[ScheduleLine], slots: int) -> list[Segment]:
    """All busy and stalled time of one worker's `slots`, adjoining time of one state merged.

    Raises:
        ValueError: a line names a slot that the worker does not have.
    """
    done: list[Segment] = []
    last: dict[int, _Stretch] = {}
    for line in sorted(lines, key=lambda line: line.start_s):
        for request, state in _parts(line):
            slot = line.slots[request]
            before = last.get(slot)
            if before is None:
                if not 0 <= slot < slots:
                    raise ValueError(
                        f"request {request!r} is on slot {slot} at {line.start_s:g} s, "
                        f"but the worker has {slots} slots"
                    )
            elif _goes_on(before, request, state):
                if line.start_s - before.end_s <= INSTANT_S and state == before.state:
                    before.end_s = line.end_s
                    continue
                if line.start_s - before.end_s > INSTANT_S:
                    done.append(Segment(slot, "stalled", before.end_s, line.start_s))
            if before is not None:
                done.append(Segment(slot, before.state, before.start_s, before.end_s))
            last[slot] = _Stretch(request, state, line.start_s, line.end_s)
    done += [Segment(slot, at.state, at.start_s, at.end_s) for slot, at in last.items()]
    return sorted(done, key=lambda segment: (segment.slot, segment.start_s))


def _parts(line: ScheduleLine) -> Iterator[tuple[str, State]]:
    for request in line.prefill:
        yield request, "prefill"
    for request in line.decode:
        if request not in line.prefill:
            yield request, "decode"


def _goes_on(before: _Stretch, request: str, state: State) -> bool:
    """Whether the request has kept the slot since, rather than come anew or back."""
    preempted = before.state == "decode" and state == "prefill"
    return before.request == request and not preempted


def held(parts: Iterable[Segment]) -> Iterator[tuple[int, float, float]]:
    """Slot, start and end of all time in which a slot is in any state, adjoining time merged."""
    slot, start_s, end_s = -1, 0.0, 0.0
    for part in parts:
        if part.slot == slot and part.start_s - end_s <= INSTANT_S:
            end_s = part.end_s
            continue
        if slot >= 0:
            yield slot, start_s, end_s
        slot, start_s, end_s = part.slot, part.start_s, part.end_s
    if slot >= 0:
        yield slot, start_s, end_s


def slot_seconds(parts: Iterable[Segment]) -> dict[State, float]:
    """Time in each state, summed over the slots."""
    seconds = dict.fromkeys(STATES, 0.0)
    for part in parts:
        seconds[part.state] += part.end_s - part.start_s
    return seconds


def utilization(parts: Iterable[Segment], slots: int, makespan_s: float) -> float:
    """Prefill and decode over all slot-time until the makespan (solver/README.md section 6)."""
    seconds = slot_seconds(parts)
    return (seconds["prefill"] + seconds["decode"]) / (slots * makespan_s)


def queued(
    lines: Iterable[ScheduleLine], arrivals: Mapping[str, float]
) -> list[tuple[float, float]]:
    """When requests waited, in order: from each one's arrival until its first prefill."""
    begun: dict[str, float] = {}
    for line in lines:
        for request in line.prefill:
            begun[request] = min(line.start_s, begun.get(request, line.start_s))
    spans = [(arrivals[name], at) for name, at in begun.items() if at > arrivals.get(name, at)]
    merged: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end_s, merged[-1][1])
        else:
            merged.append((start_s, end_s))
    return merged


def waiting(
    parts: Sequence[Segment], slots: int, queue: Sequence[tuple[float, float]]
) -> Iterator[tuple[int, float, float]]:
    """Slot, start and end of idle time while the worker had requests queued."""
    busy: list[list[tuple[float, float]]] = [[] for _ in range(slots)]
    for slot, start_s, end_s in held(parts):
        busy[slot].append((start_s, end_s))
    for slot, taken in enumerate(busy):
        for start_s, end_s in _without(queue, taken):
            yield slot, start_s, end_s


def _without(
    spans: Sequence[tuple[float, float]], taken: Sequence[tuple[float, float]]
) -> Iterator[tuple[float, float]]:
    """What of `spans` lies outside `taken`; both in order, neither overlapping itself."""
    first = 0
    for start_s, end_s in spans:
        at = start_s
        while first < len(taken) and taken[first][1] <= at:
            first += 1
        for taken_s, free_s in taken[first:]:
            if taken_s >= end_s:
                break
            if taken_s - at > INSTANT_S:
                yield at, taken_s
            at = max(at, free_s)
        if end_s - at > INSTANT_S:
            yield at, end_s
