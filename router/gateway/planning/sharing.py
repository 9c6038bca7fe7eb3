"""Workers that others send to as well: siblings of this process, or gateways elsewhere.

What others have there is part of each worker's load: of siblings it is on their board at once, of
others an agent tells, or they do so themselves, as peers (`Worker.see_others`). Here is the clock:
now and then this process's share of each worker's room is looked at again
(`solver.routing.share`), siblings and peers are told how far its requests are, siblings what its
tenants have had, plans are made again where somebody else's have ended, and agents and peers hear
that requests wait for room that others have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

import aiohttp

from router.gateway.fleet.others import Peers, Siblings
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.ticket import Ticket
from router.http.connections import Connections, told_of
from router.wire import GATEWAY, STATE_EVERY_S, WANT_EVERY_S, WANT_PATH, Want
from solver.routing.fair import FairShares
from solver.routing.rolling import lead
from solver.routing.sums import Backlog

log = logging.getLogger(__name__)

# Between looks while requests wait, and while none do: a fraction of a window, some microseconds
# for each worker.
LOOK_S, IDLE_S = 0.01, 0.05
# Where gateways elsewhere want room: what they see is as old as an agent's latest word.
ELSEWHERE_S = 1.5 * STATE_EVERY_S
WANT_TIMEOUT_S = 1.0


class Planning(Protocol):
    """Whoever places requests."""

    @property
    def backlog(self) -> Backlog:
        """What waits to be placed."""
        ...

    @property
    def shares(self) -> FairShares[Ticket]:
        """What each tenant has had."""
        ...

    def tell_elsewhere(self, backlog: Backlog) -> None:
        """So much waits at others for the same workers."""
        ...

    def reconsider(self) -> None:
        """Somebody may be able to go."""
        ...


class Sharing:
    """See the module."""

    def __init__(
        self,
        workers: Workers,
        planning: Planning,
        connections: Connections,
        siblings: Siblings | None,
        peers: Peers | None = None,
    ) -> None:
        self._workers, self._planning = workers, planning
        self._connections, self._siblings, self._peers = connections, siblings, peers
        self._shared = False  # as of the last look
        self._others_came = asyncio.Event()
        workers.on_shared = self._others_came.set
        self._rooms: dict[Worker, int] = {}
        self._wanted_s: dict[Worker, float] = {}
        self._calls: set[asyncio.Task[None]] = set()
        # Of what this gateway's processes may have.
        self._portion: tuple[float, bool] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not (self._has_others or self._shared):
                await self._others_came.wait()
                self._others_came.clear()
            crowded = self._has_others and self._planning.backlog.requests > 0
            await asyncio.sleep(LOOK_S if crowded else IDLE_S)
            self.look(time.monotonic())

    @property
    def _has_others(self) -> bool:
        return self._siblings is not None or self._peers is not None

    def look(self, now: float) -> None:
        """Bring the shares up to date; of workers that nobody else uses, nothing is to be done."""
        shared = self._has_others or any(one.is_shared for one in self._workers)
        before, self._shared = self._shared, shared
        if not (shared or before):
            return
        mine, others = self._planning.backlog, Backlog()
        if self._siblings is not None:
            self._siblings.wait(mine)
            others = self._siblings.backlog()
            self._portion = self._look_at_tenants(self._siblings, now)
        if self._peers is not None:
            self._peers.wait(mine + others)
        rooms, self._rooms = self._rooms, {}
        siblings_wanting = 0 if self._siblings is None else self._siblings.wanting()
        for worker in self._workers:
            self._look_at(worker, siblings_wanting, now)
            self._rooms[worker] = worker.online_room
            awaited = mine.requests and worker.far.sequences and not self._rooms[worker]
            if awaited and worker.state is not None:
                self._want(worker, mine + others, now)
        far = max(
            (one.far_backlog for one in self._workers if not one.down),
            key=_requests,
            default=Backlog(),
        )
        self._planning.tell_elsewhere(others + far)
        if mine.requests and any(n > rooms.get(one, 0) for one, n in self._rooms.items()):
            self._planning.reconsider()

    def _look_at_tenants(self, siblings: Siblings, now: float) -> tuple[float, bool] | None:
        """What is due here to those that wait; None: there are no tenants, or nobody waits."""
        shares = self._planning.shares
        mine = shares.told(now)
        siblings.tell_tenants(mine, now)
        elsewhere = siblings.tenants([one.name for one in mine], now)
        shares.tell(elsewhere, now)
        return shares.portion() if shares.named else None

    def _look_at(self, worker: Worker, siblings_wanting: int, now: float) -> None:
        worker.see_others()
        worker.tell_others()
        others, wanting = worker.firm(worker.load.others), worker.far_wanting
        content = 0 if wanting else worker.far.sequences
        if self._siblings is not None:
            wanting += siblings_wanting
            content += self._siblings.content(worker.place)
        if now - worker.shared_s >= (ELSEWHERE_S if worker.far_wanting else 0.0):
            worker.shared_s = now
            capacity = worker.slots + lead(worker.slots, 1)
            portion = self._portion
            if portion is not None:  # of what is left to this gateway by those elsewhere
                gateways = (1 + siblings_wanting) / (1 + wanting)
                portion = portion[0] * gateways, portion[1]
            worker.share.look(capacity, worker.own_sequences, content, wanting, others, portion)

    def _want(self, worker: Worker, ours: Backlog, now: float) -> None:
        if now - self._wanted_s.get(worker, 0.0) < WANT_EVERY_S:
            return
        self._wanted_s = {one: at_s for one, at_s in self._wanted_s.items() if one in self._rooms}
        self._wanted_s[worker] = now
        task = asyncio.create_task(self._say(worker, ours))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _say(self, worker: Worker, ours: Backlog) -> None:
        own = {
            GATEWAY.decode(): self._connections.gateway,
            **self._connections.to_agent(worker.url),
        }
        want = Want(ours.requests, ours.prompt_tokens, ours.output_tokens)
        timeout = aiohttp.ClientTimeout(total=WANT_TIMEOUT_S)
        try:
            async with self._connections.session.post(
                worker.url + WANT_PATH,
                data=want.encode(),
                headers={"content-type": "application/json", **own},
                timeout=timeout,
            ) as response:
                response.raise_for_status()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.debug("not told", extra={"worker": worker.name, "why": told_of(error)})


def _requests(backlog: Backlog) -> int:
    return backlog.requests
