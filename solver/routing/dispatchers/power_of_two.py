"""The better of two workers drawn by lot."""

from __future__ import annotations

import random

from solver.routing.dispatchers.base import Arrival, Choice, Targets


def power_of_two(rng: random.Random) -> Choice:
    """Of two drawn at random, the one with fewer requests in flight."""

    def choose(_: Arrival, workers: Targets) -> int:
        if len(workers) == 1:
            return 0
        a, b = rng.sample(range(len(workers)), 2)
        return a if workers[a].in_flight <= workers[b].in_flight else b

    return choose
