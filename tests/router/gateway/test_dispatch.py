"""Windows become plans and plans become placements, without ever stalling the event loop."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from router.gateway.planning.dispatcher import MOST_ANEW
from router.gateway.planning.isolation import UnplannableError
from router.gateway.planning.planner import Planned
from router.gateway.planning.ticket import Placement, Ticket
from router.http.errors import NoCapacityError
from solver.routing.asked import Asked
from solver.routing.rolling import WINDOW
from solver.routing.sums import NOTHING, LoadSums
from tests.router.gateway.fleet import Half, half, random_tickets, state, ticket
from tests.waiting import PATIENCE_S, until

# In one turn of the loop, which are a few milliseconds; without the pauses between the steps of
# planning, between those sent, or with more steps of search at once, it is more.
MOST_CALLS = 12_000


@dataclass
class Turns:
    """Counts the calls, of Python and of C, that each turn of the event loop makes.

    What a turn does is the same on a busy machine as on a quiet one; how long it takes is not, and
    `tests.bench.bench_stall` measures that.
    """

    most: int = 0
    _calls: int = field(default=0, init=False)

    def _called(self, _: object, event: str, __: object) -> None:
        self._calls += event.endswith("call")

    async def _count(self) -> None:
        while True:
            self._calls = 0
            await asyncio.sleep(0)
            self.most = max(self.most, self._calls)

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """Count until the end of the block."""
        counting = asyncio.create_task(self._count())
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)


async def pass_through(made: Half, one: Ticket) -> Placement:
    placement = await made.dispatcher.place(one)
    made.dispatcher.release(one, placement.worker)
    return placement


async def place_all(made: Half, tickets: list[Ticket]) -> list[Placement]:
    """All gather while workers and leads are full; then these are empty at once.

    Whoever is sent is done at once, so that the rest can be sent.
    """
    made.fill()
    tasks = []
    for k, one in enumerate(tickets):
        tasks.append(asyncio.create_task(pass_through(made, one)))
        if k % 20 == 19:  # the test's own work is not to look like a stall
            await asyncio.sleep(0)
    await until(lambda: made.dispatcher.unsent == len(tickets))
    await until(lambda: made.dispatcher._rolling.next_deadline() is None)
    made.empty()
    return await asyncio.gather(*tasks)


async def test_planning_500_requests_on_32_workers_never_stalls_the_loop() -> None:
    turns = Turns()
    for seed in range(5):
        async with half(32, window_max_size=500, window_max_wait_s=0.0) as made, turns.counted():
            placements = await place_all(made, random_tickets(500, seed))
        record = max((one.plan for one in placements), key=lambda plan: len(plan.requests))
        assert (len(record.requests), len(record.seen.names)) == (WINDOW, 32)
        assert record.plan.total_s >= record.plan.bound_s > 0
    print(f"longest turn of the loop: {turns.most} calls")
    assert turns.most < MOST_CALLS


async def test_a_free_worker_gets_a_request_at_once() -> None:
    async with half(2, window_max_wait_s=10.0) as made:
        placement = await asyncio.wait_for(made.dispatcher.place(ticket("a")), PATIENCE_S)
    assert placement.plan.reason == "worker_free"
    assert placement.worker.name == "w1", "the faster one"


async def test_who_comes_alone_is_placed_without_a_turn_of_the_loop() -> None:
    async with half(2, window_max_wait_s=10.0) as made:
        await made.dispatcher.place(ticket("a"))
        await asyncio.sleep(0)
        placing = made.dispatcher.place(ticket("b"))
        with pytest.raises(StopIteration) as ended:
            placing.send(None)
        assert ended.value.value.plan.requests == ("id-b",)
        assert made.dispatcher.unsent == 0


async def test_those_who_come_together_are_planned_together() -> None:
    async with half(8, plan_deadline_s=0) as made:
        await made.dispatcher.place(ticket("a"))
        for expected in ([1, 4, 4, 4, 4], [5, 5, 5, 5, 5]):
            await asyncio.sleep(0)
            placing = (made.dispatcher.place(ticket(str(k))) for k in range(5))
            placements = await asyncio.gather(*placing)
            assert [len(one.plan.requests) for one in placements] == expected


async def test_what_others_have_told_before_a_plan_or_while_it_is_made_counts_in_it() -> None:
    """Where they go on telling, some of it: a plan is made a few times at most."""
    looks = due = 0

    def tell() -> bool:
        nonlocal looks
        looks += 1
        if looks == due:
            best.load.tell_others(LoadSums(99, 99, 99_000, 9_000.0))
        return looks <= due

    async with half(2, window_max_wait_s=10.0) as made:
        best = next(worker for worker in made.workers if worker.name == "w1")
        await made.dispatcher.place(ticket("a"))
        made.workers.before_plan = tell
        for due, goes_to in ((1, "w0"), (2, "w0"), (MOST_ANEW, "w0"), (99, "w1")):
            best.load.tell_others(NOTHING)
            looks = 0
            await asyncio.sleep(0)
            other = ticket(str(due))
            placing = made.dispatcher.place(other)
            with pytest.raises(StopIteration) as ended:
                placing.send(None)
            placed = ended.value.value.worker
            assert (placed.name, looks <= MOST_ANEW + 1) == (goes_to, True), due
            placed.load.remove(other)


async def test_who_cannot_be_planned_alone_is_planned_by_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Asked) -> Planned:
        raise ArithmeticError

    async with half(2, plan_deadline_s=0) as made:
        monkeypatch.setattr(made.planner, "plan_alone", fail)
        for name in ("a", "b", "c"):
            placement = await asyncio.wait_for(made.dispatcher.place(ticket(name)), PATIENCE_S)
            assert placement.plan.requests == (f"id-{name}",)
            await asyncio.sleep(0)


async def test_who_cannot_start_soon_waits_at_the_gateway() -> None:
    """One runs, one is the lead, the third is sent when one of them has ended."""
    async with half(1, slots=1, window_max_wait_s=10.0) as made:
        first = ticket("a")
        placement = await made.dispatcher.place(first)
        await made.dispatcher.place(ticket("b"))
        waiting = asyncio.create_task(made.dispatcher.place(ticket("c")))
        await until(lambda: made.dispatcher.unsent == 1)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        made.dispatcher.release(first, placement.worker)
        assert (await asyncio.wait_for(waiting, PATIENCE_S)).plan.reason == "worker_free"
        assert made.dispatcher.unsent == 0


async def test_the_backlog_counts_what_is_sent_and_what_is_not() -> None:
    """The signal to scale by: twice the workers have half of it each; nobody up has nothing."""
    found = []
    for workers in (1, 2):
        async with half(workers, slots=1, window_max_wait_s=10.0) as made:
            assert made.dispatcher.backlog_s() == 0
            for worker in made.workers:  # of one speed, whatever their places
                worker.update_state(state(worker.reported_name, slots=1))
            made.fill()
            sent = made.dispatcher.backlog_s()
            assert sent == pytest.approx(next(iter(made.workers)).backlog_s(0, time.monotonic()))
            tasks = [asyncio.create_task(made.dispatcher.place(one)) for one in random_tickets(40)]
            await until(lambda made=made: made.dispatcher.unsent == 40)  # type: ignore[misc]
            found.append(made.dispatcher.backlog_s() - sent)
            for worker in made.workers:
                worker.health.lost("gone")
            assert made.dispatcher.backlog_s() == 0
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert found[0] == pytest.approx(2 * found[1])
    assert found[0] > 0


async def test_who_leaves_while_waiting_takes_no_place() -> None:
    async with half(1, slots=1, window_max_wait_s=10.0) as made:
        first = await made.dispatcher.place(ticket("a"))
        await made.dispatcher.place(ticket("b"))
        waiting = asyncio.create_task(made.dispatcher.place(ticket("c")))
        await until(lambda: made.dispatcher.unsent == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (made.dispatcher.unsent, len(first.worker.load)) == (0, 2)
        assert len(made.dispatcher._rolling) == 0


async def test_draining_workers_get_nothing_and_no_worker_means_no_capacity() -> None:
    async with half(2) as made:
        for j, worker in enumerate(made.workers):
            worker.update_state(state(f"w{j}", draining=True))
        with pytest.raises(NoCapacityError, match="No worker that serves 'llama-65b' is up"):
            await made.dispatcher.place(ticket("a"))


async def test_a_defect_in_planning_fails_its_window_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with half(2) as made:

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(made.planner, "plan", broken)
            with pytest.raises(UnplannableError, match="ZeroDivisionError"):
                await made.dispatcher.place(ticket("a"))
        assert (await made.dispatcher.place(ticket("b"))).plan.seen.number >= 1
