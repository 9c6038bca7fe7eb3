"""What tenants have had, and who waits, in other processes that share the same workers.

Each process tells of its own tenants; nothing is agreed upon. So all count what a tenant has had
anywhere (`solver.routing.fair`), and each has of a worker's room what is due to those tenants that
wait there (`solver.routing.share`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Tenant(NamedTuple):
    """One in one process: slot-seconds that it has had, faded, its weight, and whether it waits."""

    name: str
    had: float
    weight: float
    waits: bool


class Elsewhere:
    """All that other processes tell.

    Attributes:
        had: slot-seconds of each tenant, together.
        waits: in how many processes requests of each wait, of those that do.
        weights: of each.
    """

    def __init__(self, processes: Iterable[Sequence[Tenant]] = ()) -> None:
        self.had: dict[str, float] = {}
        self.waits: Counter[str] = Counter()
        self.weights: dict[str, float] = {}
        for name, had, weight, waits in (one for process in processes for one in process):
            self.had[name] = self.had.get(name, 0.0) + had
            self.weights[name] = weight
            if waits:
                self.waits[name] += 1
