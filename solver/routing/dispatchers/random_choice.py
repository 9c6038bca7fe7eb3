"""Any worker, by lot.

Decides: a worker drawn at random, each as likely, for each request as it comes.

Inputs: none but the number of workers.

Parameters: none but the seed of the random generator that is handed in.

Trade-off: several routers need not agree on anything. Loads vary more than with turns.

When not to use it: where anything at all is known of the workers' load: `power-of-two` costs one
more draw.

Source: common practice; SGLang's gateway (`sgl-router/src/policies/random.rs`).
"""

from __future__ import annotations

import random

from solver.routing.dispatchers.base import Choice


def random_choice(rng: random.Random) -> Choice:
    """Any."""
    return lambda _, workers: rng.randrange(len(workers))
