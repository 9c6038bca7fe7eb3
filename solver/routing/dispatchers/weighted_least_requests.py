"""The fewest requests in flight, for what a worker's rounds take.

Decides: the worker with the least product of its requests, the new one among them, and its round
time, of equals the first, for each request as it comes: `argmin (in flight + 1) * round time`.

Inputs: each worker's number of requests given to it and not ended, and the seconds of its decode
round at full slots.

Parameters: none.

Trade-off: exact counts and known speeds, which is most of what can be known without predictions: a
worker of twice the speed holds twice the requests. It does not see prompts or lengths.

When not to use it: where prompts are long or lengths vary widely.

Source: ours as written; common practice as weighted least connections (nginx `least_conn` with
`weight`).
"""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Loads


def weighted_least_requests(_: Arrival, workers: Loads) -> int:
    """The least product of requests and round time; of equals the first."""
    return min(range(len(workers)), key=lambda j: (workers[j].in_flight + 1) * workers[j].round_s)
