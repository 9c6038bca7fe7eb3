"""What is held before an engine: limits, order, groups, and that everybody gets through."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.kv import WATERMARK
from solver.batching.online import LATELY_S
from solver.batching.outside.held import HeldRequest, Release
from solver.batching.outside.release import Releaser
from solver.batching.outside.slots import REPORTS_TO_GROW, REPORTS_TO_SHRINK, SlotLimit
from solver.batching.policies import POLICIES
from solver.batching.priority import HEAD_START_S, Priority
from solver.batching.sequence import Sequence
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel

COST = CostModel(alpha_p_s=0.025, beta_p_s=0.00013, alpha_d_s=0.029, beta_d_s=0.00021)


def ask(
    name: str,
    tokens: int = 50,
    *,
    prompt: int = 70,
    width: int = 1,
    streamed: bool = True,
    now: float = 0.0,
    priority: Priority = Priority.DEFAULT,
    targets: Targets = NO_TARGETS,
) -> HeldRequest:
    parts = tuple(
        Sequence(
            f"{name}/{k}", prompt, float(tokens), tokens, now, priority=priority, targets=targets
        )
        for k in range(width)
    )
    return HeldRequest(parts, streamed)


def releaser(policy: str | None, slots: int, kv: float = inf, lead: int = 0) -> Releaser:
    return Releaser(slots, kv, COST, None if policy is None else POLICIES[policy](), 0.0, lead=lead)


class Outside:
    """An engine in virtual time that prefills what has come before it decodes on."""

    def __init__(self, books: Releaser, tail_s: float = 0.0) -> None:
        """`tail_s`: how long after its last token an answer ends."""
        self.books, self.now, self.tail_s = books, 0.0, tail_s
        self.ending: list[tuple[float, HeldRequest]] = []
        self.groups: list[Release] = []
        self.order: list[str] = []
        self.in_flight: dict[str, int] = {}  # tokens made by each sequence
        self.most = 0
        self.stalls: list[tuple[int, int]] = []  # prompts and their tokens, beside others
        self._asks: dict[str, tuple[HeldRequest, int]] = {}
        self._entering: list[str] = []
        self._iteration: tuple[float, list[str], int] | None = None  # its end, who, new tokens

    def add(self, one: HeldRequest) -> None:
        self.books.add(one, self.now)
        self.decide()

    def decide(self) -> None:
        for release in self.books.releases(self.now):
            self.groups.append(release)
            for one in release.requests:
                self._start(one)
            self._check()

    def _check(self) -> None:
        held = len(self.in_flight) + len(self.ending)
        self.most = max(self.most, held)
        alone = len({key.split("/")[0] for key in self.in_flight}) == 1 and not self.ending
        assert held <= self.books.slots + self.books.lead or alone
        assert self.books.kv_held <= self.books.kv_tokens * (1 - WATERMARK) or alone

    def _start(self, one: HeldRequest) -> None:
        self.order.append(one.id.split("/")[0])
        for k, sequence in enumerate(one.sequences):
            self.in_flight[sequence.id] = 0
            self._asks[sequence.id] = one, k
            self._entering.append(sequence.id)

    def step(self) -> bool:
        """To the iteration's end, or to when the releaser asks; whether there is any."""
        if self._iteration is None:
            self._iteration = self._begin()
        deadline = self.books.next_deadline()
        over_s = self.ending[0][0] if self.ending else inf
        iteration_s = inf if self._iteration is None else self._iteration[0]
        if self.ending and over_s <= min(iteration_s, inf if deadline is None else deadline):
            self.now = max(self.now, over_s)
            self.books.leave(self.ending.pop(0)[1], self.now)
            self.decide()
            return True
        if deadline is not None and deadline < iteration_s:
            self.now = max(self.now, deadline)
            self.decide()
            return True
        if self._iteration is None:
            return False
        self.now, keys, tokens = self._iteration
        self._iteration = None
        for key in keys:
            self._make(key, tokens)
        self.decide()
        return True

    def _begin(self) -> tuple[float, list[str], int] | None:
        entering, self._entering = self._entering, []
        if entering:
            prompt = sum(self._sequence(key).prompt_tokens for key in entering)
            if any(self.in_flight.values()):
                self.stalls.append((len(entering), prompt))
            return self.now + COST.prefill_s(prompt), entering, 0
        if not self.in_flight:
            return None
        return self.now + COST.decode_s(len(self.in_flight)), list(self.in_flight), 1

    def _sequence(self, key: str) -> Sequence:
        one, k = self._asks[key]
        return one.sequences[k]

    def _make(self, key: str, tokens: int) -> None:
        self.in_flight[key] += tokens
        if self._asks[key][0].streamed:
            self.books.observe_tokens(key, tokens, self.now)
        made = self.in_flight[key]
        if made == self._sequence(key).max_tokens:
            del self.in_flight[key]
            one, index = self._asks[key]
            self.books.end(one, index, self.now, made)
            if not any(sequence.id in self.in_flight for sequence in one.sequences):
                self.ending.append((self.now + self.tail_s, one))

    def run(self) -> None:
        for _ in range(200_000):
            if not self.step():
                return
        raise AssertionError("it does not end")


asks = st.tuples(
    st.integers(1, 30),
    st.integers(1, 120),
    st.sampled_from([1, 1, 1, 2, 5, 9]),
    st.booleans(),
    st.floats(0.0, 2.0),
    st.sampled_from([Priority.DEFAULT, Priority.BULK]),
)


@settings(max_examples=60)
@given(
    st.lists(asks, min_size=1, max_size=30),
    st.sampled_from([*POLICIES, None]),
    st.integers(1, 6),
    st.sampled_from([150.0, 400.0, inf]),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.005, 3.0]),
)
def test_never_over_slots_or_memory_and_everybody_gets_through(
    rows: list[tuple[int, int, int, bool, float, Priority]],
    policy: str | None,
    slots: int,
    kv: float,
    lead: int,
    tail_s: float,
) -> None:
    outside = Outside(releaser(policy, slots, kv, lead), tail_s)
    arrivals = sorted(enumerate(rows), key=lambda pair: pair[1][4])
    for k, (tokens, prompt, width, streamed, at, priority) in arrivals:
        while outside.now < at and outside.step():
            pass
        outside.now = max(outside.now, at)
        one = ask(
            f"r{k}", tokens, prompt=prompt, width=width, streamed=streamed, now=at,
            priority=priority, targets=Targets(0.5, 0.03),
        )  # fmt: skip
        outside.add(one)
    outside.run()
    assert sorted(outside.order) == sorted(f"r{k}" for k in range(len(rows)))
    books = outside.books
    assert (books.running, books.queued, books.kv_held, books.busy_period) == (0, 0, 0, None)
    assert books.next_deadline() is None
    assert sum(books.ledger.counts().values()) == slots


@pytest.mark.parametrize("policy", ["threshold", "adaptive"])
def test_slots_that_fall_free_one_by_one_are_filled_in_groups(policy: str) -> None:
    groups = {}
    for name in (policy, "prefill-first"):
        outside = Outside(releaser(name, 16))
        for k in range(160):
            outside.add(ask(f"r{k}", 60 + 37 * k % 181))
        begun = len(outside.groups)
        outside.run()
        groups[name] = len(outside.groups) - begun
        assert outside.most == 16
    assert groups[policy] < groups["prefill-first"] / 2


@pytest.mark.parametrize("policy", ["adaptive", "mixed"])
def test_beside_streams_with_a_target_few_prompts_are_under_way(policy: str) -> None:
    """No more than an iteration may carry, or a single one; a fleet of bulk work gets them all."""
    most = 2048 if policy == "mixed" else (0.5 - COST.decode_s(1) - COST.alpha_p_s) / COST.beta_p_s
    worst = {}
    for targets in (NO_TARGETS, Targets(tpot_s=0.1)):
        outside = Outside(releaser(policy, 16))
        for k in range(80):
            prompt = (300, 700, 5000)[k % 3]
            outside.add(ask(f"r{k}", 20 + 37 * k % 181, prompt=prompt, targets=targets))
        outside.run()
        assert sorted(outside.order) == sorted(f"r{k}" for k in range(80))
        worst[targets] = max(tokens for count, tokens in outside.stalls if count > 1)
    assert worst[Targets(tpot_s=0.1)] <= most < worst[NO_TARGETS]


def test_a_prompt_that_is_overdue_holds_nobody_back() -> None:
    """It waits for something else than its turn, as behind a proxy that keeps first tokens back."""
    books, now = releaser("adaptive", 4), 0.0
    late, running = ask("late", prompt=3000), ask("a", targets=Targets(tpot_s=0.1))
    for one in (running, late):
        books.add(one, now)
        assert len(list(books.releases(now))) == 1
        now += 0.1
        books.observe_tokens(running.id, 1, now)
    books.add(ask("next", prompt=3000), now)
    assert list(books.releases(now)) == []
    deadline = books.next_deadline()
    assert deadline is not None
    assert deadline > now
    assert len(list(books.releases(now + 10 * COST.prefill_s(3000)))) == 1


def with_bulk(slots: int, waiting: int) -> tuple[Releaser, list[HeldRequest]]:
    """An engine full of bulk work, with more of it that waits, and those that run."""
    books = releaser("prefill-first", slots)
    for k in range(slots + waiting):
        books.add(ask(f"bulk{k}", priority=Priority.BULK), 0.0)
    running = released(books, 0.0)
    assert len(running) == slots  # nobody is here for whom it would step back
    for one in running:
        books.observe_tokens(one.id, 1, 0.1)
    return books, running


def released(books: Releaser, now: float) -> list[HeldRequest]:
    return [one for release in books.releases(now) for one in release.requests]


def over(books: Releaser, one: HeldRequest, now: float) -> None:
    books.end(one, 0, now)
    books.leave(one, now)


def test_no_bulk_work_is_released_while_online_work_waits_or_is_prefilled() -> None:
    books, running = with_bulk(8, waiting=9)
    online = ask("online", prompt=700)
    books.add(online, 0.2)
    for one in running[:3]:
        over(books, one, 0.3)
    assert released(books, 0.3) == [online]  # though there are three slots
    assert released(books, 0.31) == []
    deadline = books.next_deadline()
    assert deadline is not None  # somebody looks again, as its first token wakes nobody
    assert 0.31 < deadline < 0.4
    books.observe_tokens(online.id, 1, 0.5)
    assert len(released(books, 0.5)) == 1  # one slot of eight is left free
    late = ask("late")
    books.add(late, 0.6)
    assert released(books, 0.6) == [late]


def test_beside_online_work_rounds_are_as_short_as_its_targets_ask() -> None:
    books, running = with_bulk(8, waiting=9)
    online = ask("online", targets=Targets(0.5, COST.decode_s(5)))
    for one in running[:5]:
        over(books, one, 0.2)
    books.add(online, 0.2)
    assert released(books, 0.2) == [online]
    books.observe_tokens(online.id, 1, 0.3)
    assert len(released(books, 0.3)) == 1  # five together
    over(books, online, 0.4)
    assert len(released(books, 0.4)) == 3  # it is gone: all but the slot that is left free
    over(books, running[5], 0.4 + LATELY_S + 1)
    assert len(released(books, 0.4 + LATELY_S + 1)) == 2


def test_bulk_work_has_its_turn_before_online_work_that_came_much_later() -> None:
    books, running = with_bulk(4, waiting=1)
    long_s = 2 * (HEAD_START_S[Priority.DEFAULT] - HEAD_START_S[Priority.BULK])
    books.add(ask("online", now=long_s), long_s)
    over(books, running[0], long_s)
    turn = released(books, long_s)
    assert len(turn) == 1
    assert turn[0].id.startswith("bulk")


def test_a_slot_is_nobody_elses_before_the_answer_is_over() -> None:
    books = releaser("prefill-first", 2)
    wide, late = ask("wide", 5, width=2), [ask("late", 50), ask("later", 40)]
    books.add(wide, 0.0)
    assert len(list(books.releases(0.0))) == 1
    for one in late:
        books.add(one, 0.0)
    books.end(wide, 0, 1.0)  # a choice that is over leaves its slot, but not the last one
    assert [release.requests for release in books.releases(1.0)] == [(late[0],)]
    books.end(wide, 1, 1.1)
    assert list(books.releases(9.0)) == []
    books.leave(wide, 9.0)
    assert [release.requests for release in books.releases(9.0)] == [(late[1],)]


def test_answers_that_end_one_by_one_leave_their_slots_to_one_group() -> None:
    books = releaser("prefill-first", 4)
    first = [ask(f"r{k}", 5) for k in range(4)]
    for one in first:
        books.add(one, 0.0)
    assert len(list(books.releases(0.0))) == 1
    for k in range(4):
        books.add(ask(f"late{k}"), 0.5)
    for one in first:
        books.end(one, 0, 1.0)
    for one in first[:3]:
        books.leave(one, 1.001)
        assert list(books.releases(1.001)) == []
    deadline = books.next_deadline()
    assert deadline is not None
    assert 1.001 < deadline <= 1.0 + COST.decode_s(4)  # for those that end much later, no wait
    assert [len(release.requests) for release in books.releases(deadline)] == [3]
    books.leave(first[3], 1.1)
    assert [len(release.requests) for release in books.releases(1.1)] == [1]


def test_an_engine_with_a_policy_of_its_own_gets_all_that_fits_and_a_lead() -> None:
    outside = Outside(releaser(None, 16, lead=2))
    for k in range(40):
        outside.add(ask(f"r{k}"))
    assert len(outside.in_flight) == 18
    outside.run()
    assert len(outside.order) == 40


def test_a_request_larger_than_the_engine_goes_to_it_alone() -> None:
    outside = Outside(releaser("prefill-first", 4))
    outside.add(ask("small", 10))
    outside.add(ask("large", 10, width=6))
    outside.add(ask("late", 1, now=0.01))
    assert list(outside.in_flight) == ["small/0"]
    outside.run()
    assert outside.order == ["small", "large", "late"]


def test_who_is_urgent_goes_first() -> None:
    outside = Outside(releaser("prefill-first", 1))
    outside.add(ask("running"))
    outside.add(ask("bulk", priority=Priority.BULK))
    outside.add(ask("default"))
    outside.add(ask("now", priority=Priority.INTERACTIVE))
    outside.run()
    assert outside.order == ["running", "now", "default", "bulk"]


def test_a_cancelled_request_gives_its_slots_back() -> None:
    outside = Outside(releaser("prefill-first", 2))
    first, second = ask("first", width=2), ask("second")
    outside.add(first)
    outside.add(second)
    assert not outside.books.is_waiting(first.id)
    assert outside.books.is_waiting(second.id)
    outside.in_flight.clear()
    outside.books.leave(first, 0.0)
    outside.decide()
    assert outside.order == ["first", "second"]
    outside.books.leave(second, 0.0)
    assert (outside.books.running, outside.books.kv_held, outside.books.busy_period) == (0, 0, None)


def test_fewer_slots_hold_back_and_more_let_go() -> None:
    outside = Outside(releaser("prefill-first", 4))
    outside.books.resize(1, 0.0)
    for k in range(4):
        outside.add(ask(f"r{k}"))
    assert len(outside.in_flight) == 1
    outside.books.resize(3, 0.0)
    outside.decide()
    assert len(outside.in_flight) == 3


def test_cost_is_learnt_from_the_outside() -> None:
    """From a guess that is wrong by a factor of four, within a tenth for full rounds."""
    books = Releaser(8, inf, COST.scaled(4), POLICIES["prefill-first"](), 0.0)
    outside = Outside(books)
    for k in range(80):
        outside.add(ask(f"r{k}", 20 + 7 * k % 61))
    outside.run()
    assert books.cost.decode_s(8) == pytest.approx(COST.decode_s(8), rel=0.1)


def test_what_does_not_stream_is_taken_to_go_on() -> None:
    books = releaser("prefill-first", 2)
    whole = ask("whole", 100, streamed=False)
    books.add(whole, 0.0)
    assert len(list(books.releases(0.0))) == 1
    begins = books.next_deadline()
    assert begins is not None
    assert begins == pytest.approx(COST.prefill_s(70))
    list(books.releases(begins))
    list(books.releases(begins + 10.5 * COST.decode_s(1)))
    assert books.kv_held == 70 + 10
    books.end(whole, 0, 9.0, 100)
    assert books.in_flight.progress.finished[-1] == (70, 100)


def test_slots_are_learnt_from_an_engine_that_lets_requests_wait() -> None:
    limit = SlotLimit(16)
    for _ in range(REPORTS_TO_SHRINK - 1):
        assert limit.observe(running=10, waiting=3, prefilling=False) == 16
    assert limit.observe(running=9, waiting=3, prefilling=False) == 10
    assert limit.observe(running=10, waiting=2, prefilling=False) == 10  # as many as it was given
    for _ in range(REPORTS_TO_GROW - 1):
        assert limit.observe(running=10, waiting=0, prefilling=False) == 10
    assert limit.observe(running=10, waiting=0, prefilling=False) == 11


def test_waiting_for_ones_turn_is_no_want_of_slots() -> None:
    limit = SlotLimit(16)
    for _ in range(20):
        assert limit.observe(running=5, waiting=11, prefilling=True) == 16


def test_a_prefill_is_overdue_when_it_takes_much_longer_than_all_should() -> None:
    books = releaser("prefill-first", 2)
    assert not books.in_flight.is_prefilling(0.0)
    books.add(ask("a", 100), 0.0)
    assert len(list(books.releases(0.0))) == 1
    assert books.in_flight.is_prefilling(COST.prefill_s(70))
    assert not books.in_flight.is_prefilling(20 * COST.prefill_s(70))
    books.observe_tokens("a/0", 1, 21 * COST.prefill_s(70))
    assert not books.in_flight.is_prefilling(21 * COST.prefill_s(70))


def test_one_report_of_waiting_requests_teaches_nothing() -> None:
    limit = SlotLimit(16)
    for k in range(20):
        assert limit.observe(running=8, waiting=k % 2, prefilling=False) == 16
