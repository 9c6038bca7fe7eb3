"""Requests that are held back for a worker that has no room yet.

Rules:
- they count as queued there, so whoever is planned next sees that queue and goes elsewhere: nobody
  stands behind those who wait for somebody in particular;
- they are planned again: the first of a line once its worker has room, the last of it every
  `HELD_S`, as a better place may have come up, and whoever was held for a worker that has gone.

So a decision looks at a window of those who may go, however many are held.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from solver.arrays import FloatArray
from solver.routing.grouped_queue import GroupedQueue, Waiting

HELD_S = 0.25

R = TypeVar("R", bound=Waiting)
W = TypeVar("W", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Line:
    """Of those held for one worker: when the last of them and the first of them looked around.

    `placed` (3,) is what all add there.
    """

    last_s: float
    first_s: float
    placed: FloatArray = field(default_factory=lambda: np.zeros(3))


class Held(Generic[R, W]):
    """See the module."""

    def __init__(self) -> None:
        self._queue: GroupedQueue[R, W] = GroupedQueue()
        self._lines: dict[W, _Line] = {}
        self._adds: dict[R, FloatArray] = {}
        self._first: frozenset[W] = frozenset()

    def __len__(self) -> int:
        """How many."""
        return len(self._adds)

    @property
    def prompt_tokens(self) -> int:
        """Of all of them together."""
        return self._queue.prompt_tokens

    @property
    def output_tokens(self) -> float:
        """What all of them together are expected to make."""
        return self._queue.output_tokens

    def next_deadline(self) -> float | None:
        """When somebody should look around again; None if nobody is held."""
        return min((line.last_s + HELD_S for line in self._lines.values()), default=None)

    def is_late(self, now: float) -> bool:
        """Whether somebody should have done so by now."""
        deadline = self.next_deadline()
        return deadline is not None and deadline <= now

    def put_off(self, now: float) -> None:
        """There is nothing to look at: nobody has room."""
        for line in self._lines.values():
            line.last_s = now

    def put(self, request: R, rank: float, worker: W, prefill_s: float, now: float) -> None:
        """It waits for this worker."""
        job = request.job
        adds = np.array((job.sequences, prefill_s, job.prompt_tokens), dtype=np.float64)
        self._lines.setdefault(worker, _Line(now, now)).placed += adds
        self._adds[request] = adds
        self._queue.put(request, rank, worker)

    def discard(self, request: R) -> bool:
        """It waits no longer; whether it did."""
        adds = self._adds.pop(request, None)
        if adds is None:
            return False
        worker = self._queue.key(request)
        self._queue.discard(request)
        self._lines[worker].placed -= adds
        if not self._queue.groups[worker]:
            del self._lines[worker]
        return True

    def release(
        self, now: float, there: Collection[W], free: Collection[W], most: int
    ) -> list[tuple[R, float]]:
        """Who is to be planned again, with their ranks: at most so many of each worker.

        `there` are the workers that there are, and `free` those with room.
        """
        found, first = [], set()
        for worker, line in self._lines.items():
            entries = self._queue.groups[worker]
            late = line.last_s + HELD_S <= now
            if worker not in there:
                found += entries
            elif worker in free and now > line.first_s:
                line.first_s = now
                first.add(worker)
                found += entries[:most]
            elif late:
                found += entries[-most:]
            if late:
                line.last_s = now
        self._first = frozenset(first)
        for _, _, request in found:
            self.discard(request)
        return [(request, rank) for rank, _, request in found]

    def placed(self, workers: Collection[W]) -> FloatArray | None:
        """(3, m) what is queued for each, as `solver.routing.objective.Pairs.sizes`; None: nothing.

        Nothing where the first of a line are planned themselves.
        """
        if not self._lines.keys() - self._first:
            return None
        nothing = np.zeros(3)
        lines = (None if worker in self._first else self._lines.get(worker) for worker in workers)
        return np.array([nothing if line is None else line.placed for line in lines]).T


def placed_by(lines: Sequence[Held[R, W]], workers: Collection[W]) -> FloatArray | None:
    """What several of them have `placed`, together."""
    found = [placed for one in lines if (placed := one.placed(workers)) is not None]
    return np.sum(found, axis=0) if found else None
