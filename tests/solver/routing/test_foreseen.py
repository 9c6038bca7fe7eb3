"""What prompts on their way will bring and push out is known before their engine tells of it."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.routing.cached_blocks import CachedBlocks
from solver.routing.ends import Ends
from solver.routing.foreseen import MOST_UNTOLD, Coming, Foreseen
from solver.routing.marks import Beginnings, hash_ids
from solver.routing.prefixes import BLOCK_TOKENS, ID_BYTES

SIZE = 16
Tokens = tuple[int, ...]
Do = Callable[[], object]


def prompt_of(tokens: Tokens) -> Beginnings:
    ids = b"".join(token.to_bytes(ID_BYTES) for token in tokens)
    return Beginnings(hash_ids(ids).marks, BLOCK_TOKENS, hash(tokens) | 1 << 64)


class Pool:
    """So many blocks of memory, as vLLM has them: free ones stay cached until they are taken.

    Who runs holds its blocks; those that it leaves are the last to be taken, its end first, and
    the one that is not full before all others.
    """

    def __init__(self, blocks: int) -> None:
        self._numbers = count()
        self._free: OrderedDict[int, int | None] = OrderedDict()  # by number: what is cached there
        for _ in range(blocks):
            self._free[next(self._numbers)] = None
        self._held: dict[int, int] = {}  # what is cached, by how many run with it
        self._left: dict[int, int] = {}  # what is cached, and free: where

    def admit(self, tokens: Tokens) -> tuple[int, list[int], list[int]]:
        """How many blocks are found, which are pushed out, and all the prompt's."""
        names = [hash(tokens[:end]) & (1 << 60) - 1 for end in range(SIZE, len(tokens) + 1, SIZE)]
        most, found, gone = (len(tokens) - 1) // SIZE, 0, list[int]()
        while found < most and (names[found] in self._held or names[found] in self._left):
            found += 1
        for name in names[:found]:
            if (at := self._left.pop(name, None)) is not None:
                del self._free[at]
            self._held[name] = self._held.get(name, 0) + 1
        rest: list[int | None] = [*names[found:], None]
        for cached in rest:  # the last is not full
            _, was = self._free.popitem(last=False)
            if was is not None:
                del self._left[was]
                gone.append(was)
            if cached is not None:
                self._held[cached] = self._held.get(cached, 0) + 1
        return found, gone, names

    @property
    def cached(self) -> set[int]:
        return {*self._held, *self._left}

    def end(self, names: list[int]) -> None:
        number = next(self._numbers)
        self._free[number] = None
        self._free.move_to_end(number, last=False)
        for name in reversed(names):
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]
                self._left[name] = number = next(self._numbers)
                self._free[number] = name


class Router:
    """It sends to an engine of so many blocks that takes a prompt when `queue` others are sent.

    The engine's first token comes then, `late` prompts before what it tells.
    """

    def __init__(self, blocks: int, queue: int, late: int, running: int = 3) -> None:
        self.pool, self.cache, self.room = Pool(blocks), CachedBlocks(1 << 20), blocks * SIZE
        self.queue, self.late, self.running = queue, late, running
        self.sent, self.runs = (
            deque[tuple[Tokens, Coming, float, float]](),
            deque[tuple[Tokens, Coming]](),
        )
        self.told = deque[tuple[Tokens, int, list[int], list[int]]]()
        self.names: dict[Tokens, list[int]] = {}
        self.missed = self.blind = self.found = 0.0

    def send(self, tokens: Tokens) -> None:
        prompt = prompt_of(tokens)
        foreseen = self.cache.held_tokens(prompt.marks, None, BLOCK_TOKENS, self.room)
        known = self.cache.held_tokens(prompt.marks)
        coming = self.cache.expect(prompt, len(tokens), self.room, sure=True)
        self.sent.append((tokens, coming, foreseen, known))
        if len(self.sent) > self.queue:
            self._admit(*self.sent.popleft())
        if len(self.told) > self.late:
            self._tell(*self.told.popleft())

    def _admit(self, tokens: Tokens, coming: Coming, foreseen: float, known: float) -> None:
        if len(self.runs) == self.running:
            self._end(*self.runs.popleft())
        found, gone, names = self.pool.admit(tokens)
        self.names[tokens] = names
        self.runs.append((tokens, coming))
        self.told.append((tokens, found, gone, names))
        self.cache.foreseen.begun(coming)
        self.found += found * SIZE
        self.missed += abs(foreseen - found * SIZE)
        self.blind += abs(known - found * SIZE)

    def _end(self, tokens: Tokens, coming: Coming) -> None:
        self.pool.end(self.names.pop(tokens))
        self.cache.left(coming)

    def _tell(self, tokens: Tokens, found: int, gone: list[int], names: list[int]) -> None:
        prompt = prompt_of(tokens)
        if found:
            self.cache.store(names[:found], None, SIZE, prompt)
        self.cache.remove(gone)
        self.cache.store(names[found:], names[found - 1] if found else None, SIZE, prompt)


def prompts(seed: int) -> Iterator[Tokens]:
    """Of twelve documents, each followed by something of its own."""
    rng, own = random.Random(seed), count(1 << 20)
    documents = [
        (document,) * 8 + tuple(rng.choices(range(1, 50_000), k=rng.randrange(200, 400)))
        for document in range(12)
    ]
    while True:
        yield *rng.choice(documents), *([next(own)] * rng.randrange(20, 120))


@pytest.mark.parametrize(
    ("queue", "late", "share"),
    [(0, 0, 0.0), (1, 0, 0.04), (3, 0, 0.04), (0, 2, 0.04), (2, 2, 0.04), (0, 12, 0.3)],
)
def test_what_is_found_was_foreseen_when_it_was_sent(queue: int, late: int, share: float) -> None:
    """Memory for some six prompts, three of which run; only one router sends."""
    router = Router(blocks=128, queue=queue, late=late)
    for _, tokens in zip(range(600), prompts(seed=queue), strict=False):
        router.send(tokens)
    assert router.found > 0
    assert router.missed <= share * router.found
    if queue or late:
        assert router.blind > 3 * router.missed, "what is known by events alone is too late"


class Gateways:
    """Two that send to one engine, each told by the other of what it sends: lines may be late.

    So may the engine's events, for each by itself: by how many sends at most say `lines`, `events`
    and `ends`, lines of requests that have ended. These end in any order, or, if all make as many
    tokens, in the order in which the engine took them in; `told`: how many is told.
    """

    def __init__(
        self,
        seed: int,
        lines: int,
        events: int,
        ends: int = 0,
        *,
        alike: bool = False,
        told: int = 0,
    ) -> None:
        self.rng, self.late = random.Random(seed), [lines, events, ends]
        self.alike, self.told = alike, told
        self.pool, self.room = Pool(128), 128 * SIZE
        self.caches = [CachedBlocks(1 << 20) for _ in range(2)]
        self.comings = [dict[Tokens, Coming](), dict[Tokens, Coming]()]
        self.queue = deque[tuple[Tokens, int]]()
        self.runs = dict[Tokens, tuple[int, list[int]]]()
        self.foreseen, self.known = dict[Tokens, float](), dict[Tokens, float]()
        # By gateway, of lines, events and ends: what waits there, in order, and until when.
        self.waits = {(g, what): deque[tuple[int, Do]]() for g in range(2) for what in range(3)}
        self.now = 0
        self.found = self.missed = self.apart = self.blind = 0.0

    def _later(self, gateway: int, what: int, do: Do) -> None:
        waits = self.waits[gateway, what]
        due = self.now + self.rng.randint(0, self.late[what])
        waits.append((max(due, waits[-1][0] if waits else 0), do))

    def _settle(self) -> None:
        for waits in self.waits.values():
            while waits and waits[0][0] <= self.now:
                waits.popleft()[1]()

    def _line(self, own: int, do: Callable[[int], None], what: int = 0) -> None:
        do(own)
        self._later(1 - own, what, lambda: do(1 - own))

    def send(self, gateway: int, tokens: Tokens) -> None:
        """One is sent; what runs, waits and is told goes on meanwhile."""
        self.now += 1
        self._settle()
        prompt, cache = prompt_of(tokens), self.caches[gateway]
        self.foreseen[tokens] = cache.held_tokens(prompt.marks, None, BLOCK_TOKENS, self.room)
        self.known[tokens] = cache.held_tokens(prompt.marks)

        def expect(g: int) -> None:
            coming = self.caches[g].expect(prompt, len(tokens), self.room, sure=True)
            self.comings[g][tokens] = coming

        self._line(gateway, expect)
        self.queue.append((tokens, gateway))
        while len(self.queue) > self.rng.randint(0, 2):
            self._admit(*self.queue.popleft())

    def _admit(self, tokens: Tokens, gateway: int) -> None:
        if len(self.runs) == 3:
            runs = list(self.runs)
            self.end(runs[0] if self.alike else self.rng.choice(runs))
        found, gone, names = self.pool.admit(tokens)
        self.runs[tokens] = gateway, names
        prompt = prompt_of(tokens)

        def tell(g: int) -> None:
            cache, parent = self.caches[g], names[found - 1] if found else None
            if found:
                cache.store(names[:found], None, SIZE, prompt)
            cache.remove(gone)
            cache.store(names[found:], parent, SIZE, prompt)

        for g in range(2):
            self._later(g, 1, partial(tell, g))
        self._line(gateway, lambda g: self.caches[g].foreseen.begun(self.comings[g][tokens]))
        self.found += found * SIZE
        self.missed += self.foreseen[tokens] - found * SIZE
        self.apart += abs(self.foreseen[tokens] - found * SIZE)
        self.blind += abs(self.known[tokens] - found * SIZE)

    def end(self, tokens: Tokens) -> None:
        """It has been answered."""
        gateway, names = self.runs.pop(tokens)
        self.pool.end(names)
        made, what = self.told, 2 if self.late[2] else 0
        self._line(gateway, lambda g: self.caches[g].left(self.comings[g].pop(tokens), made), what)

    def finish(self) -> None:
        """All is answered, and told."""
        while self.queue:
            self._admit(*self.queue.popleft())
        for tokens in list(self.runs):
            self.end(tokens)
        self.now += sum(self.late)
        self._settle()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("lines", "events", "share"), [(0, 0, 0.03), (0, 3, 0.06), (3, 0, 0.1), (3, 3, 0.15)]
)
def test_two_that_tell_each_other_foresee_what_both_bring(
    seed: int, lines: int, events: int, share: float
) -> None:
    """Nearly as one does alone where lines are read before plans are made, however late events are.

    Of what is late nothing stays once they hear of another in time: then both know what the engine
    has, and foresee no more.
    """
    both, some = Gateways(seed, lines, events), prompts(seed)
    for _ in range(400):
        both.send(both.rng.randrange(2), next(some))
    both.finish()
    assert both.apart <= share * both.found
    assert both.apart < both.blind
    assert lines or (abs(both.missed) <= 0.04 * both.found and 3 * both.apart < both.blind)
    both.late = [0, 0, 0]
    both.send(0, next(some))
    both.finish()
    for cache in both.caches:
        assert {block for block in both.pool.cached if block in cache._where} == both.pool.cached
        assert len(cache) == len(both.pool.cached)
        assert (len(cache.foreseen), cache.foreseen.need) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ends", [2, 3])
def test_who_was_taken_in_first_and_made_no_more_has_ended_first(seed: int, ends: int) -> None:
    """Whenever others' ends are heard: what the engine lets go of first is pushed out first."""
    apart = []
    for told in (0, 8):
        both, some = Gateways(seed, 0, 0, ends, alike=True, told=told), prompts(seed)
        for _ in range(400):
            both.send(both.rng.randrange(2), next(some))
        apart.append(both.apart / both.found)
    unknown, known = apart
    assert known < 0.7 * unknown
    assert known < 0.02


@given(st.data(), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=24))
def test_ends_are_in_an_order_that_the_engine_can_have(
    data: st.DataObject, taken: list[tuple[int, int]]
) -> None:
    """Whichever are heard first; tokens made are 0 where nobody says."""
    comings = []
    for k, (sent, made) in enumerate(taken):
        coming = Coming(b"abc", 1, 0, sent, sure=True)
        coming.told, coming.made = k if made != 3 else 0, made
        comings.append(coming)
    ends, order = Ends(), list[Coming]()
    for coming in data.draw(st.permutations(comings)):
        behind = ends.ended(coming)
        kept = len(order) + 1 - len(behind)
        assert behind == [coming, *order[kept:]]
        order = [*order[:kept], *behind]
    for k, one in enumerate(order):
        for other in order[:k]:
            assert not (0 < one.told < other.told and 0 < one.made <= other.made)


def test_what_is_taken_for_room_was_used_least_lately_whatever_was_told_before() -> None:
    """Ends of requests may be told in another order than the engine's."""
    cache, prompts_of = CachedBlocks(1 << 20), [prompt_of((k,) * 10 * SIZE) for k in range(1, 4)]
    for k, prompt in enumerate(prompts_of):
        cache.store(range(10 * k, 10 * k + 10), None, SIZE, prompt)
    assert cache.remove([19]) == 1
    cache.expect(prompt_of((9,) * 14 * SIZE), 14 * SIZE, 30 * SIZE, sure=True)
    held = [
        cache.held_tokens(prompt.marks, None, BLOCK_TOKENS, 30 * SIZE) // SIZE
        for prompt in prompts_of
    ]
    assert held == [6, 0, 10], "the rest of the second goes before all of the first"


def test_nothing_is_pushed_out_where_there_is_room_or_nobody_knows_how_much() -> None:
    first, second = (1,) * 400, (2,) * 400
    for room, left in ((2000.0, 400), (inf, 400), (500.0, 96), (400.0, 0)):
        cache = CachedBlocks(1 << 20)
        blocks = [*range(25)]
        cache.store(blocks, None, SIZE, prompt_of(first))
        cache.expect(prompt_of(second), len(second), room, sure=True)
        assert cache.held_tokens(prompt_of(first).marks, None, BLOCK_TOKENS, room) == left


def test_who_is_on_its_way_is_found_as_far_as_others_begin_like_it() -> None:
    """To a mark, not to a router's block; and before an engine has told of anything."""
    cache, shared = CachedBlocks(1 << 20), tuple(range(1, 201))
    cache.expect(prompt_of((*shared, *[7] * 300)), 500, inf, sure=True)
    behind = prompt_of((*shared, *[8] * 300))
    assert 184 <= cache.held_tokens(behind.marks, None, BLOCK_TOKENS) <= 200
    cache.store([1], None, SIZE, prompt_of((9,) * 32))
    assert cache.held_tokens(behind.marks, None, BLOCK_TOKENS) == 192
    assert cache.held_tokens(behind.marks) == 0


def test_first_tokens_and_events_may_come_in_either_order() -> None:
    for first, then in (("begun", "told"), ("told", "begun")):
        foreseen = Foreseen()
        coming = foreseen.sent(b"abcdef", 99, 64, sure=True)
        for what in (first, then):
            assert foreseen.common(b"abcxyz") == 1
            getattr(foreseen, what)(coming if what == "begun" else b"abcdef")
        assert (len(foreseen), foreseen.need, foreseen.common(b"abcxyz")) == (0, 0, 0)


def test_who_leaves_before_its_first_token_brings_nothing() -> None:
    foreseen = Foreseen()
    left, begun = (foreseen.sent(b"abc", 99, 64, sure=True) for _ in range(2))
    foreseen.begun(begun)
    for one in (left, begun, left):
        foreseen.left(one)
    assert (len(foreseen), foreseen.need) == (1, 64), "its engine is still to tell of it"


def test_what_no_event_can_tell_of_is_not_waited_for() -> None:
    """An engine tells in order: what came before a prompt was sent is told before that."""
    foreseen = Foreseen()
    foreseen.begun(foreseen.sent(b"abc", 99, 64, sure=False))
    assert len(foreseen) == 0, "it does not tell of what is found"
    cache = CachedBlocks(1 << 20)
    cache.store([1], None, SIZE, prompt_of((9,) * 32))
    cache.foreseen.begun(cache.expect(prompt_of((1,) * 12), 12, inf, sure=True))
    assert len(cache.foreseen) == 0, "it fills no block"
    mute = foreseen.sent(b"abc", 99, 64, sure=True)
    before = foreseen.sent(b"def", 99, 64, sure=True)
    foreseen.begun(mute)
    foreseen.sent(b"ghi", 99, 64, sure=True)
    foreseen.told(b"def")
    assert not mute.over, "that was sent before its first token"
    foreseen.told(b"ghi")
    assert (mute.over, before.over) == (True, False)
    assert foreseen.need == 0


DOINGS = st.lists(
    st.tuples(st.sampled_from(("sent", "begun", "left", "told", "clear")), st.integers(0, 5)),
    max_size=40,
)


@given(DOINGS, st.booleans())
def test_room_is_needed_by_those_on_their_way_alone(
    doings: list[tuple[str, int]], sure: bool
) -> None:
    """Whatever comes, in any order; names that come twice are two."""
    foreseen, all_sent = Foreseen(), list[Coming]()
    for what, which in doings:
        if what == "sent":
            all_sent.append(foreseen.sent(b"%03d" % (which % 3), 99, 1 + which, sure=sure))
        elif what == "clear":
            foreseen.clear()
        elif what == "told":
            foreseen.told(b"%03d" % (which % 3))
        elif which < len(all_sent):
            getattr(foreseen, what)(all_sent[which])
        there = [one for one in all_sent if not one.over]
        assert len(foreseen) == len(there)
        assert foreseen.need == sum(one.need for one in there)
        assert all(foreseen.common(one.marks) == 1 for one in there)
        assert foreseen.common(b"xyz") == 0
    for one in all_sent:
        foreseen.begun(one)
        foreseen.left(one)
        foreseen.told(one.marks)
    assert (len(foreseen), foreseen.need) == (0, 0)


def test_who_is_never_told_of_is_forgotten_behind_many_others() -> None:
    foreseen = Foreseen()
    all_sent = [foreseen.sent(b"%06d" % k, 99, 16, sure=True) for k in range(3 * MOST_UNTOLD)]
    for one in all_sent:
        foreseen.begun(one)
    assert [one.over for one in all_sent] == 2 * MOST_UNTOLD * [True] + MOST_UNTOLD * [False]
    assert foreseen.need == 16 * MOST_UNTOLD


def test_who_has_begun_and_was_pushed_out_by_others_is_not_there_however_late_events_are() -> None:
    """What it needed room for has been pushed out all the same."""
    foreseen, names = Foreseen(), [b"%d-----" % k for k in range(6)]
    all_sent = [foreseen.sent(name, 100, 10, sure=True) for name in names]
    for one in all_sent[:4]:
        foreseen.begun(one)
    for room, found in ((inf, 6), (400.0, 4), (100.0, 2)):
        foreseen.fit(room)
        assert [foreseen.common(name) for name in names] == [0] * (6 - found) + [2] * found
        assert (foreseen.tokens, foreseen.need) == (100 * found, 60)
    for one in all_sent[4:]:
        foreseen.left(one)
    for name in names:
        foreseen.told(name)
    assert (len(foreseen), foreseen.tokens, foreseen.need) == (0, 0, 0)
