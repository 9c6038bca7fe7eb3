"""What gateways tell each other of their sends: joined by a link in memory, whole or lossy."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.gateway.fleet.kv.caches import WorkerCache
from router.gateway.fleet.kv.stream import Stream
from router.gateway.fleet.prefixes import Prefixes
from router.gateway.fleet.worker import Worker
from router.gateway.peers import heard as heard_module
from router.gateway.peers import sends as sends_module
from router.gateway.peers.heard import Foreign, Heard
from router.gateway.peers.lines import (
    LONGEST_LINE,
    Begun,
    Held,
    Left,
    Sent,
    Waiting,
    decode,
    encode,
    pack_blocks,
    read_blocks,
)
from router.gateway.peers.peers import Peers
from router.gateway.peers.sends import Listener, Sends
from router.http.asgi import Responder
from router.wire import LONGEST_NAME, WireError
from solver.cost.profiles import PROFILES
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings
from solver.routing.prefixes import MOST_BLOCKS
from solver.routing.slots import PlainSlots
from solver.routing.sums import NOTHING, Backlog, LoadSums
from tests.router.gateway.kv.publisher import Publisher, prompt_of

PLACES = ["http://a", "http://b#1"]


class Request:
    """Sent to a worker, with so many blocks of one chain."""

    def __init__(self, blocks: int, tokens: int = 900) -> None:
        self.blocks = tuple(range(1, 1 + blocks))
        self.marks = bytes(3 * blocks)
        self.block_tokens, self.session, self.prompt_tokens = 100.0, "", tokens
        self.sequences, self.attempt = 1, ""

    @property
    def beginnings(self) -> Beginnings:
        return Beginnings(self.marks, self.block_tokens)


class Fleet:
    """Workers by their places, and what is known of their caches: where prompts are booked."""

    def __init__(self) -> None:
        cost = PROFILES["llama-65b-ascend"].cost
        self.workers = {place: Worker(place, PlainSlots(4), cost) for place in PLACES[:1]}
        self.prefixes = Prefixes()
        for worker in self.workers.values():
            worker._prefix_cache = True
        self.there, self.made = list[Foreign](), list[int]()

    def find(self, place: str) -> Worker | None:
        return self.workers.get(place)

    def sent(self, prompt: Foreign, worker: Worker) -> None:
        self.there.append(prompt)
        self.prefixes.book(prompt, worker)

    def begun(self, prompt: Foreign) -> None:
        self.prefixes.begun(prompt)

    def left(self, prompt: Foreign, made: int) -> None:
        self.there.remove(prompt)
        self.made.append(made)
        self.prefixes.left(prompt, made)

    def held(self) -> float:
        found = self.prefixes.cached_tokens([Request(99)], list(self.workers.values()))
        return 0.0 if found is None else float(found[0, 0])


class Out(Responder):
    """A client that takes so many lines, and what it has not read yet."""

    def __init__(self, most: int = 1 << 20) -> None:
        self.text, self._most, self._written = b"", most, 0

    @property
    def paused(self) -> bool:  # type: ignore[override]
        return self._written >= self._most

    def write(self, data: bytes) -> None:
        self.text += data
        self._written += data.count(b"\n")

    def drained(self) -> None:
        self._written = 0

    def take(self) -> bytes:
        text, self.text = self.text, b""
        return text


class Link:
    """One gateway's word on its way to another, as far as that has read it."""

    def __init__(self, sends: Sends, *, elsewhere: bool = True, most: int = 1 << 20) -> None:
        self.out = Out(most)
        self.listener = Listener(sends, self.out, elsewhere=elsewhere)
        sends.join(self.listener)
        self.fleet, self.peers = Fleet(), Peers(Sends("other"))
        joined = self.peers.join(sends.gateway, self.fleet)
        assert joined is not None
        self.heard = joined

    def read(self, now: float = 0.0) -> None:
        self.out.drained()
        self.listener.flush()
        for line in filter(None, self.out.take().split(b"\n")):
            self.heard.take(decode(line), now)
        self.peers.look()


def test_what_another_sends_is_foreseen_and_goes_with_it() -> None:
    sends = Sends("one")
    link, request = Link(sends), Request(5)
    sends.sent(request, PLACES[0], marks=False)
    link.read()
    assert link.fleet.held() == 500
    sends.left(request)
    link.read()
    assert link.fleet.held() == 0, "it had not begun"
    sends.sent(request, PLACES[0], marks=False)
    sends.begun(request)
    sends.left(request, 8)
    link.read()
    assert link.fleet.held() == 500
    assert link.fleet.made == [0, 8], "tokens of its answer, once it is whole"
    sends.sent(request, "http://nobody", marks=False)
    link.read()
    assert not link.fleet.there


def test_what_another_has_at_a_worker_is_part_of_its_load_but_for_agents() -> None:
    sends = Sends("one")
    link = Link(sends)
    (worker,) = link.fleet.workers.values()
    worker.peers = link.peers
    sums = LoadSums(3, 1, 500, 80.0, 900.0, 2000.0)
    sends.hold(PLACES[0], sums)
    sends.wait(Backlog(7, 700.0, 70.0))
    link.read()
    worker.see_others()
    assert worker.load.others == sums
    assert worker.load.own == NOTHING
    assert (worker.far_wanting, worker.far_backlog) == (1, Backlog(7, 700.0, 70.0))
    assert worker.backlog_s(0, 0.0) > 0
    link.peers.leave("one")
    worker.see_others()
    assert worker.load.others == NOTHING
    assert not worker.is_shared


# A request and what becomes of it, or what is held somewhere, or that what is told is read.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["sent", "begun", "left"]), st.integers(0, 5)),
        st.tuples(st.just("hold"), st.integers(0, 3)),
        st.tuples(st.just("read"), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([1, 300, 1 << 20]), st.sampled_from([1, 4, 1 << 20]))
def test_whoever_reads_late_or_loses_lines_ends_with_all_that_holds(
    steps: list[tuple[str, int]], room: int, most: int
) -> None:
    """And never waits for anything but its own reading."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sends_module, "MOST_WAITING_BYTES", room)
        patch.setattr(sends_module, "STATE_EVERY_S", 0.0)
        sends = Sends("one")
        link, requests = Link(sends, most=most), [Request(1 + k) for k in range(6)]
        under_way, held = set[Request](), dict[str, LoadSums]()
        for what, k in steps:
            if what == "read":
                link.read()
            elif what == "hold":
                place, sums = PLACES[k % 2], LoadSums(sequences=k)
                sends.hold(place, sums)
                held[place] = sums
            elif what == "sent" and requests[k] not in under_way:
                sends.sent(requests[k], PLACES[0], marks=True)
                under_way.add(requests[k])
            elif what == "begun":
                sends.begun(requests[k])
            elif what == "left":
                sends.left(requests[k])
                under_way.discard(requests[k])
        sends.wait(Backlog(len(steps), 1.0, 1.0))
        link.read()
    assert link.heard.held == {place: sums for place, sums in held.items() if sums != NOTHING}
    assert sorted(len(one.blocks) for one in link.fleet.there) == sorted(
        len(one.blocks) for one in under_way
    )
    assert link.heard.waiting.requests == len(steps)
    if room > 1000:
        assert link.heard.lost == 0


def test_processes_of_one_gateway_hear_of_each_others_prompts_alone_and_tell_them_on() -> None:
    mine = Sends("one")
    sibling, elsewhere = Link(mine, elsewhere=False), Link(mine)
    own, others = Request(3), Request(5)
    mine.sent(own, PLACES[0], marks=False)
    mine.sent(others, PLACES[0], marks=False, own=False)
    mine.hold(PLACES[0], LoadSums(sequences=9))
    for link, prompts, held in ((sibling, [3], {}), (elsewhere, [3, 5], {PLACES[0]: 9})):
        link.read()
        assert [len(one.blocks) for one in link.fleet.there] == prompts
        assert {place: sums.sequences for place, sums in link.heard.held.items()} == held
    mine.left(others)
    elsewhere.read()
    assert [len(one.blocks) for one in elsewhere.fleet.there] == [3]


def test_two_that_call_themselves_the_same_are_heard_once() -> None:
    peers, fleet = Peers(Sends("me")), Fleet()
    heard = peers.join("one", fleet)
    assert heard is not None
    assert peers.join("one", fleet) is None
    heard.take(Held(PLACES[0], 2, 0, 0, 0.0, 0.0, 0.0, 0, 0), 0.0)
    other = peers.join("two", fleet)
    assert other is not None
    other.take(Held(PLACES[0], 3, 0, 0, 0.0, 0.0, 0.0, 0, 0), 0.0)
    assert peers.held(PLACES[0]).sequences == 5
    peers.leave("one")
    assert peers.held(PLACES[0]).sequences == 3


def sent(number: int, **more: object) -> Sent:
    fields: dict[str, object] = {
        "place": PLACES[0],
        "prompt_tokens": 900,
        "sequences": 1,
        "block_tokens": 100.0,
        "marks": b"",
        "blocks": pack_blocks([number + 1]),
    }
    return Sent(number, **(fields | more))  # type: ignore[arg-type]


def test_one_that_tells_of_no_ends_is_forgotten_bit_by_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heard_module, "MOST_PROMPTS", 10)
    monkeypatch.setattr(heard_module, "MOST_PLACES", 10)
    fleet = Fleet()
    heard = Heard(fleet, lambda _: None)
    for number in range(50):
        heard.take(sent(number), 0.0)
        heard.take(Held(f"http://{number}", 1, 0, 0, 0.0, 0.0, 0.0, 0, 0), 0.0)
    assert len(fleet.there) == len(heard.held) == 10
    heard.take(sent(49), heard_module.LONGEST_S + 1)
    assert len(fleet.there) == 1, "nothing holds for longer"
    heard.take(Begun(7), 0.0)
    heard.take(Left(7), 0.0)
    heard.forget()
    assert not fleet.there
    assert not heard.held
    assert not fleet.prefixes._waiting


LINES = [
    sent(1),
    Begun(1),
    Left(1),
    Held(PLACES[1], 1, 1, 9, 9.5, 0.0, 3.0, 0, 1),
    Waiting(3, 9.0, 1.5),
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_read_as_it_was_written_and_more_at_its_end_is_a_newer_ones(line: Sent) -> None:
    text = encode(line)
    assert decode(text) == line
    assert decode(text.rstrip()[:-1] + b', "more"]') == line
    assert decode(b'["novelty", 1]') is None


@given(st.binary(max_size=200))
def test_what_is_no_line_is_said_to_be_none(text: bytes) -> None:
    try:
        decode(text)
    except WireError as error:
        assert len(str(error)) < 2000  # noqa: PT017


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b'["left"]',
        b'["left", -1]',
        b'["left", 1, -1]',
        b"[" * 16_000,
        b'["left", ' + b"[" * 16_000,
        b'["novelty", ' + b'{"a":' * 8000,
        b'["left", 1e400]',
        b'["sent", 1, "http://a", 1, 1, 1, "AAA", ""]',
        b'["sent", 1, "http://a", 1, 1, 1, "", ""]',
        b'["sent", 1, "http://a", 1, 0, 1, "AAAA", ""]',
        b'["held", "http://a", 99999999999999, 0, 0, 0, 0, 0, 0, 0]',
        b'["held", "http://a", 1, 0, 0, 1e30, 0, 0, 0, 0]',
        b'["held", "http://a", 1, 0, 0, -1, 0, 0, 0, 0]',
        b'["held", "' + b"a" * 600 + b'", 1, 0, 0, 1, 0, 0, 0, 0]',
    ],
)
def test_bad_figures_are_refused(text: bytes) -> None:
    with pytest.raises(WireError):
        decode(text)


def test_the_longest_prompt_is_one_line() -> None:
    rng = random.Random(1)
    blocks = tuple(rng.getrandbits(64) for _ in range(MOST_BLOCKS))
    line = sent(
        1,
        place="a" * LONGEST_NAME,
        marks=rng.randbytes(len(MARKS) * NAME_BYTES),
        blocks=pack_blocks(blocks),
    )
    text = encode(line)
    assert len(text) < LONGEST_LINE < inf
    found = decode(text)
    assert isinstance(found, Sent)
    assert read_blocks(found.blocks) == blocks


def test_whatever_others_say_to_have_a_gateway_keeps_its_part_of_each_worker() -> None:
    """And has all of it where they say nothing."""
    link = Link(Sends("one"))
    (worker,) = link.fleet.workers.values()
    worker.peers = link.peers
    worker.models = {"m": {}}
    worker.health.answered()
    alone = worker.free_slots
    assert alone == worker.slots == 4
    for there, free in ((1, 3), (2, 2), (3, 2), (10**6, 2)):
        link.heard.take(Held(PLACES[0], there, there, 9, 1e12, 1e12, 1e12, 0, 0), 0.0)
        assert worker.free_slots == free
        assert worker.view(0.0).in_flight == there, "the plan is told nonetheless"
    link.peers.leave("one")
    assert worker.free_slots == alone


def test_what_another_sends_is_foreseen_where_the_engine_tells_of_its_cache() -> None:
    """Until that tells: it finds there what the other brings, and not what that will push out."""
    sends, publisher, stream = Sends("one"), Publisher(), Stream(1 << 20, replays=False)
    stream.linked()
    list(stream.live(*publisher.change(9)))
    link = Link(sends)
    (worker,) = link.fleet.workers.values()
    worker.cache = WorkerCache([stream], reports=True)
    assert worker.told_cache is not None
    theirs, mine = Request(0), Request(0)
    for one in (theirs, mine):
        one.marks, one.block_tokens, one.prompt_tokens = prompt_of(1).marks, 128.0, 600

    def found() -> float:
        table = link.fleet.prefixes.cached_tokens([mine], [worker])
        return 0.0 if table is None else float(table[0, 0])

    assert found() == 0
    sends.sent(theirs, PLACES[0], marks=True)
    link.read()
    assert found() == 512
    sends.left(theirs)
    link.read()
    assert found() == 0, "it had not begun"
    sends.sent(theirs, PLACES[0], marks=True)
    link.read()
    list(stream.live(*publisher.change(1)))
    sends.begun(theirs)
    sends.left(theirs)
    link.read()
    assert found() == 512, "it has been told of"
    assert not len(stream.cache.foreseen)
