"""Workers die in the midst of streams, and no client sees it."""

from __future__ import annotations

import asyncio
import random

from tests.e2e.clients import Ask, ask_all
from tests.e2e.test_chaos import Chaos, Fleet, fleet, requests
from tests.helpers import scrape

REQUESTS, CLIENTS, AGENTS, KILLS, SEED = 300, 24, 4, 2, 20261201


class Kills(Chaos):
    """One agent after the other is killed while it streams."""

    async def run(self) -> None:
        for k in range(KILLS):
            await self._after(30 + 60 * k)
            while (
                await asyncio.to_thread(moved, self._fleet) <= k
            ):  # its stream may just have ended
                await self._kill_streaming(self._fleet.agents[k])


def test_streams_of_a_killed_worker_go_on_at_another_to_the_letter() -> None:
    with fleet(AGENTS, 0, "--continue-streams") as running:
        asks = requests(REQUESTS, random.Random(SEED))
        for ask in asks:
            ask.body |= {"temperature": 0, "n": 1}
        asyncio.run(killed(running, asks))
        for ask in asks:
            ask.check()
        assert all(ask.completed for ask in asks), [ask for ask in asks if not ask.completed]
        assert running.outcomes() == {"completed": REQUESTS}
        assert moved(running) >= KILLS


def moved(running: Fleet) -> float:
    """Streams that have gone on elsewhere."""
    return scrape(running.url).total('makespan_retries_total{why="broken_off"')


async def killed(running: Fleet, asks: list[Ask]) -> None:
    kills = Kills(running, asks)
    async with asyncio.TaskGroup() as group:
        group.create_task(kills.run())
        group.create_task(ask_all(running.url, asks, CLIENTS, kills.heard))
