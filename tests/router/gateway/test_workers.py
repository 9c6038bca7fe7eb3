"""A fleet that changes: who comes is followed, who goes is drained and then forgotten."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.stalls import LEAST_PATIENCE_S, Watched
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import WATCH_S
from router.gateway.planning.planner import Planned
from router.gateway.planning.recaller import movable_from
from router.gateway.planning.ticket import Ticket
from solver.routing.asked import Asked
from tests.router.gateway.fleet import Half, half, state, ticket

FIRST, SECOND, THIRD = (Endpoint(f"http://w{k}:1") for k in range(3))


def names(made: Half) -> list[str]:
    return [worker.name for worker in made.workers]


def exported(made: Half) -> set[str]:
    """The workers that metrics tell of."""
    made.workers.export()
    samples = [one for metric in made.metrics.registry.collect() for one in metric.samples]
    return {one.labels["worker"] for one in samples if "worker" in one.labels}


def send(worker: Worker, one: Ticket) -> Ticket:
    worker.load.add(one, one.job, time.monotonic(), streamed=True)
    return one


async def test_an_idle_worker_that_goes_is_gone_from_metrics_too() -> None:
    async with half(2, plan_deadline_s=0) as made:
        made.workers.update([SECOND])
        assert names(made) == ["w1"]
        assert exported(made) == {"w1"}


async def test_a_busy_worker_that_goes_gets_nothing_new_and_goes_with_its_last_request() -> None:
    async with half(2, plan_deadline_s=0) as made:
        first, second = made.workers
        one, two = send(first, ticket("one")), send(first, ticket("two"))
        made.workers.update([replace(FIRST, draining=True), SECOND])
        assert made.workers.available() == [second]
        placement = await made.dispatcher.place(ticket("new"))
        assert placement.worker is second
        made.dispatcher.release(one, first)
        assert exported(made) == {"w0", "w1"}
        made.dispatcher.release(two, first)
        assert exported(made) == {"w1"}


async def test_what_an_agent_says_while_it_shuts_down_brings_it_up_for_nobody() -> None:
    """Its state stream outlives its door: requests are refused before it has ended."""
    async with half(1, plan_deadline_s=0) as made:
        (worker,) = made.workers
        for draining in (True, True, False):
            made.workers.mark_down(worker, "it cannot be reached")
            made.workers.take_report(worker.address, replace(state("w0"), draining=draining))
            assert worker.down is draining
            assert ("shutting down" in worker.health.reason) is draining
        made.workers.take_report(worker.address, replace(state("w0"), draining=True))
        assert not worker.down, "it finishes what it has"


async def test_what_is_planned_onto_a_worker_that_goes_meanwhile_goes_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with half(2, plan_deadline_s=0) as made:
        first, second = made.workers
        send(second, ticket("running"))
        plan = made.planner.plan
        planned: list[int] = []

        async def plan_and_lose_one(asked: Asked) -> Planned:
            found = await plan(asked)
            planned.extend(found.assignment.workers)
            made.workers.update([FIRST])
            return found

        monkeypatch.setattr(made.planner, "plan", plan_and_lose_one)
        placed = await asyncio.gather(*(made.dispatcher.place(ticket(str(k))) for k in range(9)))
        assert 1 in planned
        assert {placement.worker for placement in placed} == {first}


async def test_one_that_is_named_again_before_it_has_gone_stays() -> None:
    async with half(2, plan_deadline_s=0) as made:
        first, second = made.workers
        one = send(first, ticket("one"))
        made.workers.update([SECOND])
        made.workers.update([SECOND, FIRST])
        assert list(made.workers) == [first, second]
        assert made.workers.available() == [first, second]
        made.dispatcher.release(one, first)
        assert names(made) == ["w0", "w1"]


async def test_one_that_comes_is_there_at_once_and_takes_requests_when_it_has_reported() -> None:
    async with half(2, plan_deadline_s=0) as made:
        made.workers.update([FIRST, SECOND, THIRD])
        *_, third = made.workers
        assert (third.url, third.available) == (THIRD.url, False)
        third.update_state(state("w2"))
        made.workers._mark_up(third)
        assert third in made.workers.available()


async def test_one_that_drains_when_it_is_first_named_is_not_taken_in() -> None:
    async with half(2, plan_deadline_s=0) as made:
        made.workers.update([FIRST, SECOND, replace(THIRD, draining=True)])
        assert names(made) == ["w0", "w1"]


async def test_a_name_is_free_again_when_its_worker_has_gone() -> None:
    async with half(1, plan_deadline_s=0) as made:
        (old,) = made.workers
        one = send(old, ticket("one"))
        made.workers.update([SECOND])
        new = list(made.workers)[1]
        new.update_state(state("w0"))
        made.workers._mark_up(new)
        assert names(made) == ["w0", "w0@w1:1"]
        made.dispatcher.release(one, old)
        assert names(made) == ["w0"]


async def test_of_what_has_not_begun_all_that_another_may_serve_is_asked_back() -> None:
    async with half(2, plan_deadline_s=0) as made:
        first, second = made.workers
        begun, silent, bound, asked = (send(first, ticket(name)) for name in "abcd")
        first.load.progress(begun, 1)
        bound.excluded.add(second)
        asked.recall_pending = True
        made.workers.update([SECOND])
        assert movable_from(first, made.workers.available()) == [silent]
        assert movable_from(first, []) == []


async def test_it_is_looked_often_only_where_somebodys_patience_may_end() -> None:
    async with half(2) as made:
        worker = next(iter(made.workers))
        assert made.workers._watch_s() == LEAST_PATIENCE_S
        guard = worker.stall_guard
        with Watched(guard, 0.3):
            assert WATCH_S < made.workers._watch_s() <= 0.3
        with Watched(guard, 0.0):
            assert made.workers._watch_s() == WATCH_S
        with Watched(guard) as heard:
            assert made.workers._watch_s() == LEAST_PATIENCE_S
            heard()
            assert made.workers._watch_s() == WATCH_S, "it might stall"
        assert made.workers._watch_s() == LEAST_PATIENCE_S
        worker.health.silent("nothing")
        assert made.workers._watch_s() == WATCH_S, "any byte clears it"
