"""How many requests a second a fleet could serve at most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from solver.batching.bounds import Engine, fleet_bound
from solver.cost.model import CostModel
from solver.sim.request import Request

# The longest answers set when the last request ends, not how many can be served for ever.
LONGEST = 99.0  # percentile


def requests_per_s(requests: Sequence[Request], costs: Sequence[CostModel], slots: int) -> float:
    """Requests like these a second that would fill such workers, by their lower bound."""
    prompt = np.array([one.prompt_tokens for one in requests], dtype=np.float64)
    output = np.array([one.output_tokens for one in requests], dtype=np.float64)
    output = np.minimum(output, np.percentile(output, LONGEST))
    engines = [Engine(cost, slots) for cost in costs]
    return len(requests) / fleet_bound(engines, np.zeros(len(requests)), prompt, output)
