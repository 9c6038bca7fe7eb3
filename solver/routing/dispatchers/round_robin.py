"""One worker after the other, whatever they have."""

from __future__ import annotations

from solver.routing.dispatchers.base import Arrival, Choice, Targets


def round_robin() -> Choice:
    """One after the other."""
    turn = -1

    def choose(_: Arrival, workers: Targets) -> int:
        nonlocal turn
        turn = (turn + 1) % len(workers)
        return turn

    return choose
