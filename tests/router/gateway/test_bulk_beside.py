"""Bulk work that fills a worker is in nobody's way there, if its engine lets it step back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from solver.routing.problem import Job
from solver.routing.sums import LoadSums
from tests.router.gateway.fleet import Half, half, state, ticket

BULK = Job(70, 300.0, weight=0.25, bulk=True)


def fill(made: Half, job: Job, *, steps_back: bool) -> None:
    """Every worker's slots and lead, with requests that have begun."""
    for worker in made.workers:
        worker.update_state(replace(state(worker.name), steps_back=steps_back))
        for k in range(worker.room):
            worker.load.add(k, job, time.monotonic(), streamed=True)
            worker.load.progress(k, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("steps_back", [True, False])
@pytest.mark.parametrize("job", [BULK, Job(70, 300.0)])
async def test_only_bulk_work_that_steps_back_leaves_room(steps_back: bool, job: Job) -> None:
    async with half(2) as made:
        fill(made, job, steps_back=steps_back)
        rooms = [(worker.room, worker.online_room) for worker in made.workers]
        assert rooms == [(0, 18 if steps_back and job.bulk else 0)] * 2


async def test_who_is_waited_for_is_sent_at_once_and_bulk_work_waits() -> None:
    async with half(2) as made:
        fill(made, BULK, steps_back=True)
        bulk, asked = ticket("bulk"), ticket("asked")
        bulk.job = BULK
        behind = asyncio.create_task(made.dispatcher.place(bulk))
        placed = await asyncio.wait_for(made.dispatcher.place(asked), timeout=60)
        assert placed.worker.room == 0
        assert bulk.waiting
        for worker in made.workers:
            for k in range(18):
                worker.load.remove(k)
        made.dispatcher.reconsider()
        await asyncio.wait_for(behind, timeout=60)


async def test_beside_other_gateways_an_agent_lets_in_no_more_than_it_has_room_for() -> None:
    async with half(1) as made:
        fill(made, BULK, steps_back=True)
        (worker,) = made.workers
        worker.far = LoadSums(sequences=1)
        assert worker.online_room == 0


async def test_bulk_work_of_another_process_leaves_room_too() -> None:
    """Whoever has it, and as if it had none itself."""
    async with half(1) as made:
        (worker,) = made.workers
        worker.update_state(replace(state(worker.name), steps_back=True))
        empty = worker.online_room
        worker.load.tell_others(LoadSums(empty, bulk=empty))
        assert (worker.room, worker.online_room) == (0, empty)
        for _ in range(2):  # the other one wants more
            worker.share.look(empty, worker.own_sequences, 0, 1, worker.firm(worker.load.others))
        assert worker.online_room == empty // 2
        worker.load.tell_others(LoadSums())
        fill(made, BULK, steps_back=True)
        assert (worker.room, worker.online_room) == (0, empty // 2)
