"""What the agents' slots do, followed only while somebody looks at the dashboard."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from math import inf

import aiohttp

from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.http.connections import Connections, paced_lines, told_of
from router.wire import LINE_S, SLOTS_PATH, STATE_TIMEOUT_S, SlotReport

log = logging.getLogger(__name__)

AGAIN_S = 1.0  # before an agent is asked again that did not answer, or whose stream has ended
OLD_S = 30.0  # the same, where it does not know the path
MOST_REPORTS = 16  # that wait to be shown


@dataclass(slots=True)
class Watch:
    """One agent's reports.

    `ahead_s` is to be added to the agent's clock to get seconds since the epoch here: the least
    that was seen, as a report may be late but never early.
    """

    latest: SlotReport | None = None
    unseen: deque[SlotReport] = field(default_factory=lambda: deque(maxlen=MOST_REPORTS))
    ahead_s: float = inf

    def add(self, report: SlotReport, now_s: float) -> None:
        """A report has come at `now_s`."""
        self.latest = report
        self.unseen.append(report)
        self.ahead_s = min(self.ahead_s, now_s - report.now_s)

    def take(self) -> list[SlotReport]:
        """What has come since the last call."""
        reports = list(self.unseen)
        self.unseen.clear()
        return reports


class Watches:
    """Follows the slots of all agents between `start` and `stop`."""

    def __init__(self, workers: Workers, connections: Connections) -> None:
        self._workers, self._connections = workers, connections
        self._watches: dict[Worker, Watch] = {}
        self._tasks: dict[Worker, asyncio.Task[None]] = {}

    def of(self, worker: Worker) -> Watch:
        """What is known of one worker's slots."""
        return self._watches.get(worker) or Watch()

    def follow(self, every_s: float) -> None:
        """Follow whoever is there now, and nobody else; at most every `every_s` seconds."""
        there = set(self._workers)
        for worker in there - self._tasks.keys():
            self._watches[worker] = Watch()
            self._tasks[worker] = asyncio.create_task(self._follow(worker, every_s))
        for worker in self._tasks.keys() - there:
            self._tasks.pop(worker).cancel()
            del self._watches[worker]

    def stop(self) -> None:
        """Follow nobody."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        self._watches.clear()

    async def _follow(self, worker: Worker, every_s: float) -> None:
        while True:
            wait_s = AGAIN_S
            if worker.up and worker.state is not None:
                try:
                    wait_s = await self._listen(worker, every_s)
                except Exception as error:  # a picture less; whether it serves is seen elsewhere
                    log.debug("no slots", extra={"worker": worker.name, "why": told_of(error)})
            self._watches[worker].latest = None
            await asyncio.sleep(wait_s)

    async def _listen(self, worker: Worker, every_s: float) -> float:
        """Until the stream ends; when to ask again."""
        timeout = aiohttp.ClientTimeout(
            sock_connect=STATE_TIMEOUT_S, sock_read=STATE_TIMEOUT_S + every_s
        )
        url, asked = worker.url + SLOTS_PATH, {"every_s": str(every_s)}
        async with self._connections.session.get(
            url, params=asked, timeout=timeout, headers=self._connections.to_agent(worker.url)
        ) as response:
            if response.status == 404:  # an older agent
                return OLD_S
            response.raise_for_status()
            watch = self._watches[worker] = Watch()
            async for line in paced_lines(response, LINE_S):
                watch.add(SlotReport.decode(line), time.time())
        return AGAIN_S
