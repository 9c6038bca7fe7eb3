"""Workers that are down are looked at in turns, whoever has the lowest rank first."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from router.gateway.fleet import turns
from router.gateway.fleet.turns import AT_ONCE_S, FIRST_PER_S, LOOKS_PER_S, Turns
from tests.waiting import until


async def test_many_dead_addresses_are_looked_at_seldom_all_together() -> None:
    loop, looks = asyncio.get_running_loop(), list[float]()
    mine = Turns()

    async def dead() -> None:
        for rank in range(10**6):
            await mine.wait(rank)
            looks.append(loop.time())

    at_once, count = AT_ONCE_S * FIRST_PER_S, 300
    tasks = [loop.create_task(dead()) for _ in range(count)]
    began_s = loop.time()
    await until(lambda: len(looks) > count + 30)
    for k, at_s in enumerate(looks[:count]):
        assert k <= at_once + FIRST_PER_S * (at_s - began_s) + 1
    for k, at_s in enumerate(looks[count:]):
        assert k <= AT_ONCE_S * LOOKS_PER_S + LOOKS_PER_S * (at_s - began_s) + 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_has_the_lowest_rank_is_next_and_who_leaves_takes_no_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "AT_ONCE_S", 0.0)
    mine, order = Turns(), list[str]()

    async def look(name: str, rank: int) -> None:
        await mine.wait(rank)
        order.append(name)

    loop = asyncio.get_running_loop()
    await look("first", 0)
    mine._next_s = inf  # until all have asked
    asked = {"dead": 9, "gone": 0, "longer dead": 12, "new": 0, "just lost": 1, "new, too": 0}
    tasks = {name: loop.create_task(look(name, rank)) for name, rank in asked.items()}
    await asyncio.sleep(0)
    tasks.pop("gone").cancel()
    mine._next_s = -inf
    mine._give()
    await asyncio.gather(*tasks.values())
    assert order == ["first", "new", "new, too", "just lost", "dead", "longer dead"]
