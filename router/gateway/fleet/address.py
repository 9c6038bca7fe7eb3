"""One server: its address, how it is, and the workers that are planned there, one a rank.

A server of several data-parallel ranks is as many schedulers and caches behind one address. Each
rank is a worker of its own in plans, with its own slots, load and cache; they share what looks and
answers tell of the server, and who leaves the server leaves all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from router.gateway.fleet.health import Health
from router.gateway.fleet.kv.caches import WorkerCache
from router.gateway.fleet.kv.stream import Stream
from router.gateway.fleet.stalls import StallGuard
from router.kv_wire import Load

log = logging.getLogger(__name__)

# By which vLLM and SGLang take a request to one of their ranks, counted from 0 at each address.
RANK = b"x-data-parallel-rank"


class Ranked(Protocol):
    """A worker, as far as its address goes."""

    rank: int | None
    leaving: bool
    cache: WorkerCache | None

    @property
    def wants_metrics(self) -> bool:
        """Whether its engine's metrics would tell something."""
        ...

    def use_rank(self, rank: int | None) -> None:
        """It is this rank of its server, or all of that."""
        ...

    def push_load(self, rank: int, load: Load, now: float) -> None:
        """Its engine pushes its load."""
        ...


W = TypeVar("W", bound=Ranked)


class Address(Generic[W]):
    """See the module.

    Attributes:
        health: how it is, as looks and answers tell.
        stall_guard: times out the requests that it has, should it fall silent.
        workers: those that are there, and those that only finish what they have, as it has fewer
            ranks now; never none while it is followed.
        count: how many ranks it has.
        leaving: it is to go as soon as it has nothing left to do.
        refuses: it answers badly to who names a rank, and is planned as one until it comes back.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.health, self.stall_guard = Health(), StallGuard()
        self.workers: list[W] = []
        self.count, self.leaving, self.refuses = 1, False, False

    @property
    def first(self) -> W:
        """Any of its workers, for what is the same of all."""
        return self.workers[0]

    @property
    def wants_metrics(self) -> bool:
        """Whether its engine's metrics would tell something."""
        return any(worker.wants_metrics for worker in self.workers)

    def missing(self) -> list[int]:
        """Ranks that no worker stands for."""
        present = {worker.rank or 0 for worker in self.workers}
        return [rank for rank in range(self.count) if rank not in present]

    def settle(self) -> None:
        """Name its ranks, if it has several; who is of none any more leaves."""
        for worker in self.workers:
            rank = worker.rank or 0
            if rank < self.count:
                worker.use_rank(rank if self.count > 1 else None)
            worker.leaving = self.leaving or rank >= self.count

    def refuse_ranks(self) -> None:
        """It has refused a request for the rank that it named, and taken it without."""
        if not self.refuses:
            self.refuses = True
            log.warning("refuses ranks, and is planned as one", extra={"worker": self.url})

    def hear_caches(self, streams: Mapping[int, Stream], *, reports: bool) -> None:
        """Its ranks publish these."""
        for worker in self.workers:
            mine = [one for rank, one in streams.items() if worker.rank in (None, rank)]
            worker.cache = WorkerCache(mine, reports=reports) if mine else None

    def push_load(self, rank: int, load: Load, now: float) -> None:
        """One of its ranks pushes its load."""
        for worker in self.workers:
            if worker.rank is None or worker.rank == rank:
                worker.push_load(rank, load, now)
