"""Slots of workers without an agent, learnt from outside: servers in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from functools import partial

import pytest

from solver.batching.outside.slots import GROWTH, REPORTS_TO_GROW, REPORTS_TO_SHRINK
from solver.cost.estimators import SpeedEstimator
from solver.routing.rolling import lead
from solver.routing.slots import LATELY, Expected, Known, PlainSlots

ROUND_S, PREFILL_S = 0.03, 0.03  # as predicted
EXPECTED = Expected(0.0, PREFILL_S, ROUND_S)
MANY = 4096


class Server:
    """A queue before so many slots, behind a gateway that learns of it; times are noisy.

    Prompts are prefilled one after the other, beside those that decode.

    Attributes:
        limits: what is taken for its slots, at each first token.
        queued: how many stood in the server's own queue then.
        timed: prefills as predicted, and as they seemed to be.
    """

    def __init__(
        self,
        slots: int,
        seen: PlainSlots,
        seed: int,
        *,
        prefill_s: float = PREFILL_S,
        tokens: int = 100,
        streamed: float = 1.0,
    ) -> None:
        self.slots, self.seen, self.rng, self.now = slots, seen, random.Random(seed), 0.0
        self.prefill_s, self.tokens, self.streamed = prefill_s, tokens, streamed
        self.free, self.queue = slots, deque[int]()
        self.prefilled_s = 0.0
        self.in_flight = 0
        self.timed: list[tuple[float, float]] = []
        self.limits: list[int] = []
        self.queued: list[int] = []
        self._keys, self._serial = itertools.count(), itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, after_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + after_s, next(self._serial), what))

    def noisy(self, seconds: float) -> float:
        return seconds * self.rng.lognormvariate(0.0, 0.3)

    def send(self) -> None:
        key = next(self._keys)
        self.in_flight += 1
        streamed = self.rng.random() < self.streamed
        self.seen.sent(key, 1, EXPECTED, self.now, streamed=streamed)
        self.queue.append(key)
        self.start()

    def start(self) -> None:
        while self.free > 0 and self.queue:
            self.free -= 1
            key = self.queue.popleft()
            begun_s = max(self.now, self.prefilled_s) + self.noisy(self.prefill_s)
            self.prefilled_s, begins_s = begun_s, begun_s - self.now + self.noisy(ROUND_S)
            tokens = self.rng.randrange(1, 2 * self.tokens)
            self.at(begins_s, partial(self.begun, key))
            self.at(begins_s + self.noisy(ROUND_S * tokens), partial(self.end, key))

    def begun(self, key: int) -> None:
        timed = self.seen.begun(key, self.now)
        self.timed += [] if timed is None else [timed]
        self.limits.append(self.seen.slots)
        self.queued.append(len(self.queue))

    def end(self, key: int) -> None:
        self.free += 1
        self.in_flight -= 1
        self.seen.ended(key)
        self.start()
        self.more()

    def more(self) -> None:
        """What the gateway sends now."""

    def resize(self, slots: int) -> None:
        self.free += slots - self.slots
        self.slots = slots
        self.start()

    def stall(self, seconds: float) -> None:
        """Nothing happens meanwhile."""
        self._events = [(at_s + seconds, number, what) for at_s, number, what in self._events]

    def run(self, until: Callable[[], bool]) -> None:
        while self._events and not until():
            self.now, _, what = heapq.heappop(self._events)
            what()


class Busy(Server):
    """There is always more to send, as far as the gateway sends ahead."""

    def more(self) -> None:
        while self.in_flight < self.seen.slots + lead(self.seen.slots, 1):
            self.send()

    def requests(self, count: int) -> None:
        self.more()
        wanted = len(self.limits) + count
        self.run(lambda: len(self.limits) >= wanted)


class Poisson(Server):
    """Requests come as they like, `load` of them at once on average."""

    def begin(self, load: float) -> None:
        every_s = (self.prefill_s + ROUND_S * (1 + self.tokens)) / load

        def come() -> None:
            if self.in_flight < self.seen.slots + lead(self.seen.slots, 1):
                self.send()
            self.at(self.rng.expovariate(1 / every_s), come)

        come()

    def requests(self, count: int) -> None:
        wanted = len(self.limits) + count
        self.run(lambda: len(self.limits) >= wanted)


class Told(Server):
    """Its engine says now and then how many run and wait; work comes in bursts, none of it streams.

    Those count as running that have been prefilled, as engines do that run prefills by turns.
    """

    def begin(self, burst: int, every_s: float, look_s: float) -> None:
        self.running = self.looked = 0

        def come() -> None:
            for _ in range(burst):
                self.send()
            self.at(every_s, come)

        def look() -> None:
            waiting = self.in_flight - self.running
            self.seen.engine(self.running, waiting, self.now)
            self.looked += 1
            self.at(self.noisy(look_s), look)

        come()
        self.at(look_s, look)

    def begun(self, key: int) -> None:
        self.running += 1
        super().begun(key)

    def end(self, key: int) -> None:
        self.running -= 1
        super().end(key)

    def looks(self, count: int) -> None:
        self.run(lambda: self.looked >= count)


def grown(slots: int) -> int:
    """One step beyond so many."""
    return slots + max(1, int(GROWTH * slots))


def is_right(limit: int, slots: int) -> bool:
    """No slot stays empty, and no more are sent in vain than a step and what is sent ahead."""
    return slots <= limit + lead(limit, 1) and limit <= grown(slots)


def steps(start: int, slots: int) -> int:
    """By which a limit grows from `start`."""
    return next(k for k in itertools.count() if (start := grown(start) if k else start) >= slots)


@pytest.mark.parametrize("prefill_s", [PREFILL_S / 3, PREFILL_S, 3 * PREFILL_S])
@pytest.mark.parametrize("slots", [1, 4, 8, 16])
def test_slots_are_learnt_by_when_as_many_and_some_more_have_begun(
    slots: int, prefill_s: float
) -> None:
    seen = PlainSlots(64, MANY)
    server = Busy(slots, seen, 1, prefill_s=prefill_s)
    server.requests(slots + LATELY)
    assert seen.known is Known.LEARNT
    server.requests(600)
    assert all(is_right(limit, slots) for limit in server.limits[slots + LATELY :])
    assert max(server.queued[-300:]) <= grown(slots) + lead(slots, 1) - slots


@pytest.mark.parametrize("slots", [16, 64])
def test_who_runs_all_that_it_is_sent_is_sent_more(slots: int) -> None:
    seen = PlainSlots(4, MANY)
    server = Busy(slots, seen, 2)
    needed = 2 * REPORTS_TO_GROW * steps(4, slots)
    server.requests(needed + 400)
    assert all(is_right(limit, slots) for limit in server.limits[needed:])


@pytest.mark.parametrize("streamed", [1.0, 0.5, 0.1])
@pytest.mark.parametrize(("before", "after"), [(8, 16), (64, 8), (16, 48)])
def test_a_server_that_gets_more_slots_or_fewer_is_followed(
    before: int, after: int, streamed: float
) -> None:
    seen = PlainSlots(64, MANY)
    server = Busy(before, seen, 3, streamed=streamed)
    server.requests(300)
    assert is_right(seen.slots, before)
    server.resize(after)
    needed = 2 * LATELY + 2 * REPORTS_TO_GROW * steps(before, after)
    server.requests(int(needed / streamed))
    server.requests(200)
    assert all(is_right(limit, after) for limit in server.limits[-200:])


@pytest.mark.parametrize("prefill_s", [PREFILL_S / 3, PREFILL_S])
@pytest.mark.parametrize("load", [0.3, 0.7, 1.2])
def test_who_has_slots_enough_is_not_taken_to_have_fewer(load: float, prefill_s: float) -> None:
    """Also though it stands still now and then."""
    seen = PlainSlots(64, 64)
    server = Poisson(64, seen, 4, prefill_s=prefill_s)
    server.begin(load * 64)
    for _ in range(4):
        server.requests(200)
        server.stall(5.0)
    server.requests(200)
    assert all(is_right(limit, 64) for limit in server.limits)


@pytest.mark.parametrize("load", [0.7, 1.0, 1.5])
def test_the_queue_inside_is_short_under_any_load(load: float) -> None:
    seen = PlainSlots(64, 64)
    server = Poisson(8, seen, 5)
    server.begin(load * 8)
    server.requests(600)
    assert max(server.queued[-300:]) <= grown(8) + lead(8, 1) - 8


@pytest.mark.parametrize("times", [1 / 3, 1.0, 3.0])
@pytest.mark.parametrize("known", [Known.ASSUMED, Known.SET])
def test_prefills_are_timed_by_those_who_waited_for_no_slot(times: float, known: Known) -> None:
    """Most have: nearly all of the time until a first token is the queue's."""
    server = Busy(8, PlainSlots(64, 64, known), 8, prefill_s=times * PREFILL_S)
    server.requests(300)
    speed = SpeedEstimator()
    for one in server.timed:
        speed.prefills.observe(*one)
    assert speed.factors[1] == pytest.approx(times, rel=0.5)


def test_a_newcomer_begins_as_its_fleet_turned_out_to_be_and_learns_its_own() -> None:
    learnt = [PlainSlots(64, MANY) for _ in range(3)]
    for slots, one in zip((4, 8, 16), learnt, strict=True):
        Busy(slots, one, 9).requests(200)
    for kept in (PlainSlots(64, MANY, Known.SET), learnt[2]):
        before = kept.slots
        kept.begin_like(learnt)
        assert kept.slots == before
    new = PlainSlots(64, MANY)
    new.begin_like([PlainSlots(64, MANY)])
    assert (new.slots, new.known) == (64, Known.ASSUMED)
    new.begin_like(learnt)
    assert (is_right(new.slots, 8), new.known) == (True, Known.ASSUMED)
    Busy(16, new, 9).requests(300)
    assert is_right(new.slots, 16)
    few = PlainSlots(2, 2)
    few.begin_like(learnt)
    assert few.slots == 2, "no more than was said"


def test_what_an_operator_says_holds() -> None:
    known = PlainSlots(64, known=Known.SET)
    Busy(8, known, 6).requests(300)
    assert (known.slots, known.known) == (64, Known.SET)
    known.engine(8, 5, 0.0)
    assert known.known is Known.SET
    at_most = PlainSlots(16, 16)
    server = Busy(64, at_most, 6)
    server.requests(600)
    assert max(server.limits) == 16


def test_an_engine_is_believed_before_first_tokens() -> None:
    seen = PlainSlots(64, 64)
    for _ in range(REPORTS_TO_SHRINK):
        seen.engine(8, 5, 0.0)
    assert (seen.slots, seen.known) == (8, Known.ENGINE)
    server = Busy(4, seen, 7)
    server.requests(300)
    assert seen.slots == 8
    seen.engine(8, 0, server.now, slots=48)
    assert seen.slots == 48
    for _ in range(REPORTS_TO_SHRINK):
        seen.engine(20, 5, server.now + 3600, slots=48)
    assert seen.slots == 20, "of its memory, say"
    seen.engine(8, 0, server.now, slots=256)
    assert seen.slots == 64, "no more than was said"


def test_an_engine_that_tells_nothing_any_more_is_learnt_of_by_first_tokens() -> None:
    seen = PlainSlots(64, 64)
    seen.engine(3, 0, 0.0)
    seen.engine_is_mute()
    Busy(8, seen, 10).requests(8 + LATELY)
    assert (is_right(seen.slots, 8), seen.known) == (True, Known.LEARNT)
    told = PlainSlots(64, 64)
    told.engine(3, 0, 0.0, slots=8)
    told.engine_is_mute()
    assert (told.slots, told.known) == (8, Known.LEARNT)
    Busy(32, told, 40).requests(40 * LATELY)
    assert told.slots > 16, "it may have more than it once said"
    known = PlainSlots(64, known=Known.SET)
    known.engine_is_mute()
    assert known.known is Known.SET


def test_a_turn_to_be_prefilled_is_no_want_of_slots() -> None:
    seen = PlainSlots(64, 64)
    seen.sent("a", 1, Expected(0.5, 0.5, ROUND_S), 0.0, streamed=True)
    for k in range(20):
        seen.engine(0, 1, 0.1 * k)
    assert seen.slots == 64
    for _ in range(REPORTS_TO_SHRINK):
        seen.engine(3, 1, 60.0)
    assert seen.slots == 3


@pytest.mark.parametrize("look_s", [1.0, 4.0, 16.0])
def test_an_engine_is_believed_however_seldom_it_is_looked_at(look_s: float) -> None:
    """Somebody waits at few looks, as bursts are over by the next one."""
    seen = PlainSlots(64, 64)
    server = Told(8, seen, 11)
    server.begin(24, 30.0, look_s)
    server.looks(60)
    assert (seen.slots, seen.known) == (8, Known.ENGINE)


@pytest.mark.parametrize("look_s", [1.0, 4.0])
@pytest.mark.parametrize("every_s", [1.0, 8.0, 30.0])
def test_bursts_that_wait_to_be_prefilled_are_no_want_of_slots(
    every_s: float, look_s: float
) -> None:
    seen = PlainSlots(64, 64)
    server = Told(64, seen, 12, tokens=20)
    server.begin(24, every_s, look_s)
    server.looks(400)
    assert min(server.limits) == 64


def test_who_leaves_before_its_first_token_leaves_nothing_behind() -> None:
    seen = PlainSlots(4, 4)
    for k in range(100):
        seen.sent(k, 2, EXPECTED, k, streamed=bool(k % 3))
        if k % 2:
            seen.begun(k, k + 0.1)
        seen.ended(k)
        seen.ended(k)
    seen.begun("never sent", 100.0)
    assert seen.slots == 4
    assert [seen._sent, seen._waiting, seen._unseen] == [{}, {}, {}]
    assert (seen._running, seen._in_flight) == (0, 0)
