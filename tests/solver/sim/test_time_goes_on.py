"""Whoever waits is looked at again, and time goes on, whoever comes together and is held back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from solver.batching.priority import Priority
from solver.batching.targets import Targets
from solver.cost.profiles import PROFILES
from solver.routing.rolling import RollingHorizon
from solver.sim.request import Request
from tests.solver.sim.drive import Way, simulate


def drawn(rng: random.Random) -> list[Request]:
    """Long prompts beyond what the fleet can prefill; some tenants, priorities, and prefixes."""
    found, now, kinds = [], 0.0, rng.sample(list(Priority), rng.randint(2, 3))
    tenants = [f"t{k}" for k in range(rng.randint(1, 3))]
    long, rate = rng.choice((500, 3000, 7000)), rng.choice((3.0, 6.0, 30.0))
    page = [10**6 + k for k in range(4)]
    for k in range(150):
        now += rng.expovariate(rate)
        prompt = rng.randint(1, long)
        blocks = -(-prompt // 512)
        own = [1000 * k + b for b in range(blocks)]
        found.append(
            Request(
                str(k),
                prompt,
                rng.randint(1, 30),
                now,
                priority=rng.choice(kinds),
                tenant=rng.choice(tenants),
                wanted=Targets(0.5, 0.05),
                hash_ids=tuple([*page, *own][:blocks] if rng.random() < 0.4 else own),
            )
        )
    return found


def way(rng: random.Random) -> Way:
    cost = PROFILES["llama-2-70b-h100-tp8"].cost.to_ms()
    policy = rng.choice(("prefill-first", "mixed", "adaptive"))
    slots, workers = rng.choice((4, 32, 256)), rng.choice((1, 2, 4, 24))
    speeds = rng.choice(((1.0,), (1.5, 1.0), (2.0, 1.0, 1.0, 0.3)))
    return Way(
        *(cost, slots, policy, "fcfs"),
        lengths="predicted",
        kv_tokens=rng.choice((12_000.0, 400_000.0)),
        prefix_cache=True,
        workers=workers,
        speeds=speeds,
    )


@pytest.mark.parametrize("seed", range(40))
def test_nobody_is_looked_at_for_ever(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    requests, looks, select = drawn(rng), Counter[float](), RollingHorizon.select

    def counted(self: RollingHorizon[Any, Any], now: float, workers: Sequence[Any]) -> object:
        looks[now] += 1
        assert looks[now] <= 2 * len(requests), "it comes to nothing at that time"
        return select(self, now, workers)

    monkeypatch.setattr(RollingHorizon, "select", counted)
    simulate(requests, way(rng)).check()
