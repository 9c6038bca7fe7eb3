"""The fewest requests in flight: what most load balancers do."""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Targets


def least_requests(_: Arrival, workers: Targets) -> int:
    """The one with the fewest requests in flight; of equals the first."""
    return min(range(len(workers)), key=lambda j: workers[j].in_flight)
