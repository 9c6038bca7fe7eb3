"""Two tenants and more, in virtual time: shares by weight, nobody starves, and how that is told."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from solver.batching.policies import POLICIES
from solver.cost.profiles import PROFILES
from solver.routing.charges import slot_seconds
from solver.routing.dispatchers import FOR_TENANTS, dispatcher
from solver.sim.fairness import fairness
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.report import report
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.bench import bench_tenants

COST = PROFILES["llama-65b-ascend"].cost
WEIGHTS = {"three": 3.0, "one": 1.0}
IDLE_UNTIL_S, BEGIN_S, END_S = 8.0, 6.0, 66.0
SLOTS = 32
RIVALS = ("makespan", "vtc")


def weight(tenant: str) -> float:
    return WEIGHTS.get(tenant, 1.0)


def run(
    name: str,
    requests: Sequence[Request],
    speeds: Sequence[float] = (1.0, 1.0),
    slots: int = SLOTS,
) -> Fleet:
    workers = [
        Worker(f"w{j}", COST.scaled(1 / speed), WorkerSetting(slots), POLICIES["adaptive"]())
        for j, speed in enumerate(speeds)
    ]
    by = dispatcher(name, random.Random(0), weight)
    fleet = Fleet(requests, workers, by, length_forecaster("predicted", 0))
    fleet.run()
    return fleet


def heavy() -> list[Request]:
    """Two that ask for far more than there is, one with short prompts, one with short answers."""
    rng, now = random.Random(1), 0.0
    made = [_one(rng, k, 0.0) for k in range(160)]
    while now < END_S:
        now += rng.expovariate(10.0)
        made.append(_one(rng, len(made), now))
    return made


def _one(rng: random.Random, number: int, at_s: float) -> Request:
    tenant = "three" if number % 2 else "one"
    prompt, output = ((20, 300), (50, 400)) if number % 2 else ((20, 1500), (10, 200))
    return Request(str(number), rng.randint(*prompt), rng.randint(*output), at_s, tenant=tenant)


def late(count: int = 3) -> list[Request]:
    return [
        Request(f"late {k}", 200, 100, IDLE_UNTIL_S + 2.0 * k, tenant="late") for k in range(count)
    ]


@cache
def contended(speeds: tuple[float, ...] = (1.0, 1.0)) -> Fleet:
    return run("makespan", [*heavy(), *late()], speeds)


def spent(fleet: Fleet, until_s: float) -> Mapping[str, float]:
    """Slot-seconds of each until then, by hand: as much of each request as was over."""
    found: dict[str, float] = {}
    cost = fleet.workers[0].cost
    for i, request in enumerate(fleet.requests):
        whole = slot_seconds(cost, SLOTS, request.prompt_tokens, request.output_tokens)
        prompt = slot_seconds(cost, SLOTS, request.prompt_tokens, 0.0)
        begun, first, end = (float(at[i]) for at in (fleet.begun_s, fleet.first_s, fleet.end_s))
        part = prompt * min(1.0, max(0.0, (until_s - begun) / (first - begun)))
        if end > first:
            part += (whole - prompt) * min(1.0, max(0.0, (until_s - first) / (end - first)))
        found[request.tenant] = found.get(request.tenant, 0.0) + part
    return found


@pytest.mark.parametrize("speeds", [(1.0, 1.0), (1.5, 0.5)])
def test_two_that_ask_for_more_than_there_is_get_three_to_one(speeds: tuple[float, ...]) -> None:
    """For 60 s, after those that came first, before anybody's turn, have ended."""
    fleet = contended(speeds)
    before, after = spent(fleet, BEGIN_S), spent(fleet, END_S)
    got = {name: after[name] - before.get(name, 0.0) for name in WEIGHTS}
    assert got["three"] / sum(got.values()) == pytest.approx(0.75, rel=0.05)


crowded = cache(bench_tenants.crowded)


@pytest.mark.parametrize(("heavy", "workers"), [("ab", 1), ("ab", 2), ("a", 2)])
@pytest.mark.parametrize(
    ("slots", "answer_s"), [(64, 5.0), (64, 10.0), (128, 5.0), (128, 10.0), (128, 20.0)]
)
def test_who_was_idle_has_its_first_token_within_a_second(
    slots: int, answer_s: float, heavy: str, workers: int
) -> None:
    """Six slots and more fall free in a second; who is there has lines of tens of seconds."""
    fleet = crowded(slots, answer_s, heavy, workers=workers)
    assert max(map(sum, bench_tenants.waits(fleet))) < 1.0
    arrivals = np.array([request.arrival_s for request in fleet.requests])
    assert float((fleet.first_s - arrivals).max()) > 2.0 * answer_s


@pytest.mark.parametrize(("slots", "answer_s"), [(16, 10.0), (32, 20.0), (64, 20.0)])
def test_where_slots_fall_free_seldom_it_has_the_next_one(slots: int, answer_s: float) -> None:
    """No slot is kept free for it, and nobody's answer is broken off."""
    assert max(after_s for _, after_s in bench_tenants.waits(crowded(slots, answer_s))) < 1.0


@pytest.mark.parametrize(("slots", "answer_s"), [(64, 5.0), (64, 10.0), (128, 10.0)])
def test_others_lose_next_to_nothing_by_it(slots: int, answer_s: float) -> None:
    """All is done as soon as if the same requests were those of who has lines."""
    alike = float(crowded(slots, answer_s, idle="a").end_s.max())
    assert float(crowded(slots, answer_s).end_s.max()) <= 1.01 * alike


def test_shares_cost_next_to_no_time() -> None:
    """The same requests without tenants are done about as soon."""
    named = heavy()[:200]
    plain = run("makespan", [replace(request, tenant="") for request in named])
    assert float(run("makespan", named).end_s.max()) <= 1.03 * float(plain.end_s.max())
    assert report(plain).tenants == {}


def test_rivals_share_tokens_and_ours_shares_time() -> None:
    ours = report(contended(), weight)
    for name in sorted(FOR_TENANTS):
        theirs = report(run(name, [*heavy(), *late()]), weight)
        assert ours.largest_difference_slot_s < theirs.largest_difference_slot_s
        assert ours.makespan_s < 1.03 * theirs.makespan_s
    fifo = report(run("least-requests", [*heavy(), *late()]), weight)
    assert fifo.largest_difference_slot_s > 3 * ours.largest_difference_slot_s
    assert ours.jain_index > 0.98
    assert fifo.jain_index < 0.9


def ten(seed: int, workers: int, slots: int) -> list[Request]:
    """Two heavy tenants and eight light ones, that ask for more than there is, by lot."""
    rng, now = random.Random(seed), 0.0
    prompt, output = rng.choice(((50, 900), (20, 200))), rng.choice(((50, 900), (20, 300)))
    heavy = rng.choice((0.6, 0.75, 0.85))
    takes_s = sum(output) / 2 * COST.decode_s(slots) + slots * COST.prefill_s(sum(prompt) / 2)
    made = list[Request]()
    for k in range(9 * workers * slots):
        now += rng.expovariate(1.6 * workers * slots / takes_s)
        name = rng.choice(("h1", "h2")) if rng.random() < heavy else f"l{rng.randint(1, 8)}"
        sizes = rng.randint(*prompt), rng.randint(*output)
        made.append(Request(str(k), *sizes, now, tenant=name))
    return made


@pytest.mark.parametrize(("workers", "slots"), [(2, 16), (2, 32), (4, 16)])
@pytest.mark.parametrize("seed", range(3))
def test_heavy_ones_and_light_ones_are_no_further_apart_than_by_counting_tokens(
    workers: int, slots: int, seed: int
) -> None:
    """From the first slot on: who comes late begins at what the others have really had."""
    requests = ten(seed, workers, slots)
    ours, theirs = (report(run(name, requests, (1.0,) * workers, slots)) for name in RIVALS)
    assert ours.largest_difference_slot_s <= theirs.largest_difference_slot_s
    assert ours.generation_tokens_per_s >= 0.97 * theirs.generation_tokens_per_s


def conversations(seed: int) -> list[Request]:
    """Two heavy tenants and three light ones; each turn begins with all of the one before."""
    rng, now, made, open_ones = random.Random(seed), 0.0, list[Request](), list[Request]()
    while len(made) < 400:
        now += rng.expovariate(2.5)
        if len(open_ones) > 40 or (open_ones and rng.random() < 0.6):
            last = open_ones.pop(rng.randrange(len(open_ones)))
            name, blocks = last.tenant, last.hash_ids
        else:
            name, blocks = rng.choice(("h1", "h1", "h2", "h2", f"l{rng.randint(1, 3)}")), ()
        more = tuple(len(made) << 8 | k for k in range(rng.randint(2, 6)))
        tokens = 512 * len(blocks + more)
        one = Request(str(len(made)), tokens, rng.randint(20, 120), now, blocks + more, tenant=name)
        made.append(one)
        if len(one.hash_ids) < 20:
            open_ones.append(one)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_prompts_find_their_beginnings_in_long_lines(seed: int) -> None:
    """No less of them than by the rival that goes by that first of all, and shares are kept."""
    setting = WorkerSetting(16, 150_000, prefill_budget=2048, prefix_cache=True)
    found = []
    for name in ("makespan", "dlpm"):
        workers = [Worker(f"w{j}", COST, setting, POLICIES["mixed"]()) for j in range(2)]
        by = dispatcher(name, random.Random(0), weight)
        fleet = Fleet(conversations(seed), workers, by, length_forecaster("predicted", 0))
        fleet.run()
        found.append(report(fleet))
    ours, theirs = found
    assert ours.cache_hit_ratio >= theirs.cache_hit_ratio
    assert ours.generation_tokens_per_s >= 0.99 * theirs.generation_tokens_per_s
    assert ours.largest_difference_slot_s <= theirs.largest_difference_slot_s


def test_services_add_up_and_one_tenant_differs_from_nobody() -> None:
    fleet = contended()
    fair = fairness(fleet, weight)
    by_hand = spent(fleet, float("inf"))
    assert fair.slot_s == pytest.approx(by_hand)
    alone = run("makespan", [Request(str(k), 50, 20, tenant="a") for k in range(30)])
    found = fairness(alone)
    assert found.slot_s.keys() == {"a"}
    assert (found.largest_difference_slot_s, found.jain) == (0.0, 1.0)
