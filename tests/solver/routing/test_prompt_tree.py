"""Whose an engine's blocks are, where prompts and their blocks do not part at the same place."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.routing import block_places
from solver.routing.cached_blocks import CachedBlocks
from solver.routing.marks import NAME_BYTES, Beginnings, Partings, hash_text
from solver.routing.prefixes import TEXT_BYTES
from solver.routing.tiers import Tier

SIZE = 64
TEXTS = [letter * TEXT_BYTES for letter in "abc"]
# Beginnings of prompts, told in whatever order: blocks, the one before, whose, and where they are.
PROMPTS = st.lists(st.sampled_from(range(3)), min_size=1, max_size=4)
TOLD = st.tuples(
    st.lists(st.integers(0, 11), min_size=1, max_size=8),
    st.none() | st.integers(0, 11),
    PROMPTS,
    st.sampled_from((40.0, 128.0, 300.0)),
    st.sampled_from((Tier.GPU, Tier.DISK)),
)
GONE = st.tuples(st.lists(st.integers(0, 11), max_size=3), st.sampled_from((Tier.GPU, Tier.DISK)))


def named(text: str, tail: int = 0, pace: float = 128.0, salt: str = "") -> Beginnings:
    return Beginnings(hash_text(text, salt).marks, pace, tail | 1 << 64)


@given(st.lists(TOLD | GONE, max_size=12))
def test_a_prompt_that_begins_like_none_that_was_told_of_is_held_by_nobody(
    steps: list[tuple[object, ...]],
) -> None:
    """Whatever was told: an engine may have the same blocks for prompts of different names."""
    cache, fresh = CachedBlocks(1000), named("z" * 2000)
    prompts = list[Beginnings]()
    for number, step in enumerate(steps):
        if len(step) == 2:
            cache.remove(*step)  # type: ignore[arg-type]
        else:
            blocks, parent, of, pace, tier = step
            text = "".join(TEXTS[k] for k in of)  # type: ignore[attr-defined]
            prompts.append(named(text, number, pace))  # type: ignore[arg-type]
            cache.store(blocks, parent, SIZE, prompts[-1], tier)  # type: ignore[arg-type]
        assert cache.held_tokens(fresh.marks) == 0
        for one in prompts:
            assert 0 <= cache.held_tokens(one.marks, one.tail) <= SIZE * len(cache)


@pytest.mark.parametrize("reports", [True, False])
def test_blocks_of_two_prompts_that_share_no_mark_are_each_ones_own(*, reports: bool) -> None:
    """Told in two parts, of the second prompt perhaps only what is new."""
    cache = CachedBlocks(100)
    one, other = named("".join(TEXTS) * 2, 1), named("\n" + "".join(TEXTS) * 2, 2)
    cache.store([1, 2, 3, 4], None, SIZE, one)
    cache.store([1, 2] if reports else [3, 4, 5], None if reports else 2, SIZE, other)
    if reports:
        cache.store([3, 4, 5], 2, SIZE, other)
    assert len(cache) == 5
    assert cache.held_tokens(one.marks) == 4 * SIZE
    assert cache.held_tokens(other.marks) == 5 * SIZE
    assert cache.held_tokens(named("z" * 3000).marks) == 0
    cache.remove([2])
    assert cache.held_tokens(one.marks) == cache.held_tokens(other.marks) == SIZE
    cache.remove([1, 3, 4, 5])
    assert (len(cache), cache._tree.paths.nodes, cache._where.more) == (0, 0, 0)


def test_that_is_not_remembered_either() -> None:
    """What two such prompts have shown says nothing of the next."""
    partings = Partings()
    cache = CachedBlocks(100, partings)
    for k in range(3):
        for salt in "ab":
            blocks = list(range(10 * k, 10 * k + 6))
            cache.store(blocks, None, SIZE, named(f"{k}" * 2000, k, salt=salt))
        cache.remove(blocks)
    cache.store(list(range(100, 106)), None, SIZE, named("x" * 2000, 9))
    assert cache.held_tokens(named("y" * 2000).marks) == 0


def test_what_prompts_share_beyond_what_they_begin_with_alike_is_of_no_third() -> None:
    """Four marks are the same, 32 tokens; two have twenty blocks more, and not by their text."""
    cache, head = CachedBlocks(100), "a" * 112
    for k in range(2):
        cache.store(list(range(20)), None, 16, named(head + f"{k}" * 2000, k))
    assert len(cache) == 20
    for k in range(2):
        assert cache.held_tokens(named(head + f"{k}" * 2000).marks) == 320
    assert cache.held_tokens(named(head + "2" * 2000).marks) <= 2 * 40


def test_what_a_template_puts_before_all_prompts_outlives_none_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its block is never evicted; of prompts that are, nothing is left to keep later ones out."""
    monkeypatch.setattr(block_places, "MOST_OF_FIRST", 1 << 9)
    cache, most = CachedBlocks(10**6), 1 << 10
    for k in range(most):
        text, own = f"{k:028d}" * 40, [10 * k + 1, 10 * k + 2]
        cache.store([0, *own], None, 128, named(text, k))
        assert (cache.held_tokens(named(text).marks), cache.partial) == (2 * 128, False)
        if k % 3:
            cache.remove(reversed(own))
            assert cache.held_tokens(named(text).marks) == 0
    assert cache._where.more < most / 2


def test_what_a_template_puts_before_all_prompts_may_be_many_prompts() -> None:
    """All of them are known, each behind that."""
    cache, prompts = CachedBlocks(10**6), [named(f"{k:028d}" * 40, k) for k in range(3000)]
    for k, prompt in enumerate(prompts):
        cache.store([0, 10 * k + 1, 10 * k + 2], None, 128, prompt)
    assert {cache.held_tokens(one.marks) for one in prompts} == {2 * 128}
    assert not cache.partial
    cache.remove([0])
    assert not any(cache.held_tokens(one.marks) for one in prompts)


def test_a_block_of_more_prompts_than_can_be_gone_through_is_not_all_of_theirs() -> None:
    cache, most = CachedBlocks(10**6), 2 * block_places.MOST_NODES
    blocks = list(range(8))
    for k in range(most):
        cache.store(blocks, None, 64, named(f"{k:028d}" * 80, k))
    assert (cache.partial, len(cache)) == (True, 8)
    assert cache._where.more <= block_places.MOST_NODES * 4 + block_places.MOST_OF_FIRST * 4
    assert cache.remove(blocks) == 8
    assert not cache._tree.paths.nodes


class Tokenizer:
    """Words of a text, of so many letters a token as each letter has; a template's before it."""

    def __init__(self, rng: random.Random, header: int) -> None:
        self._letters = {one: rng.choice((1, 2, 3, 4, 6, 8)) for one in "abcdefgh0123456789 "}
        self._header = header

    def tokens(self, text: str) -> tuple[object, ...]:
        found: list[object] = list(range(self._header))
        text, at = text.strip(), 0
        while at < len(text):
            length = self._letters[text[at]]
            found.append(text[at : at + length])
            at += length
        return tuple(found)


def dialogue(rng: random.Random, size: int) -> tuple[CachedBlocks, set[int], float, float]:
    """An engine's blocks after requests that begin alike, part, end early, and are evicted.

    What is kept, what it holds; and in sum what was predicted of each prompt, and found.
    """
    tokenizer, cache, holds = Tokenizer(rng, rng.choice((0, 5, 40))), CachedBlocks(10**6), set()
    words = [rng.choice("abcdefgh") * rng.randint(1, 9) + f"{k} " for k in range(60)]
    documents = ["".join(rng.choices(words, k=rng.randint(30, 500))) for _ in range(4)]
    predicted = found = 0.0
    for number in range(40):
        text = rng.choice(documents)[: rng.choice((10**6, 900))]
        text += "".join(rng.choices(words, k=rng.randint(0, 150)))
        tokens = tokenizer.tokens(text)
        blocks = [hash(tokens[:end]) >> 4 for end in range(size, len(tokens) + 1, size)]
        pace = len(tokens) / len(text) * TEXT_BYTES * rng.uniform(0.9, 1.1)
        prompt = named(text, number, pace)
        predicted += cache.held_tokens(prompt.marks)
        found += size * next((k for k, one in enumerate(blocks) if one not in holds), len(blocks))
        half = rng.randint(0, len(blocks))
        for begin, end in ((0, half), (half, len(blocks))):
            if begin < end:
                before = blocks[begin - 1] if begin else None
                cache.store(blocks[begin:end], before, size, prompt)
        holds.update(blocks)
        if rng.random() < 0.3:
            gone = [one for one in blocks[rng.randint(0, len(blocks)) :] if one in holds]
            cache.remove(reversed(gone))
            holds.difference_update(gone)
    return cache, holds, predicted, found


@pytest.mark.parametrize("size", [16, 64, 128])
def test_all_that_an_honest_engine_tells_is_known_however_dense_its_texts_are(size: int) -> None:
    predicted = found = 0.0
    for seed in range(6):
        cache, holds, one, other = dialogue(random.Random(seed), size)
        assert (len(cache), cache.partial) == (len(holds), False)
        predicted, found = predicted + one, found + other
    # Of a template's tokens before all prompts none is predicted of a new one: 32 of some 1,000.
    assert predicted == pytest.approx(found, rel=0.05)


def test_each_answer_to_a_prompt_is_kept() -> None:
    """One of them is found by who goes on from it; the others are there, too."""
    cache, prompt = CachedBlocks(100), named("a" * TEXT_BYTES, 7)
    cache.store([1, 2], None, SIZE, prompt)
    for answer in ([3, 4], [13, 14], [23, 24]):
        cache.store(answer[:1], 2, SIZE, prompt)
        cache.store(answer[1:], answer[0], SIZE, prompt)
    assert (len(cache), cache.partial) == (8, False)
    assert cache.held_tokens(prompt.marks) == 2 * SIZE
    assert cache.held_tokens(prompt.marks, prompt.tail) == 4 * SIZE


def test_tiers_count_what_is_there_where_prompts_overlap() -> None:
    """What the first has behind the last common mark is not the second's, which has its own."""
    text = "".join(random.Random(1).choices("abcdefghij ", k=3000))
    cache = CachedBlocks(100)
    one, other = named(text[:1400]), named(text[:900] + text[2000:2500])
    cache.store([1, 2, 3, 4, 5, 6, 7, 8], None, 32, one, Tier.DISK)
    cache.store([1, 2, 3, 4, 5, 6, 21, 22, 23], None, 32, other, Tier.DISK)
    assert cache.held_tokens(other.marks) == 0.5 * 9 * 32


SHAPES = {"long prompts, one block": (576, 1, 1), "evicted to one": (64, 1, 8),
          "four blocks": (64, 4, 4), "fifty blocks": (100, 50, 50)}  # fmt: skip


@pytest.mark.parametrize(("marks", "kept", "told"), SHAPES.values(), ids=SHAPES.keys())
def test_memory_is_bounded_whatever_prompts_are_like(marks: int, kept: int, told: int) -> None:
    """In bytes of each block that may be kept: what is between them counts, too."""
    most, rng = 10_000, random.Random(1)
    tracemalloc.start()
    try:
        cache = CachedBlocks(most)
        for first in range(0, told * (2 * most // kept), told):
            prompt = Beginnings(rng.randbytes(NAME_BYTES * marks), 128.0, first)
            cache.store(range(first, first + told), None, 16 if told > 8 else 128, prompt)
            cache.remove(range(first + told - 1, first + kept - 1, -1))
        assert cache.partial
        assert len(cache) >= most * kept / (kept + 4) * 0.99
        assert tracemalloc.get_traced_memory()[0] / most < 160
    finally:
        tracemalloc.stop()
