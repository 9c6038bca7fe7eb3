"""Requests that are held back for a worker that has no room yet.

Rules:
- they count as queued there, so whoever is planned next sees that queue and goes elsewhere: nobody
  stands behind those who wait for somebody in particular;
- they are planned again: the first of a line once its worker has room, the last of it every
  `HELD_S`, as a better place may have come up, and whoever was held for a worker that has gone.

So a decision looks at a window of those who may go, however many are held.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from solver.arrays import FloatArray
from solver.routing.problem import Job

HELD_S = 0.25

R = TypeVar("R", bound=Hashable)
W = TypeVar("W", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Line(Generic[R]):
    """Those held for one worker: each with its rank, what it adds there, and its tokens."""

    looked_s: float
    freed_s: float
    entries: dict[R, tuple[float, FloatArray, float]] = field(default_factory=dict)
    placed: FloatArray = field(default_factory=lambda: np.zeros(3))


class Held(Generic[R, W]):
    """See the module; `output_tokens` is what all of them together are expected to make."""

    def __init__(self) -> None:
        self.output_tokens = 0.0
        self._lines: dict[W, _Line[R]] = {}
        self._where: dict[R, W] = {}
        self._first: frozenset[W] = frozenset()

    def __len__(self) -> int:
        """How many."""
        return len(self._where)

    @property
    def prompt_tokens(self) -> float:
        """Of all of them together."""
        return float(sum(line.placed[2] for line in self._lines.values()))

    def next_deadline(self) -> float | None:
        """When somebody should look around again; None if nobody is held."""
        return min((line.looked_s + HELD_S for line in self._lines.values()), default=None)

    def put_off(self, now: float) -> None:
        """There is nothing to look at: nobody has room."""
        for line in self._lines.values():
            line.looked_s = now

    def put(
        self, request: R, job: Job, rank: float, worker: W, prefill_s: float, now: float
    ) -> None:
        """It waits for this worker."""
        line = self._lines.setdefault(worker, _Line(now, now))
        adds = np.array((job.sequences, prefill_s, job.prompt_tokens), dtype=np.float64)
        line.entries[request] = rank, adds, job.expected_tokens
        line.placed += adds
        self.output_tokens += job.expected_tokens
        self._where[request] = worker

    def discard(self, request: R) -> bool:
        """It waits no longer; whether it did."""
        worker = self._where.pop(request, None)
        if worker is None:
            return False
        line = self._lines[worker]
        _, adds, output = line.entries.pop(request)
        line.placed -= adds
        self.output_tokens -= output
        if not line.entries:
            del self._lines[worker]
        if not self._where:
            self.output_tokens = 0.0  # rounding must not add up
        return True

    def release(
        self, now: float, there: Collection[W], free: Collection[W], most: int
    ) -> list[tuple[R, float]]:
        """Who is to be planned again, with their ranks: at most so many of each worker.

        `there` are the workers that there are, and `free` those with room.
        """
        found, first = [], set()
        for worker, line in self._lines.items():
            entries = list(line.entries)
            if worker in there:
                late, may = now >= line.looked_s + HELD_S, worker in free and now > line.freed_s
                if may:
                    line.freed_s = now
                    first.add(worker)
                    entries = entries[:most]
                elif late:
                    entries = entries[-most:]
                else:
                    continue
                if late:
                    line.looked_s = now
            found += [(request, line.entries[request][0]) for request in entries]
        self._first = frozenset(first)
        for request, _ in found:
            self.discard(request)
        return found

    def placed(self, workers: Collection[W]) -> FloatArray | None:
        """(3, m) what is queued for each, as `solver.routing.objective.Pairs.sizes`; None: nothing.

        Nothing where the first of a line are planned themselves.
        """
        if not self._lines.keys() - self._first:
            return None
        nothing = np.zeros(3)
        lines = (None if worker in self._first else self._lines.get(worker) for worker in workers)
        return np.array([nothing if line is None else line.placed for line in lines]).T
