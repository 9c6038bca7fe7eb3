"""What the gateway takes workers to hold of prompts, from what it has sent them."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from router.gateway.fleet.kv.caches import WorkerCache
from router.gateway.fleet.kv.stream import Stream
from router.gateway.fleet.prefixes import Prefixes
from solver.routing.marks import Beginnings
from tests.router.gateway.kv.publisher import Publisher, prompt_of


class Caching:
    """A worker with room enough."""

    has_prefix_cache, kv_free, cache_room, place = True, 1e9, inf, "http://a"

    def __init__(self, told_cache: WorkerCache | None = None) -> None:
        self.told_cache = told_cache


class Request:
    """So many blocks of one chain, or of another one after `same` of them."""

    def __init__(
        self, blocks: int, session: str = "", tokens: int = 99, same: int | None = None
    ) -> None:
        other = range(1000, 1000 + blocks)
        self.blocks = (*range(blocks)[:same], *([] if same is None else other[same:]))
        self.marks = b"".join(block.to_bytes(3) for block in self.blocks)
        self.block_tokens, self.session, self.prompt_tokens = 1.0, session, tokens
        self.sequences, self.attempt = 1, ""

    @property
    def beginnings(self) -> Beginnings:
        return Beginnings(self.marks, self.block_tokens)


def held(prefixes: Prefixes, worker: Caching) -> float:
    found = prefixes.cached_tokens([Request(99)], [worker])
    return 0.0 if found is None else float(found[0, 0])


def test_who_comes_with_others_goes_with_them_and_takes_along_what_it_alone_has_brought() -> None:
    prefixes, worker = Prefixes(), Caching()
    first, second, third = Request(3), Request(5), Request(5)
    for one in (first, second, third):
        prefixes.sent(one, worker)
    assert held(prefixes, worker) == 5, "before any has begun"
    prefixes.left(second)
    assert held(prefixes, worker) == 5, "the third is on its way, too"
    prefixes.left(third)
    assert held(prefixes, worker) == 3
    prefixes.begun(first)
    prefixes.left(first)
    assert held(prefixes, worker) == 3


def test_nobody_names_the_marks_of_prompts_where_no_engine_tells_of_its_cache() -> None:
    class Unnamed(Request):
        @property
        def marks(self) -> bytes:
            raise AssertionError("they are worked out for nobody")

        @marks.setter
        def marks(self, _: bytes) -> None: ...

    prefixes, worker = Prefixes(), Caching()
    first = Unnamed(3)
    prefixes.sent(first, worker)
    assert held(prefixes, worker) == 3
    found = prefixes.cached_tokens([Unnamed(0), Unnamed(5)], [worker])
    assert found is not None
    assert found.tolist() == [[0.0], [3.0]]
    prefixes.begun(first)
    prefixes.left(first)


def test_what_a_first_token_has_shown_stays_whoever_leaves() -> None:
    prefixes, worker = Prefixes(), Caching()
    shown, recalled = Request(4), Request(4)
    prefixes.sent(recalled, worker)
    prefixes.sent(shown, worker)
    prefixes.begun(shown)
    prefixes.left(recalled)
    assert held(prefixes, worker) == 4


def test_a_worker_that_was_down_owes_nothing_to_those_that_it_had() -> None:
    prefixes, worker = Prefixes(), Caching()
    old, new = Request(4), Request(4)
    prefixes.sent(old, worker)
    prefixes.forget(worker)
    assert held(prefixes, worker) == 0
    prefixes.sent(new, worker)
    prefixes.left(old)
    assert held(prefixes, worker) == 4


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=12), st.randoms())
def test_held_in_the_end_is_what_has_begun(sent: Iterable[tuple[int, bool]], rng: object) -> None:
    prefixes, worker = Prefixes(), Caching()
    asked = [(Request(blocks), begins) for blocks, begins in sent]
    for one, _ in asked:
        prefixes.sent(one, worker)
    rng.shuffle(asked)  # type: ignore[attr-defined]
    for one, begins in asked:
        if begins:
            prefixes.begun(one)
        prefixes.left(one)
    assert held(prefixes, worker) == max(
        (len(r.blocks) for r, begins in asked if begins), default=0
    )
    assert not prefixes._waiting
    assert not any(prefixes._unproven.values())


def serve(prefixes: Prefixes, request: Request, worker: Caching, tokens: int) -> None:
    prefixes.sent(request, worker)
    prefixes.begun(request)
    prefixes.answered(request, worker, tokens)
    prefixes.left(request)


def saved(prefixes: Prefixes, request: Request, *workers: Caching) -> list[float] | None:
    found = prefixes.cached_tokens([request], workers)
    return None if found is None else list(found[0])


def test_the_next_of_a_session_finds_all_that_its_last_worker_has_of_it() -> None:
    """Prompt and answer, as they were counted; others find the prompt's blocks alone."""
    prefixes, first, other = Prefixes(), Caching(), Caching()
    serve(prefixes, Request(3, "s"), first, 9)
    assert saved(prefixes, Request(5, "s"), other, first) == [0.0, 9.0]
    assert saved(prefixes, Request(5, "s", tokens=7), first) == [6.0], "the last is prefilled"
    for one, blocks in (
        (Request(5), 3.0),
        (Request(5, "another"), 3.0),
        (Request(5, "s", same=2), 2.0),
        (Request(2, "s"), 2.0),
    ):
        assert saved(prefixes, one, first) == [blocks]
    serve(prefixes, Request(5, "s"), other, 20)
    assert saved(prefixes, Request(6, "s"), first, other) == [3.0, 20.0]
    prefixes.forget(other)
    assert saved(prefixes, Request(6, "s"), first, other) == [3.0, 0.0], "it was down"


def test_an_engines_word_counts_from_when_it_comes_and_until_then_what_is_on_its_way() -> None:
    """However late its events are, behind the first token too; and whoever leaves before that."""
    publisher, stream = Publisher(), Stream(1 << 20, replays=False)
    stream.linked()
    list(stream.live(*publisher.change(9)))
    prefixes, worker = Prefixes(), Caching(WorkerCache([stream], reports=True))
    first, second, behind = (Request(0) for _ in range(3))
    for one in (first, second, behind):
        one.marks, one.block_tokens, one.prompt_tokens = prompt_of(1).marks, 128.0, 600
    assert saved(prefixes, behind, worker) == [0.0]
    prefixes.sent(first, worker)
    assert saved(prefixes, behind, worker) == [512.0]
    prefixes.left(first)
    assert saved(prefixes, behind, worker) == [0.0], "it has not begun"
    prefixes.sent(second, worker)
    prefixes.begun(second)
    prefixes.left(second)
    assert saved(prefixes, behind, worker) == [512.0], "its events are late"
    list(stream.live(*publisher.change(1)))
    assert saved(prefixes, behind, worker) == [512.0]
    list(stream.live(*publisher.change(1)))
    assert saved(prefixes, behind, worker) == [0.0], "that is gone again"
