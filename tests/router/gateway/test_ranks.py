"""Ranks of one server: workers of their own, one health, and whoever is of none leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.gateway.fleet.address import Address
from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.health import Standing
from router.gateway.fleet.kv.stream import Stream
from router.gateway.fleet.reports import PlainLook
from router.gateway.fleet.worker import Worker
from router.kv_wire import Load
from router.observe.engine_metrics import Signals
from router.settings.gateway import GatewaySettings
from solver.routing.slots import Known
from solver.routing.sums import NOTHING, LoadSums
from tests.router.gateway.fleet import Half, state, ticket

URL, OTHER = "http://w:1", "http://x:1"
MODELS = {"llama-65b": {"id": "llama-65b"}}


class Board:
    """What this process tells its siblings."""

    def __init__(self) -> None:
        self.told: dict[str, LoadSums] = {}

    def tell(self, url: str, own: LoadSums) -> None:
        self.told[url] = own

    def held(self, url: str) -> LoadSums:
        return LoadSums(sequences=1) if url.endswith("#1") else NOTHING


def fleet(*urls: str) -> Half:
    given = {"worker": ",".join(urls or (URL,)), "plan_deadline_s": 0, "cache_events": False}
    return Half(GatewaySettings(**given))  # type: ignore[arg-type]


def address(made: Half, url: str = URL) -> Address[Worker]:
    return next(worker.address for worker in made.workers if worker.url == url)


async def look(made: Half, ranks: int | None, *each: Signals, url: str = URL) -> list[Worker]:
    """Those that stay."""
    told = PlainLook(MODELS, Signals() if each else None, ranks, each)
    made.workers.take_report(address(made, url), told)
    return [worker for worker in made.workers if worker.url == url and not worker.leaving]


def names(workers: Sequence[Worker]) -> list[str]:
    return [worker.name for worker in workers]


async def test_each_rank_has_a_name_slots_and_a_load_of_its_own() -> None:
    made = fleet()
    first, second = await look(made, 2, Signals(3, 1, 1000, 8), Signals(0, 0, 2000, 16))
    assert names([first, second]) == ["w:1#0", "w:1#1"]
    assert [one.slots for one in (first, second)] == [8, 16]
    assert [one.slots_known for one in (first, second)] == [Known.ENGINE] * 2
    assert [one.kv_free for one in (first, second)] == [1000, 2000]
    assert [one.rank_line for one in (first, second)] == [
        f"x-data-parallel-rank: {k}\r\n" for k in range(2)
    ]
    one = ticket("one")
    first.sent(one, one.job, 1.0, 0.0, streamed=True)
    assert [len(worker.load) for worker in (first, second)] == [1, 0]


async def test_ranks_have_one_health() -> None:
    made = fleet()
    first, second = await look(made, 2)
    assert first.up
    assert second.up
    made.workers.conditions.lost(second, "it is gone")
    assert (first.health.standing, first.health.reason) == (Standing.DOWN, "it is gone")
    assert await look(made, None) == [first, second]
    assert first.up


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 4), st.sets(st.integers(0, 3))), min_size=1, max_size=8))
def test_however_ranks_come_and_go_there_are_as_many_as_told_and_work_ends_where_it_is(
    steps: list[tuple[int, set[int]]],
) -> None:
    """In each step so many ranks are told, and these are sent something; then all ends."""
    asyncio.run(come_and_go(steps))


async def come_and_go(steps: list[tuple[int, set[int]]]) -> None:
    made, at = fleet(), dict[str, Worker]()
    for k, (count, busy) in enumerate(steps):
        stay = await look(made, count)
        assert [worker.rank for worker in stay] == ([None] if count == 1 else list(range(count)))
        assert len(set(names(list(made.workers)))) == len(list(made.workers))
        gone = [worker for worker in made.workers if worker.leaving]
        assert all(len(worker.load) for worker in gone)
        for rank in busy & set(range(count)):
            one = ticket(f"{k}-{rank}")
            stay[rank].load.add(one.request_id, one.job, time.monotonic(), streamed=True)
            at[one.request_id] = stay[rank]
    for name, worker in at.items():
        assert worker in made.workers
        worker.ended(name)
        made.workers.forget_if_drained(worker)
    assert list(made.workers) == stay


async def test_a_server_that_leaves_takes_all_its_ranks_and_comes_back_with_them() -> None:
    made = fleet()
    first, second = await look(made, 2)
    one = ticket("one")
    second.load.add(one, one.job, 0.0, streamed=True)
    made.workers.update([])
    assert list(made.workers) == [second], "what runs there ends"
    assert await look(made, 2) == []
    assert list(made.workers) == [second]
    made.workers.update([Endpoint(URL)])
    assert not second.leaving
    assert names(await look(made, 2)) == ["w:1#0", "w:1#1"]
    made.workers.update([])
    second.ended(one)
    made.workers.forget_if_drained(second)
    assert list(made.workers) == []
    made.workers.update([Endpoint(URL)])
    assert names(list(made.workers)) == ["w:1"]
    assert first not in made.workers


async def test_who_turns_out_to_be_an_agent_is_one() -> None:
    made = fleet()
    await look(made, 3)
    made.workers.take_report(address(made), state("agent"))
    assert names(list(made.workers)) == ["agent"]


async def test_who_refuses_ranks_is_one_until_it_has_been_down() -> None:
    made = fleet()
    await look(made, 2)
    address(made).refuse_ranks()
    (one,) = await look(made, 2)
    assert (one.rank, one.name, one.rank_line) == (None, "w:1", "")
    made.workers.conditions.lost(one, "it restarts")
    assert len(await look(made, 2)) == 2


async def test_siblings_hear_of_each_rank() -> None:
    made, board = fleet(), Board()
    made.workers._siblings = board  # type: ignore[assignment]
    for worker in made.workers:
        worker.siblings = board  # type: ignore[assignment]
    first, second = await look(made, 2)
    one = ticket("one")
    first.sent(one, one.job, 1.0, 0.0, streamed=True)
    assert {place: sums.sequences for place, sums in board.told.items()} == {
        URL: 0,
        f"{URL}#0": 1,
        f"{URL}#1": 0,
    }
    second.see_others()
    assert (first.load.others.sequences, second.load.others.sequences) == (0, 1)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_who_has_failed_goes_to_another_address_if_there_is_one(elsewhere: bool) -> None:
    asyncio.run(fail(elsewhere))


async def fail(elsewhere: bool) -> None:
    made = fleet(URL, OTHER) if elsewhere else fleet()
    first, second = await look(made, 2)
    if elsewhere:
        await look(made, 1, url=OTHER)
    one = ticket("one")
    made.dispatcher.exclude(one, first)
    assert one.excluded == ({first, second} if elsewhere else {first})


async def test_each_rank_hears_its_own_publisher_and_load() -> None:
    made = fleet()
    first, second = await look(made, 2)
    streams = {rank: Stream(10, replays=False) for rank in (0, 1)}
    address(made).hear_caches(streams, reports=True)
    assert [one.cache and one.cache.streams for one in (first, second)] == [
        [streams[0]],
        [streams[1]],
    ]
    address(made).push_load(1, Load(3, 2, 500, 1000, 16, 0, 0.0), time.monotonic())
    assert (first.slots_known, second.slots_known) == (Known.ASSUMED, Known.ENGINE)
    address(made).hear_caches({1: streams[1]}, reports=True)
    assert first.cache is None, "it is elsewhere, or publishes nothing"


async def test_without_ranks_any_may_have_it() -> None:
    made = fleet()
    (one,) = await look(made, 1)
    streams = {rank: Stream(10, replays=False) for rank in (0, 1)}
    address(made).hear_caches(streams, reports=True)
    assert one.cache is not None
    assert one.cache.streams == list(streams.values())
