"""One request of many answers is in nobody's way at a worker whose agent orders single answers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from router.gateway.admission.headers import for_worker
from router.gateway.planning.ticket import Ticket
from solver.routing.problem import Job
from solver.routing.sums import LoadSums
from tests.router.gateway.fleet import Half, half, state, ticket
from tests.waiting import until

SLOTS = 16


def of(tenant: str, sequences: int = 1, prompt: int = 70) -> Ticket:
    made = ticket(tenant)
    made.job = Job(prompt * sequences, 300.0 * sequences, sequences, tenant=tenant)
    return made


def agents(made: Half, *, steps_back: bool = True) -> None:
    for worker in made.workers:
        told = state(worker.name, slots=SLOTS)
        worker.update_state(replace(told, steps_back=steps_back, kv_tokens=20_000))


@pytest.mark.anyio
@pytest.mark.parametrize(("sequences", "prompt"), [(SLOTS, 70), (64, 70), (512, 1), (64, 5000)])
async def test_others_have_room_beside_a_large_one_and_further_large_ones_wait(
    sequences: int, prompt: int
) -> None:
    async with half(1, slots=SLOTS) as made:
        agents(made)
        (worker,) = made.workers
        place = made.dispatcher.place
        large = of("bob", sequences, prompt)
        await asyncio.wait_for(place(large), timeout=60)
        assert "x-makespan-pace: " in for_worker(large, "gw")
        more = asyncio.create_task(place(of("bob", 64)))
        for _ in range(SLOTS // 2):
            await asyncio.wait_for(place(of("alice")), timeout=60)
        await asyncio.wait_for(place(of("carol")), timeout=60)
        assert worker.load.sequences == sequences + SLOTS // 2 + 1
        assert not more.done()
        many = of("dave", 2)  # what has several answers is in the way of its own tenant's alone
        worker.load.remove(next(iter(worker.load._requests.keys() - {large})))
        await asyncio.wait_for(place(many), timeout=60)
        more.cancel()
        await asyncio.gather(more, return_exceptions=True)
        made.dispatcher.release(large, worker)
        assert worker.load.paced_sequences == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("steps_back", "tenant"), [(False, "bob"), (True, "")])
async def test_it_counts_in_full_where_nobody_orders_answers_or_there_are_no_tenants(
    steps_back: bool, tenant: str
) -> None:
    async with half(1, slots=SLOTS) as made:
        agents(made, steps_back=steps_back)
        (worker,) = made.workers
        large = of(tenant, 64)
        await asyncio.wait_for(made.dispatcher.place(large), timeout=60)
        assert "x-makespan-pace" not in for_worker(large, "gw")
        assert worker.online_room == worker.room == 0
        behind = asyncio.create_task(made.dispatcher.place(of(tenant)))
        await until(lambda: made.dispatcher.unsent == 1)
        made.dispatcher.release(large, worker)
        await asyncio.wait_for(behind, timeout=60)


@pytest.mark.anyio
@pytest.mark.parametrize("plain", [True, False])
async def test_before_who_takes_it_whole_others_have_their_first_answers_first(
    plain: bool,
) -> None:
    """A plain server, or a sidecar: who waits as it comes goes first, and nothing is kept empty."""
    async with half(1, slots=SLOTS) as made:
        if not plain:
            agents(made, steps_back=False)
        (worker,) = made.workers
        place = made.dispatcher.place
        first = [of("erin") for _ in range(worker.room)]
        for one in first:
            await asyncio.wait_for(place(one), timeout=60)
        order: list[str] = []

        async def wait(one: Ticket) -> None:
            await place(one)
            order.append(one.job.tenant)

        asks = [of("bob", 128), of("bob", 128), *(of(name) for name in ("alice", "carol") * 3)]
        tasks = [asyncio.create_task(wait(one)) for one in asks]
        await until(lambda: made.dispatcher.unsent == len(asks))
        for one in first:
            made.dispatcher.release(one, worker)
        await until(lambda: "bob" in order)
        assert order == [*("alice", "carol") * 3, "bob"]
        assert made.dispatcher.unsent == 1
        assert worker.load.sequences == 128 + 6
        late = asyncio.create_task(wait(of("dave")))
        await until(lambda: made.dispatcher.unsent == 2)
        made.dispatcher.release(asks[0], worker)
        await until(lambda: len(order) == 9)
        assert order[7:] == ["dave", "bob"], "who has had less comes before its next"
        for task in (*tasks, late):
            task.cancel()
        await asyncio.gather(*tasks, late, return_exceptions=True)


@pytest.mark.anyio
async def test_its_turns_come_as_its_tenants_share_of_the_worker_lets_them() -> None:
    paces = []
    for weight in (1.0, 3.0):
        async with half(1, slots=SLOTS) as made:
            agents(made)
            (worker,) = made.workers
            made.dispatcher.shares.weight = lambda name, own=weight: own if name == "bob" else 1.0  # type: ignore[misc]
            large = of("bob", 64)
            await asyncio.wait_for(made.dispatcher.place(large), timeout=60)
            paces.append(large.pace_s)
            for hinted in (1.0, 9000.0):
                large.job = replace(large.job, expected_tokens=hinted, unhinted_tokens=64 * 300.0)
                made.dispatcher._pace(large, worker)
            assert large.pace_s >= paces[-1] * 0.99, "no hint makes its turns come sooner"
    assert 0 < paces[0] == pytest.approx(paces[1])  # a tenant has at most half, as others may come


@pytest.mark.anyio
async def test_what_another_process_has_sent_so_leaves_room_too() -> None:
    """But not what gateways elsewhere have: agents let nobody in beyond their room then."""
    async with half(1, slots=SLOTS) as made:
        agents(made)
        (worker,) = made.workers
        empty = worker.online_room
        others = LoadSums(64 + 2, prompt_tokens=70 * 64, paced=64)
        worker.load.tell_others(others)
        assert (worker.online_room, worker.room) == (empty - 2, 0)
        assert worker.firm(others) == 2
        for _ in range(2):  # the other one wants more, and has not taken it
            worker.share.look(empty, worker.own_sequences, 0, 1, worker.firm(others))
        assert worker.online_room == empty - 2
        now = time.monotonic()
        worker.sent(1, of("bob", 64).job, 70.0, now, streamed=True, paced=True)
        assert worker.online_room == empty - 2
        worker.ended(1)
        assert worker.online_room == empty - 2
        worker.far = LoadSums(1)
        worker.load.tell_others(others + worker.far)
        assert worker.online_room == 0
