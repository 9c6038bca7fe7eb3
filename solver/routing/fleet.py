"""The fleet's columns, kept from decision to decision: only what has changed is looked at again.

Rules:
- a worker's column is made again when it gives another view than the last time, so that a decision
  costs a glance at each worker, however many there are;
- of each it is remembered what was sent there lately, requests and seconds of prefill: over
  `LATELY_S`, fading away.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import Generic, Protocol, TypeVar

import numpy as np

from solver.arrays import FloatArray
from solver.routing import formulas
from solver.routing.columns import (
    NUMBERS,
    Load,
    numbers,
    table,
    water_level_s,
)
from solver.routing.problem import WorkerView

# Some iterations with long prompts: what a worker gets is told of what it was sent so lately.
LATELY_S = 3.0
ROOM = NUMBERS.index("room")
CLOSING = [NUMBERS.index(name) for name in ("alpha_p_s", "room", "prefill_s", "kv_now")]


class Viewed(Protocol):
    """A worker that tells what it has to do."""

    def view(self, now: float) -> WorkerView:
        """As the planner sees it; the same object as before if nothing has changed."""
        ...


W = TypeVar("W", bound=Viewed)


class Fleet(Generic[W]):
    """See the module.

    Attributes:
        workers: m of them, as of the last look.
        views: of each.
        closed: (m,) places of each that are not to be filled now, of those that there are.
    """

    def __init__(self) -> None:
        self.workers: list[W] = []
        self.views: list[WorkerView] = []
        self.closed: FloatArray | float = 0.0
        self._numbers: FloatArray = np.zeros((len(NUMBERS), 0))
        # Of each worker: requests and seconds of prefill a second, as of when.
        self._lately, self._as_of_s = np.zeros((2, 0)), np.zeros(0)

    @property
    def room(self) -> FloatArray:
        """(m,) sequences that each may be sent; none where more is there than should be."""
        return np.asarray(np.maximum(0.0, self._numbers[ROOM] - self.closed))

    def look(self, workers: Sequence[W], now: float) -> None:
        """See what has changed since the last look."""
        if self.workers != list(workers):
            self._regroup(workers, now)
            return
        for j, worker in enumerate(self.workers):
            view = worker.view(now)
            if view is not self.views[j]:
                self.views[j], self._numbers[:, j] = view, numbers(view)

    def open(self) -> list[W]:
        """Those that may be sent something, with nothing placed there besides."""
        alpha_p_s, room, queued_s, kv_now = self._numbers[CLOSING]
        room = room - self.closed
        rooms = formulas.room_of(alpha_p_s, room, queued_s, kv_now, formulas.ARRAYS)
        may = formulas.is_open(rooms, (0.0, 0.0, 0.0))
        return [self.workers[j] for j in np.flatnonzero(may)]

    def sent(self, j: int, prefill_s: float, now: float) -> None:
        """Worker j was sent so much."""
        fade = exp((float(self._as_of_s[j]) - now) / LATELY_S)
        self._lately[:, j] = self._lately[:, j] * fade + (1.0 / LATELY_S, prefill_s / LATELY_S)
        self._as_of_s[j] = now

    def load(
        self,
        count: int,
        prompt_tokens: float,
        output_tokens: float,
        placed: FloatArray | None,
        now: float,
    ) -> Load:
        """What all have to do, with `count` more requests of so many tokens together to come.

        `placed` (3, m) is what waits for each besides; see `Load.from_numbers`.
        """
        level_s = water_level_s(count, prompt_tokens, output_tokens, self._numbers)
        lately = self._lately * np.exp((self._as_of_s - now) / LATELY_S)
        known = self._numbers.copy()
        known[ROOM] -= self.closed
        return Load.from_numbers(known, lately, level_s, placed)

    def _regroup(self, workers: Sequence[W], now: float) -> None:
        """Others are there: what is remembered of those who stay stays."""
        known = {id(worker): j for j, worker in enumerate(self.workers)}
        before = [known.get(id(worker)) for worker in workers]
        nothing = np.zeros(2)
        lately = [nothing if j is None else self._lately[:, j] for j in before]
        self._lately = np.array(lately).reshape(-1, 2).T.copy()
        self._as_of_s = np.array([now if j is None else self._as_of_s[j] for j in before])
        self.workers = list(workers)
        self.views = [worker.view(now) for worker in self.workers]
        self._numbers = table(self.views)
