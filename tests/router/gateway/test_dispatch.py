"""Windows become plans and plans become placements, without ever stalling the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from router.gateway.planning.ticket import Placement, Ticket
from router.http.errors import NoCapacityError
from solver.packing.check import check
from solver.packing.plan import Method
from solver.routing.problem import Job
from tests.router.gateway.fleet import Half, half, random_tickets, state, ticket


@dataclass
class Pulse:
    """The longest that the event loop's thread worked between two turns of the loop.

    CPU time of the thread, so that a busy machine does not count as a stall; the longest wall time
    is kept beside it to be looked at.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    _stop: bool = field(default=False, init=False)

    async def beat(self) -> None:
        while not self._stop:
            cpu, wall = time.thread_time(), time.monotonic()
            await asyncio.sleep(0)
            self.cpu_s = max(self.cpu_s, time.thread_time() - cpu)
            self.wall_s = max(self.wall_s, time.monotonic() - wall)

    def stop(self) -> None:
        self._stop = True


async def until(probe: Callable[[], bool], turns: int = 5000) -> None:
    """Let the event loop turn until it is so."""
    for _ in range(turns):
        if probe():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come about")


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
    longest = []
    gc.collect()
    gc.freeze()  # as the gateway does: what was loaded by then is not looked at again
    for seed in range(5):
        async with half(32, window_max_size=500, window_max_wait_s=0.0) as made:
            pulse = Pulse()
            beating = asyncio.create_task(pulse.beat())
            placements = await place_all(made, random_tickets(500, seed))
            pulse.stop()
            await beating
        record = max((one.plan for one in placements), key=lambda plan: len(plan.requests))
        assert (len(record.requests), len(record.workers)) == (500, 32)
        check(record.problem, record.plan)
        longest.append(pulse)
    gc.unfreeze()
    worst, wall = max(p.cpu_s for p in longest), max(p.wall_s for p in longest)
    print(f"longest turn of the loop: {worst * 1e3:.1f} ms of CPU, {wall * 1e3:.1f} ms on the wall")
    assert worst < 0.020


async def test_milp_runs_beside_the_loop() -> None:
    """Windows in which the MILP beats the heuristic: the loop turns on while the child solves."""
    async with half(4, slots=3, window_max_wait_s=0.0, plan_deadline_s=2.0) as made:
        await made.warm()
        pulse = Pulse()
        beating = asyncio.create_task(pulse.beat())
        placements = []
        for seed in range(6):
            tickets = random_tickets(14, seed)
            for one in tickets:
                one.job = Job(70, 40 * one.job.expected_tokens)
            placements += await place_all(made, tickets)
        pulse.stop()
        await beating
    assert {placement.plan.plan.method for placement in placements} > {Method.HEURISTIC}
    assert pulse.cpu_s < 0.020


async def test_a_free_worker_gets_a_request_at_once() -> None:
    async with half(2, window_max_wait_s=10.0) as made:
        placement = await asyncio.wait_for(made.dispatcher.place(ticket("a")), 5.0)
    assert placement.plan.reason == "worker_free"
    assert placement.worker.name == "w1", "the faster one"


async def test_who_cannot_start_soon_waits_at_the_gateway() -> None:
    """One runs, one is the lead, the third is sent when one of them has ended."""
    async with half(1, slots=1, window_max_wait_s=10.0) as made:
        first = ticket("a")
        placement = await made.dispatcher.place(first)
        await made.dispatcher.place(ticket("b"))
        waiting = asyncio.create_task(made.dispatcher.place(ticket("c")))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert made.dispatcher.unsent == 1
        made.dispatcher.release(first, placement.worker)
        assert (await asyncio.wait_for(waiting, 5.0)).plan.reason == "worker_free"
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
                worker.up = False
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
        await asyncio.sleep(0.05)
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

        async def broken(_: object, **_k: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(made.planner, "plan", broken)
            with pytest.raises(ZeroDivisionError):
                await made.dispatcher.place(ticket("a"))
        assert (await made.dispatcher.place(ticket("b"))).plan.number >= 1
