"""What priorities promise when there is more urgent work than the fleet can do, for ever."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from solver.batching.priority import HEAD_START_S, Priority
from solver.cost.profiles import PROFILES
from solver.routing.rolling import LATE_S
from solver.sim.request import Request
from tests.solver.sim.drive import Way, simulate

COST = PROFILES["llama-65b-ascend"].cost
SLOTS, WORKERS, TOKENS = 4, 2, 200
SERVED_PER_S = WORKERS * SLOTS / (TOKENS * COST.decode_s(SLOTS))
OVERLOAD = 1.25
STREAM_S = 1500.0


def stream(priority: Priority, start_s: float = 0.0) -> list[Request]:
    """Above what the fleet can do, all the time."""
    count = int(OVERLOAD * SERVED_PER_S * STREAM_S)
    times = start_s + np.arange(count) * STREAM_S / count
    return [
        Request(f"{priority} {k}", 50, TOKENS, float(t), (), priority) for k, t in enumerate(times)
    ]


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_a_stream_of_urgent_work_above_capacity_starves_nobody(workers: int) -> None:
    bulk = [Request(f"b{k}", 50, TOKENS, 1.0, (), Priority.BULK) for k in range(10)]
    way = Way(COST.to_ms(), SLOTS, workers=workers, order="fcfs", policy="prefill-first")
    requests = [
        r for k, r in enumerate(stream(Priority.INTERACTIVE)) if k % (WORKERS // workers) == 0
    ]
    run = simulate([*bulk, *requests], way)
    done = dict(zip((r.id for r in run.fleet.requests), run.fleet.end_s.tolist(), strict=True))
    ahead_s = HEAD_START_S[Priority.INTERACTIVE] - HEAD_START_S[Priority.BULK]
    last_bulk = max(done[one.id] for one in bulk)
    # Those who come in the first `ahead_s` seconds go before, and they take longer to serve; of
    # those who are late by then, where there is a choice of workers, only who came earlier still.
    assert ahead_s - LATE_S * (workers > 1) < last_bulk < 1.15 * OVERLOAD * ahead_s + 60
    assert last_bulk < STREAM_S, "while urgent work still came"
    assert max(done.values()) < inf


def test_interactive_waits_less_than_default_and_default_less_than_bulk() -> None:
    load = int(1.1 * SERVED_PER_S * 300)
    kinds = list(Priority)
    requests = [Request(str(k), 50, TOKENS, k * 300 / load, (), kinds[k % 3]) for k in range(load)]
    run = simulate(requests, Way(COST.to_ms(), SLOTS, workers=WORKERS))
    waits = [[], [], []]  # type: list[list[float]]
    for request, first_s in zip(run.fleet.requests, run.fleet.first_s.tolist(), strict=True):
        waits[kinds.index(request.priority)].append(first_s - request.arrival_s)
    interactive, default, bulk = (float(np.mean(part)) for part in waits)
    assert interactive < default < bulk


def test_a_deadline_goes_before_what_has_none() -> None:
    at_once = [Request(f"d{k}", 50, TOKENS, 0.0) for k in range(80)]
    due = Request("due", 50, TOKENS, 0.0, (), Priority.DEFAULT, 12.0)
    run = simulate([*at_once, due], Way(COST.to_ms(), SLOTS, workers=WORKERS, order="fcfs"))
    done = dict(zip((r.id for r in run.fleet.requests), run.fleet.end_s.tolist(), strict=True))
    assert done["due"] < 30 < max(done.values()) / 2
