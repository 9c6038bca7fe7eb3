"""The fewest tokens in memory or waiting for it."""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Targets


def least_tokens(_: Arrival, workers: Targets) -> int:
    """The one with the fewest tokens in memory or waiting; of equals the first."""
    return min(range(len(workers)), key=lambda j: workers[j].tokens)
