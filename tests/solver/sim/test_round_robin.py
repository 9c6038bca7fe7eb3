"""What round robin does well is done as well: kinds of traffic on which planning once lost to it.

Each kind is drawn anew for each seed and served in virtual time; compared is what those feel who
wait for their answers, over all seeds together.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from math import log

import numpy as np
import pytest

from solver.arrays import FloatArray
from solver.batching.priority import Priority
from solver.batching.targets import Targets
from solver.cost.profiles import PROFILES
from solver.sim.request import Request
from tests.solver.sim.drive import Way, simulate

COST = PROFILES["llama-2-70b-a100-tp4"].cost.to_ms()
SEEDS = range(2)
EQUAL = Way(COST, 8, "mixed", "fcfs", lengths="predicted", workers=2)
UNEQUAL = replace(EQUAL, workers=4, slots=4, speeds=(2.0, 1.0, 1.0, 0.5))


def tokens(rng: random.Random, mean: float) -> int:
    """Lognormal, of a deviation like its mean."""
    return min(3000, max(1, round(rng.lognormvariate(log(mean) - log(2) / 2, log(2) ** 0.5))))


def bulk_beside(rng: random.Random) -> list[Request]:
    """Long bulk work fills all slots, and people ask between."""
    found, now = [], 0.0
    for k in range(70):
        now += rng.expovariate(2.5)
        bulk = k % 2 == 0
        priority = Priority.BULK if bulk else Priority.DEFAULT
        answer = tokens(rng, 250 if bulk else 50)
        found.append(Request(str(k), tokens(rng, 300), answer, now, priority=priority))
    return found


def tight_targets(rng: random.Random) -> list[Request]:
    """First tokens and answers are wanted sooner than anybody can have them."""
    found, now = [], 0.0
    for k in range(200):
        now += rng.expovariate(9.0)
        wanted = Targets(0.05, 0.02)
        found.append(Request(str(k), tokens(rng, 300), tokens(rng, 80), now, wanted=wanted))
    return found


def opposite(rng: random.Random) -> Request:
    """A long prompt with a short answer, or the other way round: half are each."""
    prompt, answer = (2000, 10) if rng.random() < 0.5 else (50, 500)
    return Request("", prompt, answer)


def opposites_at_once(rng: random.Random) -> list[Request]:
    """Nobody knows yet that long prompts have short answers here."""
    return [replace(opposite(rng), id=str(k)) for k in range(160)]


def alike_in_bursts(_: random.Random) -> list[Request]:
    """All are the same, and come so many at a time that the first of them wait."""
    return [Request(str(k), 128, 16, (k // 24) * 0.2) for k in range(300)]


# What is served, and how.
KINDS = {
    "alike, in bursts": (alike_in_bursts, replace(EQUAL, workers=16, slots=4)),
    "opposites at once": (opposites_at_once, EQUAL),
    "bulk beside, equal": (bulk_beside, EQUAL),
    "bulk beside, unequal": (bulk_beside, UNEQUAL),
    "tight targets, unequal": (tight_targets, replace(UNEQUAL, slots=16)),
}


@cache
def felt(kind: str, name: str) -> FloatArray:
    """p50 and p99 of first tokens and of whole answers, of those who wait for them."""
    draw, way = KINDS[kind]
    first, whole = list[float](), list[float]()
    for seed in SEEDS:
        run = simulate(draw(random.Random(seed)), replace(way, dispatch=name, seed=seed))
        for k, request in enumerate(run.fleet.requests):
            if request.priority is not Priority.BULK:
                first.append(run.fleet.first_s[k] - request.arrival_s)
                whole.append(run.fleet.end_s[k] - request.arrival_s)
    return np.concatenate([np.quantile(times, (0.5, 0.99)) for times in (first, whole)])


@pytest.mark.parametrize("rival", ["round-robin", "weighted-least-requests"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_users_feel_is_clearly_worse(kind: str, rival: str) -> None:
    ratios = felt(kind, "makespan") / felt(kind, rival)
    print(f"{kind}, beside {rival}: {ratios}")
    assert (ratios <= 1.1).all()
