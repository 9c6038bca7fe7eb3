"""How a process asks the others of its gateway: by HTTP, each on its own Unix socket."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
from yarl import URL

from router.gateway.siblings.folder import Folder
from router.http.connections import told_of

log = logging.getLogger(__name__)

# An event loop that plans or reads a large body is back in less; who scrapes waits for 10 s.
ANSWER_S = 2.0
# What the dashboard shows of one process, as JSON: only processes ask each other for it.
FRAMES = "/makespan/v1/frames"
# Before the name of an answer: which worker keeps it.
KEPT = "/makespan/v1/kept/"


class Siblings:
    """Asks them; who does not answer in time has not been asked."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    async def ask(self, target: str) -> dict[int, bytes]:
        """What those answer that say 200, by their processes' ids; `target`: path and query."""
        pids = self._folder.others()
        answers = await asyncio.gather(*(self._ask(pid, target) for pid in pids))
        return {
            pid: answer for pid, answer in zip(pids, answers, strict=True) if answer is not None
        }

    async def _ask(self, pid: int, target: str) -> bytes | None:
        connector = aiohttp.UnixConnector(str(self._folder.socket_of(pid)))
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            try:
                async with session.get(URL("http://sibling" + target, encoded=True)) as response:
                    return await response.read() if response.status == 200 else None
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.debug("no answer", extra={"process": pid, "why": told_of(error)})
                return None
