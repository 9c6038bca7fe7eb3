"""Replays take turns: of all, and of one worker's ranks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.gateway.fleet.kv.turns import Turns


class Rank:
    """Has turn after turn, and makes way for whoever waits; `may_end`: it may be done."""

    def __init__(self, turns: Turns, *, may_end: Callable[[Rank], bool]) -> None:
        self.turns, self.had, self.may_end = turns, 0, may_end

    async def run(self, begun: list[Rank]) -> None:
        """`begun`: who has a turn."""
        while not self.may_end(self):
            async with self.turns:
                begun.append(self)
                self.had += 1
                for _ in range(5):
                    await asyncio.sleep(0)
                while not (self.turns.waited_for or self.may_end(self)):  # noqa: ASYNC110
                    await asyncio.sleep(0)
                begun.remove(self)


async def play(most: int, workers: dict[str, int], need: int) -> tuple[int, list[Rank]]:
    """All of these have turns until each has had so many; the most at once, and the ranks."""
    turns, begun, at_once = Turns(most), list[Rank](), 0
    ranks = [
        Rank(of_worker, may_end=lambda _: all(one.had >= need for one in ranks))
        for of_worker, count in ((turns.of_worker(), count) for count in workers.values())
        for _ in range(count)
    ]
    tasks = [asyncio.create_task(one.run(begun)) for one in ranks]
    for _ in range(20_000):
        await asyncio.sleep(0)
        at_once = max(at_once, len(begun))
        assert len({id(one.turns) for one in begun}) == len(begun), "of a worker one at a time"
        if all(task.done() for task in tasks):
            break
    assert all(task.done() for task in tasks), "who waits has its turn"
    return at_once, ranks


def test_each_has_turns_and_no_worker_has_two_at_once() -> None:
    at_once, ranks = asyncio.run(play(3, {"a": 64, "b": 1, "c": 2, "d": 1}, need=4))
    assert at_once == 3
    assert len(ranks) == 68


def test_a_worker_of_many_ranks_has_no_more_turns_than_one_of_one() -> None:
    """Each of them that waits, waits for its own worker first."""

    async def check() -> None:
        turns, begun = Turns(1), list[Rank]()
        many, alone = turns.of_worker(), turns.of_worker()
        ranks = [Rank(many, may_end=lambda one: one.had >= 3) for _ in range(20)]
        last = Rank(alone, may_end=lambda one: one.had >= 3)
        await asyncio.gather(*(one.run(begun) for one in ranks[:10]), last.run(begun))
        assert sum(one.had for one in ranks) == 30
        assert last.had == 3

    asyncio.run(check())


def test_who_gives_up_waiting_leaves_its_place_to_others() -> None:
    async def check() -> None:
        turns = Turns(1)
        one, other = turns.of_worker(), turns.of_worker()
        async with one:
            waiting = [asyncio.create_task(of.__aenter__()) for of in (one, other)]
            for _ in range(3):
                await asyncio.sleep(0)
            found = [one.waited_for]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert [*found, one.waited_for] == [True, False]
        for again in (other, one):
            async with asyncio.timeout(60), again:
                await asyncio.sleep(0)
                assert not again.waited_for

    asyncio.run(check())
