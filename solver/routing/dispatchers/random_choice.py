"""Any worker, by lot."""

from __future__ import annotations

import random

from solver.routing.dispatchers.base import Choice


def random_choice(rng: random.Random) -> Choice:
    """Any."""
    return lambda _, workers: rng.randrange(len(workers))
