"""The fleet's columns, kept from decision to decision: only what has changed is looked at again.

Rules:
- a worker's column is made again when it gives another view than the last time, so that a decision
  costs a glance at each worker, however many there are;
- of each it is remembered what was sent there lately (`solver.routing.lately`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from solver.arrays import FloatArray
from solver.cost.model import request_s
from solver.routing import formulas
from solver.routing.asked import MOST_WORKERS, Asked, may_take
from solver.routing.columns import CLOSING, NUMBERS, numbers, table, water_level_s
from solver.routing.formulas import Figures
from solver.routing.lately import Lately
from solver.routing.problem import WorkerView

ROOM = NUMBERS.index("room")


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
        closed: (m,) places of each that are not to be filled now, of those that there are; empty:
            none is kept free.
    """

    def __init__(self) -> None:
        self.workers: list[W] = []
        self.views: list[WorkerView] = []
        self.closed: Sequence[int] = ()
        self._room: list[int] = []
        self._known: list[Figures] = []
        self._lately = Lately()
        # (`NUMBERS`, m), and the columns that are not up to date.
        self._table: FloatArray = np.zeros((len(NUMBERS), 0))
        self._stale: set[int] = set()

    def look(self, workers: Sequence[W], now: float, *, bulk: bool = False) -> None:
        """See what has changed since the last look, as `bulk` work finds it, or all other."""
        if self.workers != workers:
            self._regroup(workers, now)
        views, busy = self.views, False
        for j, worker in enumerate(workers):
            view = worker.view(now)
            if not bulk and view.online is not None:
                view = view.online
            busy = busy or view.in_flight > 0
            if view is not views[j]:
                views[j] = view
                self._known[j] = numbers(view)
                self._room[j] = max(0, view.room)
                self._stale.add(j)
        self._lately.seen(now, busy=busy)

    @property
    def room(self) -> list[int]:
        """Sequences that each may be sent; none where more is there than should be."""
        if not self.closed:
            return self._room
        return [max(0, n - kept) for n, kept in zip(self._room, self.closed, strict=True)]

    def _figures(self) -> list[Figures]:
        """Of each worker, as `solver.routing.columns.numbers`."""
        if not self.closed:
            return self._known.copy()
        pairs = zip(self._known, self.closed, strict=True)
        return [(*row[:ROOM], row[ROOM] - kept, *row[ROOM + 1 :]) for row, kept in pairs]

    def open(self) -> list[W]:
        """Those that may be sent something, with nothing placed there besides."""
        may = may_take(self._columns()[CLOSING], formulas.NOTHING, formulas.ARRAYS)
        return [self.workers[j] for j in np.flatnonzero(may)]

    def sent(self, j: int, prefill_s: float, now: float) -> None:
        """Worker j was sent so much."""
        self._lately.sent(j, prefill_s, now)

    def asked(
        self,
        rows: Sequence[Figures],
        cached: FloatArray | None,
        eligible: Sequence[frozenset[int]] | None,
        waiting: tuple[int, float, float],
        placed: FloatArray | None,
        now: float,
    ) -> Asked:
        """Requests to be planned on these workers; see `Asked`.

        `waiting` requests in all, with so many prompt and output tokens together, are to come.
        """
        table = self._columns() if len(self.views) > MOST_WORKERS else None
        lately = self._lately.a_second(now)
        level_s = self._level_s(*waiting, table)
        return Asked(rows, self._figures(), lately, level_s, placed, cached, eligible, table)

    def _level_s(
        self, count: int, prompt_tokens: float, output_tokens: float, table: FloatArray | None
    ) -> float:
        if table is not None:
            return water_level_s(count, prompt_tokens, output_tokens, table)
        prompt, output = prompt_tokens / count, output_tokens / count
        each_s = [request_s(view.cost, prompt, output, view.slots) for view in self.views]
        return formulas.level_s(count, [view.backlog_s for view in self.views], each_s)

    def _columns(self) -> FloatArray:
        """(`NUMBERS`, m) the same as `_figures`, which nobody changes."""
        for j in self._stale:
            self._table[:, j] = self._known[j]
        self._stale.clear()
        table = self._table.copy()
        if self.closed:
            table[ROOM] -= self.closed
        return table

    def _regroup(self, workers: Sequence[W], now: float) -> None:
        """Others are there: what is remembered of those who stay stays."""
        known = {id(worker): j for j, worker in enumerate(self.workers)}
        self._lately.regroup([known.get(id(worker)) for worker in workers])
        self.workers = list(workers)
        self.views = [worker.view(now) for worker in self.workers]
        self._known = [numbers(view) for view in self.views]
        self._room = [max(0, view.room) for view in self.views]
        self._table = table(self.views)
        self._stale.clear()
