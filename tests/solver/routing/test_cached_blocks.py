"""What is known of an engine's cache is what the engine has, or less."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.routing import cached_blocks
from solver.routing.cached_blocks import MARKS, Beginnings, CachedBlocks, Tier, marks_of
from solver.routing.prefixes import BLOCK_TOKENS, MOST_BLOCKS

# A prompt: a document and how much of it, and what follows it, in a router's blocks.
Prompt = tuple[int, int, int]
PROMPTS = st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(0, 6))
# Those that part between two marks are another matter.
SHORT = st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(0, 4))


def chain(prompt: Prompt, number: int = 0) -> tuple[int, ...]:
    """The hashes of its blocks, which tell of all before them; what follows is its own."""
    document, blocks, own = prompt
    shared = [hash(("doc", document, k)) & (1 << 64) - 1 for k in range(blocks)]
    return (*shared, *(hash(("own", prompt, number, k)) & (1 << 64) - 1 for k in range(own)))


class Engine:
    """One that keeps blocks of `size` tokens by the text that they end with, and tells of them."""

    def __init__(self, size: int, cache: CachedBlocks) -> None:
        self.size, self.cache = size, cache
        self.holds: set[int] = set()

    def blocks(self, text: tuple[int, ...]) -> list[int]:
        count = len(text) * BLOCK_TOKENS // self.size
        ends = (-(-(k + 1) * self.size // BLOCK_TOKENS) for k in range(count))
        return [hash((text[:end], k)) & (1 << 60) - 1 for k, end in enumerate(ends)]

    def serve(self, text: tuple[int, ...]) -> None:
        """All of it is told, what it had as well, in two parts as by chunks."""
        blocks = self.blocks(text)
        prompt = Beginnings(marks_of(text), BLOCK_TOKENS, tail=hash(text) | 1 << 64)
        half = len(blocks) // 2
        self.holds.update(blocks)
        self.cache.store(blocks[:half], None, self.size, prompt)
        if blocks[half:]:
            parent = blocks[half - 1] if half else None
            self.cache.store(blocks[half:], parent, self.size, prompt)

    def drop(self, text: tuple[int, ...], keep: int) -> None:
        gone = [block for block in self.blocks(text)[keep:] if block in self.holds]
        self.holds.difference_update(gone)
        assert self.cache.remove(gone) <= len(gone)

    def held_tokens(self, text: tuple[int, ...]) -> int:
        count = 0
        for block in self.blocks(text):
            if block not in self.holds:
                break
            count += 1
        return count * self.size


def known(cache: CachedBlocks, text: tuple[int, ...]) -> float:
    return cache.held_tokens(marks_of(text))


SIZES = st.sampled_from((16, 64, 128, 512))
STEPS = st.lists(st.tuples(SHORT, st.none() | st.integers(0, 20)), max_size=12)


@given(SIZES, STEPS, SHORT)
def test_never_more_is_known_than_the_engine_has(
    size: int, steps: list[tuple[Prompt, int | None]], asked: Prompt
) -> None:
    cache = CachedBlocks(10**6)
    engine = Engine(size, cache)
    for number, (prompt, keep) in enumerate(steps):
        text = chain(prompt, number)
        if keep is None:
            engine.serve(text)
        else:
            engine.drop(chain(prompt), keep)
    text = chain(asked, -1)
    assert known(cache, text) <= engine.held_tokens(text)
    assert len(cache) <= len(engine.holds)


@given(SIZES, PROMPTS)
def test_a_prompt_that_was_served_is_known_up_to_its_last_mark(size: int, prompt: Prompt) -> None:
    cache = CachedBlocks(10**6)
    engine, text = Engine(size, cache), chain(prompt)
    engine.serve(text)
    last = max(mark for mark in MARKS if mark <= len(text))
    assert known(cache, text) == last * BLOCK_TOKENS // size * size


def test_marks_are_few_and_close() -> None:
    assert len(MARKS) == 64
    assert MARKS[-1] == MOST_BLOCKS
    assert all((b - a) * 8 <= max(8, a) for a, b in pairwise(MARKS))


def test_where_two_prompts_part_is_learnt_from_both() -> None:
    """Their fourth block of 100 tokens ends within the fourth of the text, which they share."""
    cache = CachedBlocks(100)
    first, second = (Beginnings((1, 2, 3, last), 128.0, last << 64) for last in (4, 5))
    cache.store([11, 12, 13, 14], None, 100, first)
    assert cache.held_tokens((1, 2, 3, 6)) == 300
    cache.store([11, 12, 13, 14], None, 100, second)
    assert cache.held_tokens((1, 2, 3, 6)) == 400


def test_what_two_share_behind_a_mark_hides_nothing_of_a_third() -> None:
    """Of all three that begin alike, two go on alike for a block; then each on its own."""
    cache = CachedBlocks(100)
    for mark, blocks in ((4, [11, 12, 13, 14, 15]), (5, [11, 12, 13, 14, 16])):
        cache.store(blocks, None, 64, Beginnings((1, mark, 10 * mark), 128.0, mark << 64))
    third = Beginnings((1, 6, 60), 128.0, 6 << 64)
    cache.store([11, 12, 23, 24, 25, 26], None, 64, third)
    assert cache.held_tokens(third.marks) == 6 * 64
    assert cache.held_tokens((1, 4, 40)) == 5 * 64


def test_an_answer_is_known_to_who_goes_on_from_it_alone() -> None:
    cache = CachedBlocks(100)
    prompt = Beginnings((1, 2), 128.0, tail=7 << 64)
    cache.store([11, 12, 13, 14], None, 128, prompt)
    assert cache.held_tokens((1, 2, 3, 4)) == 256
    assert cache.held_tokens((1, 2), 7 << 64) == 512
    cache.remove([12])
    assert cache.held_tokens((1, 2), 7 << 64) == 128


def test_a_tier_saves_what_it_saves() -> None:
    cache = CachedBlocks(100)
    prompt = Beginnings((1, 2), 128.0)
    cache.store([11, 12], None, 128, prompt)
    cache.store([11], None, 128, None, Tier.CPU)
    cache.remove([11, 12])
    assert cache.held_tokens((1, 2)) == 0.9 * 128
    cache.remove([11], Tier.CPU)
    assert (cache.held_tokens((1, 2)), len(cache)) == (0, 0)


@given(st.integers(1, 60), st.lists(PROMPTS, max_size=20))
def test_it_keeps_no_more_than_it_may(most: int, prompts: list[Prompt]) -> None:
    cache = CachedBlocks(most)
    engine = Engine(16, cache)
    for number, prompt in enumerate(prompts):
        engine.serve(chain(prompt, number))
        assert len(cache) <= most
        assert cache.overflowed or len(cache) <= len(engine.holds)
    cache.remove(list(engine.holds))
    assert len(cache) == 0
    assert not cache._nodes, "marks go with their blocks"


@settings(max_examples=30)
@given(SIZES, st.integers(0, 8), STEPS, st.lists(PROMPTS, min_size=1, max_size=4))
def test_many_blocks_are_kept_in_parts_and_known_as_few_are(
    size: int, most: int, steps: list[tuple[Prompt, int | None]], others: list[Prompt]
) -> None:
    """One that is split beyond so many beside one that is not."""

    def after(most_in_one: int) -> tuple[int, list[float]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cached_blocks, "MOST_IN_ONE", most_in_one)
            cache = CachedBlocks(1000)
            engine = Engine(size, cache)
            for prompt, keep in steps:
                text = chain(prompt)
                engine.serve(text) if keep is None else engine.drop(text, keep)
            return len(cache), [known(cache, chain(prompt)) for prompt in others]

    assert after(most) == after(1000)


def test_a_dictionary_grows_no_larger_than_can_be_copied_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cached_blocks, "MOST_IN_ONE", 64)
    cache = CachedBlocks(10_000)
    engine = Engine(BLOCK_TOKENS, cache)
    for number in range(100):
        engine.serve(chain((0, 1, 9), number))
    assert len(cache) == len(engine.holds) == 901
    assert max(map(len, cache._where._parts)) <= 2 * len(cache) / cached_blocks.PARTS


def test_blocks_of_nobody_are_counted_and_not_kept() -> None:
    cache = CachedBlocks(100)
    cache.store([1, 2, 3], None, 16, None)
    cache.store([5], 3, 16, Beginnings((1,), 128.0))
    assert (len(cache), cache.unknown) == (0, 4)
    assert cache.remove([1, 9]) == 0
