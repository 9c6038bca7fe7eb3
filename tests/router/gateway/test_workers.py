"""A fleet that changes: who comes is followed, who goes is drained and then forgotten."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from dataclasses import replace

import pytest

from router.gateway.fleet import turns
from router.gateway.fleet import workers as fleet
from router.gateway.fleet.address import Address
from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.reports import PlainLook
from router.gateway.fleet.stalls import LEAST_PATIENCE_S, Watched
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import WATCH_S, Workers
from router.gateway.planning.planner import Planned
from router.gateway.planning.recaller import movable_from
from router.gateway.planning.ticket import Ticket
from solver.routing.asked import Asked
from tests.router.gateway.fleet import Half, half, state, ticket
from tests.waiting import until

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


async def test_who_has_the_same_name_as_one_before_it_is_told_apart() -> None:
    async with half(4, plan_deadline_s=0) as made:
        for worker, name in zip(made.workers, ("a", "b", "a", "b"), strict=True):
            worker.update_state(state(name))
            made.workers._mark_up(worker)
        made.workers._rename()
        assert names(made) == ["a", "b", "a@w2:1", "b@w3:1"]


async def test_what_is_known_of_the_like_goes_with_the_last_of_them() -> None:
    """A server may tell of other models at each look."""
    async with half(2, plan_deadline_s=0) as made:
        for k in range(50):
            for worker in made.workers:
                look = PlainLook({f"model {k}": {}})
                made.workers.take_report(worker.address, look)
            first, second = made.workers
            assert first.speed.is_of(made.workers._speeds[(f"model {k}",)])
            assert first.speed._fleet is second.speed._fleet
        gc.collect()
        assert len(made.workers._speeds) == 1


async def test_of_workers_that_have_left_nothing_is_kept() -> None:
    async with half(1, plan_deadline_s=0) as made:
        connections = made.workers._connections
        for k in range(20):
            made.workers.update([Endpoint(f"https://w{k}:1", tls_name=f"pod{k}")])
            connections.client._at(f"https://w{k}:1/v1/completions")
            connections.client._at(f"https://w{k}:1/v1/embeddings")
        assert connections._tls_names == {("w19", 1): "pod19"}
        assert list(connections.client._origins) == ["https://w19:1"]
        assert all(url.startswith("https://w19:1/") for url in connections.client._targets)


async def test_who_comes_to_the_same_place_has_the_name_that_it_came_with() -> None:
    async with half(1, plan_deadline_s=0) as made:
        names = made.workers._connections._tls_names
        for name in ("pod1", "pod2", None):
            made.workers.update([Endpoint("https://w:1", tls_name=name)])
            assert names.get(("w", 1)) == name


async def test_looks_at_dead_addresses_take_turns_however_they_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "AT_ONCE_S", 0.0)
    monkeypatch.setattr(turns, "LOOKS_PER_S", 1000.0)
    monkeypatch.setattr(fleet, "RECONNECT_S", (0.0,))
    for failure in (ConnectionRefusedError(111, "refused"), TimeoutError()):
        await _take_turns(monkeypatch, failure)


async def _take_turns(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    looks, new = list[str](), "http://new:1"

    async def fails(_: Workers, address: Address[Worker]) -> None:
        looks.append(address.url)
        raise failure

    monkeypatch.setattr(Workers, "_listen", fails)
    dead = [Endpoint(f"http://dead{k}:1") for k in range(20)]
    async with half(1) as made:
        made.workers.update(dead)
        task = asyncio.create_task(made.workers.run())
        await until(lambda: len(looks) > 100)
        times = Counter(looks)
        assert max(times.values()) - min(times[one.url] for one in dead) <= 1
        before = len(looks)
        made.workers.update([*dead, Endpoint(new)])
        await until(lambda: new in looks)
        assert looks.index(new) - before <= 2, "who is new is next"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
