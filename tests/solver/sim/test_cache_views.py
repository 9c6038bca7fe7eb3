"""What dispatchers know of caches: all at once, what was sent, or what was so at the last look."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from solver.batching.kv import PrefixCache
from solver.cost.profiles import PROFILES
from solver.errors import ProblemError
from solver.sim.cache_views import CacheView, cache_view
from solver.sim.workload import mooncake
from tests.solver.sim.drive import Way, simulate

ROOM = 10_000.0


def view(knowledge: str) -> tuple[PrefixCache, CacheView]:
    cache = PrefixCache()
    return cache, cache_view(knowledge, cache, lambda: ROOM)


def test_exact_is_what_the_cache_holds_now() -> None:
    cache, exact = view("exact")
    exact.sent((1, 2), 1024)
    assert exact.match((1, 2, 3), 1500, 0.0) == 1024, "it is on its way"
    exact.prefilled((1, 2))
    assert exact.match((1, 2, 3), 1500, 0.0) == 0
    cache.store((1, 2), 1024, ROOM)
    assert exact.match((1, 2, 3), 1500, 0.0) == 1024
    cache.trim(0)
    assert exact.match((1, 2, 3), 1500, 0.0) == 0


def test_estimated_is_what_was_sent_while_there_is_room() -> None:
    cache, estimated = view("estimated")
    estimated.sent((1, 2), 1024)
    assert estimated.match((1, 2, 3), 1500, 0.0) == 1024
    cache.trim(0)
    assert estimated.match((1, 2, 3), 1500, 0.0) == 1024, "nobody tells of evictions"
    estimated.sent(tuple(range(10, 29)), 19 * 512)
    assert estimated.match((1, 2, 3), 1500, 0.0) == 0, "there is no room for both"


def test_stale_is_what_was_so_at_the_last_look() -> None:
    cache, stale = view("stale:5")
    assert stale.match((1,), 600, 0.0) == 0
    cache.store((1,), 512, ROOM)
    assert stale.match((1, 2), 600, 4.9) == 0
    assert stale.match((1, 2), 600, 5.0) == 512
    cache.trim(0)
    assert stale.match((1, 2), 600, 9.9) == 512
    assert stale.match((1, 2), 600, 11.0) == 0


@pytest.mark.parametrize(
    "knowledge", ["", "none", "stale", "stale:", "stale:0", "stale:-1", "stale:inf"]
)
def test_no_such_knowledge(knowledge: str) -> None:
    with pytest.raises(ProblemError, match="exact, estimated or stale:SECONDS"):
        view(knowledge)


@pytest.mark.parametrize("dispatch", ["makespan", "prefix-aware"])
def test_all_requests_end_whatever_is_known_and_who_knows_finds_as_much(dispatch: str) -> None:
    requests = [replace(one, arrival_s=9 * one.arrival_s) for one in mooncake(40, random.Random(3))]
    cost = PROFILES["llama-2-70b-a100-tp4"].cost.to_ms()
    way = Way(cost, 32, kv_tokens=400_000, prefix_cache=True, workers=3, dispatch=dispatch)
    ratios = {
        knowledge: simulate(
            requests, replace(way, cache_knowledge=knowledge)
        ).report.cache_hit_ratio
        for knowledge in ("exact", "estimated", "stale:30")
    }
    assert ratios["exact"] >= ratios["stale:30"] > 0
    assert ratios["exact"] >= 0.95 * ratios["estimated"]
