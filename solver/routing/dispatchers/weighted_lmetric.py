"""Seconds of prefill times seconds of a round: `lmetric` for whoever knows speeds.

Decides: the worker with the least product of the prefill that a request would wait for and the
rounds that it would share, of equals the first, for each request as it comes:
`argmin ((Q + P - h) * beta_p) * ((B + 1) * round time)`.

Inputs: those of `lmetric`, and of each worker its seconds a prompt token (beta_p) and the seconds
of its decode round at full slots.

Parameters: none.

Trade-off: what merely knowing speeds is worth: whoever plans must beat it. A worker of half the
speed looks four times as loaded, for speed is in both factors. It does not see what answers are
still to come.

When not to use it: where speeds are not known, or all alike: then it is `lmetric`.

Source: ours, from LMetric (arXiv:2603.15202), as a rival that knows what a plan knows.
"""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Loads


def weighted_lmetric(arrival: Arrival, workers: Loads) -> int:
    """The least product of prefill seconds and round seconds; of equals the first."""

    def score(j: int) -> float:
        worker = workers[j]
        prefill = worker.prefill_tokens + arrival.prompt_tokens - worker.cached_tokens(arrival)
        return prefill * worker.cost.beta_p_s * (worker.in_flight + 1) * worker.round_s

    return min(range(len(workers)), key=score)
