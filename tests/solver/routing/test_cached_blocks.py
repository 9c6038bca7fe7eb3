"""What is known of an engine's cache is what the engine has, or less."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.routing import block_places
from solver.routing.cached_blocks import CachedBlocks
from solver.routing.marks import MARKS, Beginnings, Partings, common_marks, hash_ids, hash_text
from solver.routing.prefixes import BLOCK_TOKENS, ID_BYTES, MOST_BLOCKS, TEXT_BYTES
from solver.routing.tiers import Tier

# A prompt: a document and how many tokens of it, and how many follow it.
Prompt = tuple[int, int, int]
PROMPTS = st.tuples(st.integers(0, 3), st.integers(1, 3000), st.integers(8, 800))


def tokens_of(prompt: Prompt, number: int = 0) -> tuple[int, ...]:
    """What follows a document is each one's own."""
    document, shared, own = prompt
    mine = 1000 + hash((prompt, number)) % 1_000_000
    return (*range(document * 10_000_000, document * 10_000_000 + shared), *([mine] * own))


def prompt_of(tokens: tuple[int, ...], tail: int = 0) -> Beginnings:
    """As a router names it, which knows where each token is."""
    ids = b"".join(token.to_bytes(ID_BYTES) for token in tokens)
    return Beginnings(hash_ids(ids).marks, BLOCK_TOKENS, tail)


class Engine:
    """One that keeps blocks of `size` tokens, and tells of them; `reports`: and of those it had."""

    def __init__(self, size: int, cache: CachedBlocks, *, reports: bool = True) -> None:
        self.size, self.cache, self.reports = size, cache, reports
        self.holds: set[int] = set()

    def blocks(self, tokens: tuple[int, ...]) -> list[int]:
        ends = range(self.size, len(tokens) + 1, self.size)
        return [hash(tokens[:end]) & (1 << 60) - 1 for end in ends]

    def serve(self, tokens: tuple[int, ...]) -> None:
        """It is told in two parts, as by chunks."""
        blocks = self.blocks(tokens)
        prompt = prompt_of(tokens, tail=hash(tokens) | 1 << 64)
        had = 0 if self.reports else self.held_tokens(tokens) // self.size
        half = (had + len(blocks)) // 2
        self.holds.update(blocks)
        for begin, end in ((had, half), (half, len(blocks))):
            if begin < end:
                parent = blocks[begin - 1] if begin else None
                self.cache.store(blocks[begin:end], parent, self.size, prompt)

    def drop(self, tokens: tuple[int, ...], keep: int) -> None:
        gone = [block for block in self.blocks(tokens)[keep:] if block in self.holds]
        self.holds.difference_update(gone)
        assert self.cache.remove(gone) <= len(gone)

    def held_tokens(self, tokens: tuple[int, ...]) -> int:
        count = 0
        for block in self.blocks(tokens):
            if block not in self.holds:
                break
            count += 1
        return count * self.size


def known(cache: CachedBlocks, tokens: tuple[int, ...]) -> float:
    return cache.held_tokens(prompt_of(tokens).marks)


SIZES = st.sampled_from((16, 64, 128, 512))
STEPS = st.lists(st.tuples(PROMPTS, st.none() | st.integers(0, 20)), max_size=12)


@given(SIZES, st.booleans(), STEPS, PROMPTS)
def test_what_is_known_is_what_the_engine_has_but_for_what_is_between_two_marks(
    size: int, reports: bool, steps: list[tuple[Prompt, int | None]], asked: Prompt
) -> None:
    """And more only by as much, where two that part there have shown that they share it."""
    cache = CachedBlocks(10**6)
    engine = Engine(size, cache, reports=reports)
    for number, (prompt, keep) in enumerate(steps):
        if keep is None:
            engine.serve(tokens_of(prompt, number))
        else:
            engine.drop(tokens_of(prompt), keep)
    tokens = tokens_of(asked, -1)
    has = engine.held_tokens(tokens)
    assert abs(known(cache, tokens) - has) < size + max(8, has / 64)
    assert len(cache) <= len(engine.holds)


@given(SIZES, PROMPTS)
def test_a_prompt_that_was_served_is_known_up_to_its_last_mark(size: int, prompt: Prompt) -> None:
    cache = CachedBlocks(10**6)
    engine, tokens = Engine(size, cache), tokens_of(prompt)
    engine.serve(tokens)
    marks = [mark * BLOCK_TOKENS for mark in MARKS if mark * BLOCK_TOKENS <= len(tokens)]
    assert known(cache, tokens) == marks[-1] // size * size


def test_marks_are_few_and_close() -> None:
    assert len(MARKS) == 576
    assert MARKS[-1] == MOST_BLOCKS
    assert all((b - a) * 64 <= max(4, a) for a, b in pairwise(MARKS))


@given(st.text(max_size=4000), st.text(max_size=400), st.text(max_size=400))
def test_marks_are_common_up_to_where_prompts_part(head: str, one: str, other: str) -> None:
    texts = [head + one, head + other]
    marks = [hash_text(text).marks for text in texts]
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    alike = next(
        (k for k, (a, b) in enumerate(zip(*data, strict=False)) if a != b),
        min(map(len, data)),
    )
    wanted = sum(mark * TEXT_BYTES <= alike for mark in MARKS)
    assert common_marks(marks[0], marks[1]) == wanted


def test_prompts_of_another_salt_have_no_mark_in_common() -> None:
    text = "what all begin with " * 100
    assert common_marks(hash_text(text, "a").marks, hash_text(text, "b").marks) == 0


def told_of_two(cache: CachedBlocks, *, until: int) -> tuple[Beginnings, ...]:
    """Two whose fourth block of 100 tokens ends behind their last common mark, and a third."""
    document = tuple(range(until))
    prompts = [prompt_of((*document, *[k] * 180), tail=k << 64) for k in (1000, 2000, 3000)]
    for k, one in enumerate(prompts[:2]):
        cache.store([11, 12, 13, 14, 25 + k, 27 + k], None, 100, one)
    return tuple(prompts)


def test_where_two_prompts_part_is_learnt_from_both() -> None:
    cache = CachedBlocks(100)
    first, _, third = told_of_two(cache, until=398)
    assert cache.held_tokens(third.marks) == 400
    assert cache.held_tokens(first.marks) == 500


def test_where_prompts_part_is_remembered_when_nothing_is_left_of_them() -> None:
    partings = Partings()
    cache, another = CachedBlocks(100, partings), CachedBlocks(100, partings)
    told_of_two(cache, until=398)
    cache.remove([11, 12, 13, 14, 25, 26, 27, 28])
    assert len(cache) == 0
    for one in (cache, another):
        first, _, third = (prompt_of((*range(398), *[k] * 180)) for k in (4, 5, 6))
        one.store([11, 12, 13, 14, 35, 36], None, 100, first)
        assert one.held_tokens(third.marks) == 400


def test_no_more_partings_are_remembered_than_may_be() -> None:
    partings = Partings(most=2)
    for k in range(4):
        partings.learn(bytes([k] * 9), 16, k)
    assert [partings.shared(bytes([k] * 9), 16) for k in range(4)] == [None, None, 2, 3]


def test_what_was_taken_to_be_shared_and_is_not_goes_back_to_whom_it_is_of() -> None:
    """By its length the first prompt's fourth block ends before they part: it does not."""
    cache = CachedBlocks(100)
    first, second, third = (prompt_of((*range(420), *[k] * 180)) for k in (1000, 2000, 3000))
    cache.store([11, 12, 13, 14, 15], None, 100, first)
    cache.store([11, 12, 13, 24, 25], None, 100, second)
    assert cache.held_tokens(first.marks) == cache.held_tokens(second.marks) == 500
    assert cache.held_tokens(third.marks) == 300


def test_what_ends_behind_where_the_next_one_parts_is_of_no_third() -> None:
    """By its length all of the first prompt's blocks end before that; they are known again to it
    alone, once it is told of again.
    """
    cache, document = CachedBlocks(100), tuple(range(420))
    first, second, third = (prompt_of((*document, *[k] * 60)) for k in (1000, 2000, 3000))
    dense = Beginnings(first.marks, 2 * first.block_tokens)
    cache.store([11, 12, 13, 14, 15, 16, 17], None, 64, dense)
    cache.store([11, 12, 13, 14, 15, 16, 27], None, 64, second)
    assert cache.held_tokens(third.marks) == 6 * 64
    assert cache.held_tokens(second.marks) == 7 * 64
    cache.store([11, 12, 13, 14, 15, 16, 17], None, 64, dense)
    assert cache.held_tokens(third.marks) == 6 * 64
    assert cache.held_tokens(first.marks) == 7 * 64
    assert len(cache) == 8


def test_of_blocks_that_a_text_has_twice_over_one_kind_is_known() -> None:
    """An engine tells apart what a router does not: it finds either, and no less is predicted."""
    cache, prompt = CachedBlocks(100), prompt_of(tuple(range(600)), tail=7 << 64)
    for blocks in ([11, 12, 13, 14], [21, 22, 23, 24], [11, 12, 13, 14]):
        cache.store(blocks, None, 128, prompt)
        assert cache.held_tokens(prompt.marks) == 4 * 128
    assert len(cache) == 8


def test_what_two_share_behind_a_mark_hides_nothing_of_a_third() -> None:
    """Of all three that begin alike, two go on alike for a block; then each on its own."""
    cache = CachedBlocks(100)
    texts = [(*range(128), *[9] * 4, *[k] * 252) for k in (1, 2)]
    for tokens, blocks in zip(texts, ([11, 12, 13, 14], [11, 12, 13, 15]), strict=True):
        cache.store(blocks, None, 44, prompt_of(tokens))
    third = prompt_of((*range(128), *[8] * 256))
    cache.store([11, 12, 23, 24, 25, 26], None, 44, third)
    assert cache.held_tokens(third.marks) == 6 * 44
    assert cache.held_tokens(prompt_of(texts[0]).marks) == 4 * 44


def test_an_answer_is_known_to_who_goes_on_from_it_alone() -> None:
    cache = CachedBlocks(100)
    prompt = prompt_of(tuple(range(256)), tail=7 << 64)
    cache.store([11, 12, 13, 14], None, 128, prompt)
    assert known(cache, tuple(range(600))) == 256
    assert cache.held_tokens(prompt.marks, prompt.tail) == 512
    cache.remove([12])
    assert cache.held_tokens(prompt.marks, prompt.tail) == 128


def test_who_goes_on_from_an_answer_shares_it_with_others_that_do() -> None:
    """What was behind a prompt's end is in the midst of the next one's text."""
    cache = CachedBlocks(100)
    turn = tuple(range(256))
    cache.store([11, 12, 13, 14], None, 128, prompt_of(turn, tail=7 << 64))
    cache.store([11, 12, 13, 14, 15], None, 128, prompt_of((*turn, *range(500, 900))))
    assert known(cache, (*turn, *range(500, 1200))) == 640
    assert known(cache, (*turn, *range(700, 1200))) == 256


def test_a_tier_saves_what_it_saves() -> None:
    cache = CachedBlocks(100)
    prompt = prompt_of(tuple(range(256)))
    cache.store([11, 12], None, 128, prompt)
    cache.store([11], None, 128, None, Tier.CPU)
    cache.remove([11, 12])
    assert cache.held_tokens(prompt.marks) == 0.9 * 128
    cache.remove([11], Tier.CPU)
    assert (cache.held_tokens(prompt.marks), len(cache)) == (0, 0)


@given(st.integers(1, 60), st.lists(PROMPTS, max_size=20))
def test_it_keeps_no_more_than_it_may(most: int, prompts: list[Prompt]) -> None:
    cache = CachedBlocks(most)
    engine = Engine(16, cache)
    for number, prompt in enumerate(prompts):
        engine.serve(tokens_of(prompt, number))
        assert len(cache) <= most
        assert cache.partial or len(cache) <= len(engine.holds)
    cache.remove(list(engine.holds))
    assert len(cache) == 0
    assert not cache._tree.paths.nodes, "nodes go with their blocks"


@settings(max_examples=30)
@given(SIZES, st.integers(0, 8), STEPS, st.lists(PROMPTS, min_size=1, max_size=4))
def test_many_blocks_are_kept_in_parts_and_known_as_few_are(
    size: int, most: int, steps: list[tuple[Prompt, int | None]], others: list[Prompt]
) -> None:
    """One that is split beyond so many beside one that is not."""

    def after(most_in_one: int) -> tuple[int, list[float]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(block_places, "MOST_IN_ONE", most_in_one)
            cache = CachedBlocks(1000)
            engine = Engine(size, cache)
            for prompt, keep in steps:
                tokens = tokens_of(prompt)
                engine.serve(tokens) if keep is None else engine.drop(tokens, keep)
            return len(cache), [known(cache, tokens_of(prompt)) for prompt in others]

    assert after(most) == after(1000)


def test_a_dictionary_grows_no_larger_than_can_be_copied_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(block_places, "MOST_IN_ONE", 64)
    cache = CachedBlocks(10_000)
    engine = Engine(BLOCK_TOKENS, cache)
    for number in range(100):
        engine.serve(tokens_of((0, 128, 9 * 128), number))
    assert len(cache) == len(engine.holds) == 901
    assert max(map(len, cache._where._parts)) <= 2 * len(cache) / block_places.PARTS


def test_blocks_of_nobody_are_counted_and_not_kept() -> None:
    cache = CachedBlocks(100)
    cache.store([1, 2, 3], None, 16, None)
    cache.store([5], 3, 16, prompt_of(tuple(range(128))))
    assert (len(cache), cache.unknown) == (0, 4)
    assert cache.remove([1, 9]) == 0
