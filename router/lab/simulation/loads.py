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
    prompt = [one.prompt_tokens for one in requests]
    output = [one.output_tokens for one in requests]
    return full_rate([Engine(cost, slots) for cost in costs], prompt, output)


def full_rate(engines: Sequence[Engine], prompt: Sequence[int], output: Sequence[int]) -> float:
    """The same, of `prompt` tokens to prefill and `output` tokens to make, one each a request."""
    most = np.array(output, dtype=np.float64)
    most = np.minimum(most, np.percentile(most, LONGEST))
    zeros = np.zeros(len(prompt))
    return len(prompt) / fleet_bound(engines, zeros, np.array(prompt, dtype=np.float64), most)
