"""Rolling horizon and late binding: what is unsent is planned again and again, and sent late.

Rules:
- all that is unsent is planned together, on top of what the workers still have to do;
- sent is only what a worker can start soon: what the plan gives to workers with free slots, or,
  where there are none, to workers with room for a lead; the rest stays and is planned again;
- while the queue is long, only the workers with room take part, and of the requests that they may
  serve the first that one of them would end before the fleet is done with all: later plans will say
  better who should wait for whom, no slow worker grabs a long request, and nobody who could start
  stands behind those who cannot;
- a single worker gets everything, as there is nothing to decide; live, where it may die or others
  may join, it does not (`hold_back`).

The simulator's dispatcher and the live gateway drive the same object: they add requests, `select`
what to plan, let a planner assign it, and carry out what `bind` then yields, one by one. Unsent
requests are kept by who may serve them, so that thousands cost no more than the few that are
planned; whoever changes what workers may serve says so (`regroup`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Generic, Protocol, TypeVar

import numpy as np

from solver.arrays import FloatArray
from solver.batching.queue import Sized, rank_key
from solver.packing.problem import Problem
from solver.routing.grouped_queue import GroupedQueue, Members, Waiting, merged
from solver.routing.problem import Job, WorkerView, build_problem, water_level_s
from solver.routing.window import Window, WindowPolicy

# Windows as the gateway has them by default.
WINDOW_WAIT_S, WINDOW_SIZE = 0.02, 512
# Beyond its slots a worker is sent this share of them ahead, so that none falls idle and its own
# policy sees who would join a stage.
LEAD = 1 / 8
# A queue is long beyond a window, or beyond so many pairs of a request and a worker: a few
# milliseconds of planning.
MOST_PAIRS = 16_384


def lead(slots: int) -> int:
    """Requests that a worker is sent beyond its slots; one of few slots only what it can start."""
    return int(LEAD * slots)


class Unsent(Sized, Waiting, Protocol):
    """A request to be placed."""

    @property
    def job(self) -> Job:
        """What the planner knows of it."""
        ...


class Target(Protocol):
    """A worker, as far as its load goes."""

    @property
    def room(self) -> int:
        """Requests that it could start soon: free slots and a lead, 0 where memory is full."""
        ...

    @property
    def free_slots(self) -> int:
        """Requests that it could start at once; 0 where memory is full."""
        ...

    @property
    def round_s(self) -> float:
        """Seconds of a decode round at full slots."""
        ...

    def view(self, now: float) -> WorkerView:
        """As the planner sees it."""
        ...


R = TypeVar("R", bound=Unsent)
W = TypeVar("W", bound=Target)
# The indices of the workers that may serve a request; None: all of them.
Eligible = Callable[[R, Sequence[W]], Members]
# (n, m) prompt tokens of each request that each worker holds in its prefix cache.
Cached = Callable[[Sequence[R], Sequence[W]], FloatArray | None]


@dataclass(frozen=True, slots=True, eq=False)
class Selection(Generic[R, W]):
    """What is planned together: request i and worker j are row i and column j of `problem`.

    `open_workers` are the indices of the workers that may be sent something now; `window` is the
    last one that closed; `cached` is what was known of prefix caches; `single_worker`: there is one
    worker, and it gets everything.
    """

    requests: Sequence[R]
    workers: Sequence[W]
    open_workers: frozenset[int]
    problem: Problem
    window: Window[R] | None
    cached: FloatArray | None
    single_worker: bool = False


NOBODY = frozenset[int]()


class RollingHorizon(Generic[R, W]):
    """See the module."""

    def __init__(
        self,
        order: str = "longest",
        *,
        max_wait_s: float = WINDOW_WAIT_S,
        max_size: int = WINDOW_SIZE,
        hold_back: bool = False,
        eligible: Eligible[R, W] = lambda _, __: None,
        cached: Cached[R, W] = lambda _, __: None,
    ) -> None:
        self._order, self._max_size = order, max_size
        self._hold_back, self._eligible, self._cached = hold_back, eligible, cached
        self._windows: WindowPolicy[R] = WindowPolicy(max_wait_s, max_size)
        self._unsent: GroupedQueue[R] = GroupedQueue()
        self._stale = False
        self._closed: Window[R] | None = None

    def __len__(self) -> int:
        """Requests that have not been sent."""
        return len(self._windows) + len(self._unsent)

    def add(self, request: R, now: float) -> None:
        """It joins the open window."""
        self._windows.add(request, now)

    def discard(self, request: R) -> None:
        """Its client has left; unknown ones are ignored."""
        if not self._unsent.discard(request):
            self._windows.discard(request)

    def next_deadline(self) -> float | None:
        """When the open window closes by itself."""
        return self._windows.next_deadline()

    def regroup(self) -> None:
        """The workers, or what they may serve, have changed."""
        self._stale = True

    def pop_ineligible(self) -> list[R]:
        """Those out of closed windows that nobody may serve, as of `select`; they are let go."""
        return self._unsent.pop(NOBODY)

    def select(self, now: float, workers: Sequence[W]) -> Selection[R, W] | None:
        """Close windows that are due; what to plan, if somebody has room for it."""
        if not len(self):
            return None
        alone = len(workers) == 1 and not self._hold_back
        free = alone or any(worker.room > 0 for worker in workers)
        if self._stale:
            self._unsent.regroup(lambda request: self._eligible(request, workers))
            self._stale = False
        self._close(now, workers, free=free)
        if not free or not self._unsent:
            return None
        if alone:  # in the order of arrival: it has an order of its own
            requests = self._unsent.by_arrival()
            return replace(
                self._selection(now, workers, workers, {0: 0}, {0}, requests), single_worker=True
            )
        able, quota = self._open_workers(workers)
        if not able:
            return None
        count = len(self._unsent)
        if count > self._max_size or count * len(workers) > MOST_PAIRS:
            return self._first(now, workers, able, quota)
        position = {j: j for j in range(len(workers))}
        return self._selection(
            now, workers, workers, position, able, self._unsent.in_order(but=NOBODY)
        )

    def _close(self, now: float, workers: Sequence[W], *, free: bool) -> None:
        """Close the windows that are due."""
        while (window := self._windows.poll(now, worker_free=free)) is not None:
            self._closed = window
            for request in window.items:
                key = rank_key(self._order, workers[0].round_s)(request) if workers else now
                self._unsent.put(request, key, self._eligible(request, workers))

    def _open_workers(
        self, workers: Sequence[W]
    ) -> tuple[set[int], dict[frozenset[int] | None, int]]:
        """Workers that may be sent to, and how many of each group are worth planning for.

        For each group those with free slots, or where there are none, those with room for a lead.
        """
        room = [worker.room for worker in workers]
        free = {j for j, worker in enumerate(workers) if worker.free_slots > 0}
        able: set[int] = set()
        quota: dict[frozenset[int] | None, int] = {}
        for members, entries in self._unsent.groups.items():
            may = range(len(workers)) if members is None else members
            mine = free.intersection(may) or {j for j in may if room[j] > 0}
            if entries and mine:
                able |= mine
                quota[members] = 2 * sum(room[j] for j in mine)
        return able, quota

    def _first(
        self,
        now: float,
        workers: Sequence[W],
        able: set[int],
        quota: dict[frozenset[int] | None, int],
    ) -> Selection[R, W] | None:
        """Of a long queue, the first that workers with room would end before all is done.

        What would outlast the whole queue, spread over the fleet, is better left to a faster one.
        """
        most = max(1, MOST_PAIRS // len(able) // len(quota))
        queues = [self._unsent.groups[members][:most] for members in quota]
        among = sorted(able)
        position = {j: k for k, j in enumerate(among)}
        chosen = [workers[j] for j in among]
        found = self._selection(now, workers, chosen, position, able, merged(queues))
        fits = found.problem.alone_s <= self._level_s([worker.view(now) for worker in workers])
        rows: list[int] = []
        for i in np.flatnonzero(fits.any(axis=1)).tolist():
            members = self._unsent.members(found.requests[i])
            if quota[members] > 0:
                quota[members] -= 1
                rows.append(i)
        if not rows:
            return None
        return replace(
            found,
            requests=[found.requests[i] for i in rows],
            problem=found.problem.restricted(rows, fits),
            cached=None if found.cached is None else found.cached[rows],
        )

    def _level_s(self, views: Sequence[WorkerView]) -> float:
        """When the whole queue may be done; infinite where nobody works, as somebody must begin."""
        if not any(view.in_flight for view in views):
            return inf
        unsent = self._unsent
        return water_level_s(len(unsent), unsent.prompt_tokens, unsent.output_tokens, views)

    def _selection(
        self,
        now: float,
        workers: Sequence[W],
        chosen: Sequence[W],
        position: dict[int, int],
        able: set[int],
        requests: Sequence[R],
    ) -> Selection[R, W]:
        """The problem of placing `requests` on `chosen`, which stand at `position` among all."""
        cached = self._cached(requests, chosen)
        problem = build_problem(
            [request.job for request in requests],
            [worker.view(now) for worker in chosen],
            self._rows(requests, position),
            cached,
            now,
            min(worker.round_s for worker in workers),
        )
        positions = frozenset(position[j] for j in able)
        return Selection(requests, chosen, positions, problem, self._closed, cached)

    def _rows(
        self, requests: Sequence[R], position: dict[int, int]
    ) -> Sequence[frozenset[int]] | None:
        """For each request the columns that may serve it; None if all may."""
        if self._unsent.groups.keys() <= {None}:
            return None
        columns = {
            members: frozenset(position.values() if members is None else _map(members, position))
            for members in self._unsent.groups
        }
        return [columns[self._unsent.members(request)] for request in requests]

    def bind(self, selection: Selection[R, W], assignment: Sequence[int]) -> Iterator[tuple[R, W]]:
        """Who is sent where, one by one, as long as there is room; the rest stays.

        Each is to be carried out before the next one is asked for.
        """
        for request, k in zip(selection.requests, assignment, strict=True):
            worker = selection.workers[k]
            if request not in self._unsent or k not in selection.open_workers:
                continue
            if selection.single_worker or worker.room > 0:
                self.discard(request)
                yield request, worker


def _map(members: frozenset[int], position: dict[int, int]) -> list[int]:
    return [position[j] for j in members if j in position]
