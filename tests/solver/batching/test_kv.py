"""A prefix cache has what fits beside those who run, and counts tokens as they are."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.batching.kv import BLOCK_TOKENS, PrefixCache
from solver.cost.profiles import PROFILES
from solver.sim.request import Request
from tests.solver.sim.drive import Way, simulate

COST = PROFILES["llama-65b-ascend"].cost


def test_a_short_prompt_takes_no_more_than_its_tokens() -> None:
    cache = PrefixCache()
    cache.store((1, 2), 600, 10**9)
    assert cache.tokens == 600
    assert cache.match((1, 2), 600) == 599  # the last one makes the answer
    assert cache.match((1, 2, 3), 1500) == 600
    cache.store((1, 9), 700, 10**9)
    assert cache.tokens == 788  # the first block is shared
    cache.store((5,), 100, 620)
    assert (cache.tokens, cache.match((1, 9), 700)) == (612, 512)  # ends of prompts go first


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 511)), max_size=30))
def test_it_holds_no_more_than_there_is_room_for(prompts: list[tuple[int, int, int]]) -> None:
    cache, rng = PrefixCache(), random.Random(0)
    for start, blocks, less in prompts:
        room = rng.randrange(4000)
        ids = tuple(100 * start + k for k in range(blocks))
        cache.store(ids, blocks * BLOCK_TOKENS - less, room)
        assert 0 <= cache.tokens <= room
        cache.trim(room / 2)
        assert cache.tokens <= room / 2


def test_those_who_run_take_memory_from_the_cache_as_they_grow() -> None:
    """A first prompt stays cached only as long as a second one's answer leaves room for it."""
    first = Request("a", 1024, 1, 0.0, (1, 2))
    grows = Request("b", 100, 900, 5.0, (7,))
    again = Request("c", 1025, 1, 100.0, (1, 2, 3))
    way = Way(COST.to_ms(), 2, kv_tokens=3000, prefix_cache=True)
    assert simulate([first, grows, again], way).report.cache_hit_ratio > 0.4
    tight = simulate([first, grows, again], replace(way, kv_tokens=1400))
    assert tight.report.cache_hit_ratio == 0.0


def test_the_hit_ratio_counts_each_prompt_once() -> None:
    requests = [Request(str(k), 1024, 5, 10.0 * k, (1, 2)) for k in range(4)]
    way = Way(COST.to_ms(), 2, prefix_cache=True)
    report = simulate(requests, way).report
    assert report.cache_hit_ratio == pytest.approx(3 * 1023 / 4096)
    assert simulate(requests, replace(way, prefix_cache=False)).report.cache_hit_ratio == 0.0
    assert report.to_json()["cache_hit_ratio"] == report.cache_hit_ratio
