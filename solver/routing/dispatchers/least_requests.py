"""The fewest requests in flight: what most load balancers do.

Decides: the worker with the fewest requests in flight, of equals the first, for each request as it
comes.

Inputs: each worker's number of requests given to it and not ended.

Parameters: none.

Trade-off: exact counts, no predictions, and it follows workers that are slow to answer. A request
of 10 tokens counts as much as one of 10,000.

When not to use it: where lengths vary widely, prompts are long, or workers differ much in speed.

Source: common practice; LiteLLM (`litellm/router_strategy/least_busy.py`) and AIBrix
(`pkg/plugins/gateway/algorithms/least_request.go`).
"""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Loads


def least_requests(_: Arrival, workers: Loads) -> int:
    """The one with the fewest requests in flight; of equals the first."""
    return min(range(len(workers)), key=lambda j: workers[j].in_flight)
