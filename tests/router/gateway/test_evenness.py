"""A worker that ends requests far sooner than others draws no more than its even share by that."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product

from router.gateway.fleet.evenness import LATEST
from router.gateway.fleet.stalls import Watched
from router.gateway.fleet.worker import Worker
from solver.routing.problem import Job
from tests.router.gateway.fleet import Half, half, state

MODEL = "llama-65b"
LATE = 24  # requests that are sent before another worker's has ended
REQUESTS = 1200
Ends = Callable[[random.Random], float]


def honest(rng: random.Random) -> float:
    """As predictions are: any as likely as any other."""
    return rng.random()


def at_fault(_: random.Random) -> float:
    return 1.0


def short(rng: random.Random) -> float:
    return rng.uniform(0.85, 1.0)


def every_second(rng: random.Random) -> float:
    return 1.0 if rng.random() < 0.5 else rng.random()


def often_at_fault(rng: random.Random) -> float:
    """As of clients who ask for what nobody can answer, a third of the time."""
    return 1.0 if rng.random() < 1 / 3 else rng.random()


def unforeseen(rng: random.Random) -> float:
    """Of short answers where long ones were predicted."""
    return rng.uniform(0.97, 1.0)


def shares(made: Half, ends: list[Ends], seed: int = 1) -> list[int]:
    """Requests that each gets where whoever is free soonest gets the next: the first always is."""
    rng, workers = random.Random(seed), list(made.workers)
    sent, pending = [0] * len(workers), list[tuple[int, int]]()
    for k in range(REQUESTS):
        rank = min(worker.health.rank for worker in workers)
        able = [j for j, worker in enumerate(workers) if worker.health.rank == rank]
        at = 0 if 0 in able else min(able, key=sent.__getitem__)
        made.workers.evenness.sent(workers[at], MODEL)
        sent[at] += 1
        pending.append((k if at == 0 else k + LATE, at))
        for due in [one for one in pending if one[0] <= k]:
            pending.remove(due)
            made.workers.evenness.ended(workers[due[1]], ends[due[1]](rng))
    return sent


async def test_who_ends_sooner_than_others_gets_no_more_than_its_even_share() -> None:
    for odd, count in product([at_fault, short, every_second], [2, 3, 8]):
        async with half(count, plan_deadline_s=0) as made:
            first, *others = made.workers
            sent = shares(made, [odd, *[honest] * (count - 1)])
            assert sent[0] <= REQUESTS / count + LATEST
            assert first.health.reason
            assert first.up
            assert not any(one.health.reason for one in others)


async def test_where_all_end_alike_the_quickest_is_free_to_be() -> None:
    for ends in (honest, often_at_fault, unforeseen, at_fault):
        async with half(4, plan_deadline_s=0) as made:
            sent = shares(made, [ends] * 4)
            assert sent[0] > REQUESTS - 6 * LATE
            assert not any(one.health.reason for one in made.workers)


async def test_while_others_have_ended_nothing_it_counts_whether_they_have_begun_any() -> None:
    for begun, ends, out in (
        (False, short, False),
        (False, at_fault, True),
        (True, short, True),
        (True, honest, False),
    ):
        rng = random.Random(1)
        async with half(3, plan_deadline_s=0) as made:
            first, *others = made.workers
            with ExitStack() as watched:
                for one in others:
                    one.load.add("long", Job(70, 300.0), time.monotonic(), streamed=True)
                    heard = watched.enter_context(Watched(one.stall_guard))
                    if begun:
                        heard()
                for _ in range(LATEST):
                    made.workers.evenness.ended(first, ends(rng))
                assert bool(first.health.reason) == out, (begun, ends)


async def test_who_is_alone_is_compared_with_nobody() -> None:
    async with half(1, plan_deadline_s=0) as made:
        assert shares(made, [at_fault]) == [REQUESTS]
        assert not next(iter(made.workers)).health.reason


async def test_those_who_serve_something_else_or_are_down_are_nobody_to_compare_with() -> None:
    for absent in (_down, _elsewhere):
        async with half(3, plan_deadline_s=0) as made:
            first, *others = made.workers
            for one in others:
                absent(made, one)
            for _ in range(LATEST):
                made.workers.evenness.sent(first, MODEL)
                made.workers.evenness.ended(first, 1.0)
            assert not first.health.reason


def _down(made: Half, worker: Worker) -> None:
    made.workers.mark_down(worker, "gone")


def _elsewhere(_: Half, worker: Worker) -> None:
    worker.update_models({"another": {}})


async def test_who_stands_out_stands_back_only_beyond_its_share_and_until_it_does_as_others() -> (
    None
):
    rng = random.Random(1)
    async with half(3, plan_deadline_s=0) as made:
        first, second, third = made.workers
        evenness = made.workers.evenness
        for _ in range(LATEST):
            evenness.ended(first, 1.0)
        assert (bool(first.health.reason), first.health.rank) == (True, 0)
        evenness.sent(first, MODEL)
        assert first.health.rank > 0
        evenness.sent(second, "another model")
        evenness.sent(second, MODEL)
        assert first.health.rank > 0
        evenness.sent(third, MODEL)
        assert first.health.rank == 0
        for _ in range(2 * LATEST):
            for one in made.workers:
                evenness.ended(one, rng.random())
        assert not first.health.reason
        for _ in range(3):
            evenness.sent(first, MODEL)
        assert first.health.rank == 0


async def test_who_comes_back_is_somebody_else() -> None:
    async with half(2, plan_deadline_s=0) as made:
        first, _ = made.workers
        for _ in range(LATEST):
            made.workers.evenness.ended(first, 1.0)
        assert first.health.reason
        made.workers.mark_down(first, "gone")
        first.update_state(state("w0"))
        made.workers._mark_up(first)
        assert (first.health.reason, first.health.rank) == ("", 0)
