"""New prefill tokens times requests in flight: two loads in one product, without a weight.

Decides: the worker with the least product of the prompt tokens that it would have to prefill and
the requests that it would serve, of equals the one with fewer requests, for each request as it
comes: `argmin (Q + P - h) * (B + 1)`.

Inputs: each worker's uncached prompt tokens that wait or are in prefill (Q) and its requests in
flight (B), as of the last look at it and with what was sent since; the prompt's tokens (P), and how
many of them its prefix cache holds (h).

Parameters: none.

Trade-off: caches and load are weighed without a constant to tune, and long prompts spread over the
fleet. It sees neither speed nor what answers are still to come.

When not to use it: where workers differ in speed: `weighted-lmetric` costs no more.

Source: LMetric, arXiv:2603.15202, by its abstract; reconstructed are the + 1, for a product that is
0 on every idle worker could not tell them apart, and the tie. NVIDIA Dynamo has the same product
over blocks.
"""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Loads


def lmetric(arrival: Arrival, workers: Loads) -> int:
    """The least product of new prefill tokens and requests; of equals the fewest requests."""

    def score(j: int) -> tuple[float, int]:
        worker = workers[j]
        prefill = worker.prefill_tokens + arrival.prompt_tokens - worker.cached_tokens(arrival)
        return prefill * (worker.in_flight + 1), worker.in_flight

    return min(range(len(workers)), key=score)
