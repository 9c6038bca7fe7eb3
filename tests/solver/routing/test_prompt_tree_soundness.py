"""A tree of prompts holds together, and takes little time, whatever an engine tells."""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.routing.block_tree import Node
from solver.routing.cached_blocks import CachedBlocks
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings, hash_text
from solver.routing.prefixes import TEXT_BYTES
from solver.routing.tiers import Tier

SIZE, BLOCKS = 16, 24
TIERS = st.sampled_from((Tier.GPU, Tier.GPU, Tier.DISK))
PROMPTS = st.tuples(
    st.text("ab", min_size=1, max_size=4), st.sampled_from((1.0, 40.0, 128.0, 448.0))
)
RUNS = st.builds(lambda first, count: [*range(first, first + count)], *[st.integers(0, BLOCKS)] * 2)
TOLD = st.tuples(
    RUNS | st.lists(st.integers(0, BLOCKS), max_size=8),
    st.none() | st.integers(0, BLOCKS),
    st.none() | PROMPTS,
    TIERS,
)
GONE = st.tuples(st.lists(st.integers(0, 2 * BLOCKS), max_size=6), TIERS)


def named(text: str, pace: float = 128.0) -> Beginnings:
    text = "".join(letter * (TEXT_BYTES // 2) for letter in text + "zz")
    return Beginnings(hash_text(text).marks, pace, len(text) | 1 << 64)


def nodes_of(cache: CachedBlocks) -> list[Node]:
    found = [cache._tree.paths._root]
    for node in found:
        for key, child in (node.children or {}).items():
            assert (child.key, child.parent) == (key, node)
            found.append(child)
    return found


def check(cache: CachedBlocks) -> None:
    """What nodes have is where it is said to be, and nothing is there for nothing."""
    root, *nodes = nodes_of(cache)
    assert root.holes.count == sum(node.missing for node in nodes)
    assert all(node.missing == node.blocks.count(None) for node in (root, *nodes))
    used = [root]
    while (node := used[-1].newer) is not root:
        assert node.older is used[-1]
        used.append(node)
    assert set(used) == {root, *nodes}
    assert len(used) == 1 + len(nodes)
    where, at = cache._where, defaultdict[int, set[Node]](set)
    for node in (root, *nodes):
        for block in node.blocks:
            if block is not None:
                assert node not in at[block]
                at[block].add(node)
        assert node.missing == node.blocks.count(None)
        assert not node.blocks or node.blocks[-1] is not None
    assert all(node.blocks or node.children for node in nodes)
    assert len(nodes) == cache._tree.paths.nodes
    for block, its in at.items():
        assert {node for node in its if where.is_at(block, node)} == its
    assert len(where) == len(at)
    assert where.more == sum(map(len, at.values())) - len(at)
    assert set(cache._tiers) <= set(at)


@settings(max_examples=150)
@given(st.sampled_from((12, 1000)), st.lists(TOLD | GONE, max_size=25))
def test_nodes_and_blocks_agree_after_all_that_is_told(
    most: int, steps: list[tuple[object, ...]]
) -> None:
    cache = CachedBlocks(most)
    for step in steps:
        if len(step) == 2:
            cache.remove(*step)  # type: ignore[arg-type]
        else:
            blocks, parent, prompt, tier = step
            whose = None if prompt is None else named(*prompt)  # type: ignore[misc]
            cache.store(blocks, parent, SIZE, whose, tier)  # type: ignore[arg-type]
        check(cache)
    for tier in Tier:
        cache.remove(range(3 * BLOCKS), tier)
    check(cache)
    assert (len(cache), cache._tree.paths.nodes) == (0, 0)


# What an engine may tell: blocks of prompts of random names, and how many blocks were gone through.
Shape = Callable[[CachedBlocks, random.Random], int]


def unlike(rng: random.Random, number: int) -> Beginnings:
    """A long prompt that begins like no other."""
    return Beginnings(rng.randbytes(NAME_BYTES * len(MARKS)), 128.0, number | 1 << 64)


def all_of_many_prompts(cache: CachedBlocks, rng: random.Random) -> int:
    blocks = range(800)
    for number in range(24):
        prompt = unlike(rng, number)
        for first in range(0, len(blocks), 400):
            before = first - 1 if first else None
            cache.store(blocks[first : first + 400], before, SIZE, prompt)
    return 24 * len(blocks)


def far_behind_what_another_prompt_has(cache: CachedBlocks, rng: random.Random) -> int:
    blocks = range(800)
    cache.store(blocks, None, SIZE, unlike(rng, 0))
    for number in range(1, 24):
        cache.store([10_000 + number], blocks[-1], SIZE, unlike(rng, number))
    return len(blocks) + 23 + cache.take_copied()


def one_first_block_of_all(cache: CachedBlocks, rng: random.Random) -> int:
    for number in range(1500):
        cache.store([0, 2 * number + 1, 2 * number + 2], None, SIZE, unlike(rng, number))
    return 3 * 1500


def many_answers(cache: CachedBlocks, rng: random.Random) -> int:
    prompt = Beginnings(rng.randbytes(NAME_BYTES), 128.0, 7 | 1 << 64)
    cache.store([0], None, SIZE, prompt)
    for number in range(1500):
        cache.store([number + 1], 0, SIZE, prompt)
    return 1501


def prompts_that_part_everywhere(cache: CachedBlocks, rng: random.Random) -> int:
    names = unlike(rng, 0).marks
    for number in range(50):
        marks = names[: NAME_BYTES * (1 + 3 * number)] + rng.randbytes(NAME_BYTES * 60)
        own = range(1000 * number, 1000 * number + 90)
        cache.store([*range(8 * number), *own], None, SIZE, Beginnings(marks, 128.0, number))
    return sum(8 * number + 90 for number in range(50))


def steps_of(shape: Shape) -> float:
    """Calls in all, of functions and of what Python has built in, for each block."""
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    cache, before = CachedBlocks(1 << 20), sys.getprofile()
    sys.setprofile(count)
    try:
        blocks = shape(cache, random.Random(1))
    finally:
        sys.setprofile(before)
    return calls / blocks


@pytest.mark.parametrize(
    "shape",
    [
        all_of_many_prompts,
        far_behind_what_another_prompt_has,
        one_first_block_of_all,
        many_answers,
        prompts_that_part_everywhere,
    ],
)
def test_a_block_takes_a_bounded_number_of_steps(shape: Shape) -> None:
    assert steps_of(shape) < 120


def test_what_is_too_far_behind_another_prompts_blocks_is_not_copied() -> None:
    rng = random.Random(1)
    cache, whose = CachedBlocks(1 << 20), Beginnings(rng.randbytes(NAME_BYTES * 576), 448.0)
    cache.store(range(20_000), None, 1, whose)
    cache.take_copied()
    cache.store([30_000], 11_000, 1, unlike(rng, 1))
    assert (cache.take_copied(), cache.partial) == (0, True)


def removal_s(order: list[int]) -> float:
    """CPU time of taking a long prompt's blocks in this order, the least of some."""
    times = list[float]()
    for _ in range(5):
        cache = CachedBlocks(1 << 20)
        cache.store(range(len(order)), None, SIZE, unlike(random.Random(1), 1))
        began = time.process_time()
        cache.remove(order)
        times.append(time.process_time() - began)
        assert not len(cache)
    return min(times)


def test_the_oldest_go_as_fast_as_the_latest() -> None:
    """Of many that are kept the oldest are found in parts, each of which is in order."""
    count, parts = 2400, 16
    last_first = list(range(count))[::-1]
    in_parts = [block for part in range(parts) for block in range(part, count, parts)]
    assert removal_s(in_parts) < 8 * removal_s(last_first)


def test_places_of_missing_blocks_are_bounded_with_the_blocks() -> None:
    """Of each of many long prompts only the first block and the last are left."""
    rng, cache, told = random.Random(1), CachedBlocks(2000), 1500
    tracemalloc.start()
    try:
        for number in range(100):
            first = told * number
            cache.store(range(first, first + told), None, SIZE, unlike(rng, number))
            cache.remove(range(first + 1, first + told - 1))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert cache.partial
    assert held < 2000 * 150 + 50_000
    check(cache)


def test_what_follows_missing_blocks_takes_no_room() -> None:
    """Of more prompts than may have them all, each tells of one block far behind another's."""
    rng, cache, far = random.Random(1), CachedBlocks(1 << 20), 3000
    cache.store(range(far), None, SIZE, unlike(rng, 0))
    tracemalloc.start()
    try:
        for number in range(1, 200):
            cache.store([10_000 + number], far - 1, SIZE, unlike(rng, number))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    copies = cache._where.more
    assert cache.partial
    assert held < 70 * copies + 1000 * 200
    cache.remove([*range(far), *range(10_000, 10_200)])
    assert (len(cache), cache._tree.paths.nodes) == (0, 0)
