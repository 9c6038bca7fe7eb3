"""How many requests a second a fleet could serve at most, and traffic of just so many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from solver.batching.bounds import Engine, fleet_bound
from solver.cost.model import CostModel
from solver.errors import ProblemError
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


def stretched(requests: Sequence[Request], rate: float) -> list[Request]:
    """The same requests with all times between them in proportion, `rate` a second on average.

    Raises:
        ProblemError: if they all come at the same time.
    """
    arrivals_s = [one.arrival_s for one in requests]
    first_s, last_s = min(arrivals_s), max(arrivals_s)
    if first_s == last_s:
        raise ProblemError(
            "all requests arrive at once, which no load comes of: give --arrivals poisson:RATE"
        )
    stretch = len(requests) / (rate * (last_s - first_s))
    return [replace(one, arrival_s=(one.arrival_s - first_s) * stretch) for one in requests]
