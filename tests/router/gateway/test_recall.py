"""Requests that queue at an agent move to where they end sooner; those that have begun stay."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest

from router.agent.attempts import Attempts
from router.agent.engines.emulated.engine import EmulatedAnswer, EmulatedEngine
from router.agent.engines.emulated.text import Words
from router.agent.loop import EngineLoop, EngineRequest
from router.gateway.fleet.worker import Worker
from router.gateway.planning.recaller import choose_recalls
from router.gateway.planning.ticket import Ticket
from router.http.errors import RecalledError
from router.observe.metrics import AgentMetrics
from router.wire import Recall
from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from tests.router.gateway.fleet import COST, Half, half, state, ticket
from tests.waiting import PATIENCE_S


def give(worker: Worker, count: int, *, begun: int) -> list[Ticket]:
    """So many requests, of which the first have made tokens."""
    given = [ticket(f"{worker.name}-{k}") for k in range(count)]
    for k, one in enumerate(given):
        worker.load.add(one, one.job, time.monotonic(), streamed=True)
        if k < begun:
            worker.load.progress(one, 5)
    assert worker.state is not None
    worker.update_state(replace(worker.state, running=begun, queued=count - begun))
    return given


def wanted(made: Half) -> dict[str, tuple[list[Ticket], int]]:
    workers = made.workers.available()
    loaded = [worker for worker in workers if worker.queued]
    found = choose_recalls(workers, loaded, time.monotonic())
    return {worker.name: asked for worker, asked in found.items()}


async def test_a_joining_worker_is_given_what_queues_and_nothing_that_has_begun() -> None:
    async with half(2) as made:
        loaded, _ = made.workers
        given = give(loaded, 18, begun=16)
        tickets, most = wanted(made)["w0"]
    assert set(tickets) == set(given[16:])
    assert most == 2


async def test_a_worker_that_becomes_slow_loses_what_queues_there() -> None:
    async with half(2) as made:
        first, second = made.workers
        give(first, 18, begun=16)
        give(second, 12, begun=12)
        first.update_state(replace(state("w0", speed=2.0), running=16, queued=2))
        second.update_state(replace(state("w1", speed=0.4), running=12))
        assert wanted(made) == {}, "it ends sooner where it is"
        first.update_state(replace(state("w0", speed=0.1), running=16, queued=2))
        assert wanted(made)["w0"][1] == 2


async def test_nobody_is_asked_for_who_may_not_go_elsewhere_or_was_moved_too_often() -> None:
    async with half(2) as made:
        loaded, other = made.workers
        one, two = give(loaded, 18, begun=16)[16:]
        one.excluded.add(other)
        two.recalled = 3
        assert wanted(made) == {}


def engine(slots: int) -> EngineLoop:
    batcher = Batcher(slots, 10**6, COST, POLICIES["adaptive"](), 0.0)
    return EngineLoop(batcher, EmulatedEngine(COST, {}, 0), AgentMetrics())


def job(answers: int = 1) -> EngineRequest:
    return EngineRequest([speech() for _ in range(answers)], 10 * answers)


def speech() -> EmulatedAnswer:
    words = Words(random.Random(0))
    return EmulatedAnswer(prompt_tokens=10, limit=5, tokens=5, finish_reason="stop", words=words)


async def test_an_agent_gives_back_the_first_that_have_not_begun_and_forgets_them() -> None:
    loop = engine(1)
    attempts, jobs = Attempts(loop), [job() for _ in range(3)]
    ids = [loop.submit(one, 5.0, 0.0) for one in jobs]
    assert loop.batcher.next_stage(0.0) is not None
    with (
        attempts.register("a", ids[0]),
        attempts.register("b", ids[1]),
        attempts.register("c", ids[2]),
    ):
        assert attempts.recall(Recall(("a", "b", "c"), 1)).requests == ("b",)
        assert attempts.recall(Recall(("a", "b", "x"))).requests == ()
        assert attempts.recall(Recall(("c", "c"))).requests == ("c",)
    assert attempts.recall(Recall(("c",))).requests == ()
    assert (loop.batcher.queued, loop.batcher.running) == (0, 1)
    for one in jobs[1:]:
        with pytest.raises(RecalledError):
            await asyncio.wait_for(one.take(), PATIENCE_S)


async def test_a_request_of_several_answers_goes_as_a_whole_or_not_at_all() -> None:
    loop = engine(1)
    ids = loop.submit(job(2), 5.0, 0.0)
    assert loop.batcher.next_stage(0.0) is not None
    assert not loop.withdraw(ids, RecalledError())
    assert (loop.batcher.queued, loop.batcher.running) == (1, 1)
