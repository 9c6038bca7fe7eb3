"""Rivals choose what their pages say, and what they see of workers is as old as is said."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.policies import POLICIES
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES
from solver.routing.dispatchers import DISPATCHERS, POLL_S, POLLING, dispatcher
from solver.routing.dispatchers.base import Arrival, Immediate, Load
from solver.routing.fair import alike
from solver.sim.request import Request
from solver.sim.stale import Seen, seen_every
from solver.sim.worker import Worker, WorkerSetting

COST = PROFILES["llama-2-70b-a100-tp4"].cost


@dataclass
class Told:
    """A worker that is what it is said to be."""

    waiting: int = 0
    running: int = 0
    queued_tokens: int = 0
    prefill_tokens: int = 0
    kv_used: int = 0
    kv_capacity: float = 10_000
    slots: int = 8
    cost: CostModel = COST
    cached: int = 0

    @property
    def in_flight(self) -> int:
        return self.waiting + self.running

    @property
    def tokens(self) -> int:
        return self.kv_used + self.queued_tokens

    @property
    def round_s(self) -> float:
        return self.cost.decode_s(self.slots)

    def cached_tokens(self, arrival: Arrival) -> int:
        return min(self.cached, arrival.prompt_tokens - 1)


Score = Callable[[Told, Arrival], object]


def new_tokens(worker: Told, arrival: Arrival) -> int:
    return worker.prefill_tokens + arrival.prompt_tokens - worker.cached_tokens(arrival)


def least_work(worker: Told, _: Arrival) -> float:
    rate = worker.running / COST.decode_s(worker.running, worker.kv_used)
    speed = COST.alpha_d_s / worker.cost.alpha_d_s
    share = min(0.999, worker.kv_used / worker.kv_capacity)
    return worker.queued_tokens / (rate * speed or 2000) + 0.15 * share / (1 - share)


# The formulas of the pages, least first.
SCORES: dict[str, Score] = {
    "lmetric": lambda w, a: (new_tokens(w, a) * (w.in_flight + 1), w.in_flight),
    "weighted-lmetric": lambda w, a: (
        (new_tokens(w, a) * w.cost.beta_p_s) * ((w.in_flight + 1) * w.round_s)
    ),
    "weighted-least-requests": lambda w, _: (w.in_flight + 1) * w.round_s,
    "least-work": least_work,
    "kv-cost": lambda w, a: new_tokens(w, a) / 16 + w.kv_used / 16 + a.prompt_tokens / 16,
    "vllm-dp": lambda w, _: 4 * w.waiting + w.running,
}
tokens = st.integers(0, 9000)
fleets = st.lists(
    st.builds(
        Told,
        st.integers(0, 20),
        st.integers(0, 8),
        tokens,
        tokens,
        tokens,
        cost=st.sampled_from([COST, COST.scaled(0.5), COST.scaled(2.0)]),
        cached=st.sampled_from([0, 512, 4096]),
    ),
    min_size=1,
    max_size=5,
)


def choice(name: str, arrival: Arrival, fleet: Sequence[Load]) -> int:
    by = dispatcher(name, random.Random(0))
    assert isinstance(by, Immediate)
    by.arrive(arrival, 0.0)
    ((_, j),) = by.poll(0.0, fleet)
    return j


@pytest.mark.parametrize("name", SCORES)
@given(fleet=fleets, prompt=st.integers(1, 8000))
@settings(max_examples=60)
def test_the_first_of_the_least_by_the_formula_of_the_page(
    name: str, fleet: list[Told], prompt: int
) -> None:
    arrival = Arrival(0, 0.0, prompt, 50.0)
    chosen = choice(name, arrival, fleet)
    scores = [SCORES[name](worker, arrival) for worker in fleet]
    least = min(scores)  # type: ignore[type-var]
    assert scores[chosen] == pytest.approx(least, rel=1e-9)


EASY = Targets(10.0, 0.2)
AT_ONCE = Targets(0.001, 0.2)
EACH_FAST = Targets(10.0, 0.001)


@pytest.mark.parametrize(
    ("targets", "fleet", "chosen"),
    [
        # Both keep the targets: the busier one, so that the other stays free.
        (EASY, [Told(), Told(running=4, kv_used=4000)], 1),
        (EASY, [Told(), Told(prefill_tokens=9000)], 1),
        # One misses: the other.
        (Targets(1.0, 0.2), [Told(prefill_tokens=9000, running=1), Told(running=7)], 1),
        # Nobody is in time: whoever is idle, then whoever misses only one target, then by how much.
        (AT_ONCE, [Told(running=1), Told(prefill_tokens=900)], 1),
        (AT_ONCE, [Told(running=1, prefill_tokens=900), Told(running=5)], 1),
        (Targets(0.2, 0.001), [Told(running=2, prefill_tokens=5000), Told(running=7)], 1),
        (EACH_FAST, [Told(running=7), Told(running=2)], 1),
        # Without targets, the least latency.
        (NO_TARGETS, [Told(running=6, prefill_tokens=3000), Told(running=5)], 1),
    ],
)
def test_headroom_packs_while_targets_are_kept_and_else_misses_least(
    targets: Targets, fleet: list[Told], chosen: int
) -> None:
    arrival = Arrival(0, 0.0, 100, 50.0, targets=targets)
    assert choice("slo-headroom", arrival, fleet) == chosen
    assert choice("slo-headroom", arrival, fleet[::-1]) == 1 - chosen


def test_a_wait_for_a_slot_counts_as_time_to_the_first_token() -> None:
    full, free = Told(running=8, waiting=8), Told(running=8, slots=17)
    assert choice("slo-headroom", Arrival(0, 0.0, 100, 50.0, targets=AT_ONCE), [full, free]) == 1


def worker(*prompts: int, slots: int = 4, cached: Sequence[int] = ()) -> Worker:
    setting = WorkerSetting(slots, prefix_cache=True)
    one = Worker("", COST, setting, POLICIES["mixed"]())
    assert one.batcher.cache is not None
    one.batcher.cache.store(tuple(cached), 512 * len(cached), 10**9)
    for k, prompt in enumerate(prompts):
        submit(one, f"old {k}", prompt)
    return one


def submit(one: Worker, name: str, prompt: int, hash_ids: tuple[int, ...] = ()) -> None:
    one.submit(Request(name, prompt, 50, hash_ids=hash_ids), 0, 50.0, one.now_s)


def test_a_worker_tells_prompts_that_wait_and_prompts_that_are_prefilled() -> None:
    """The first of the three is admitted, and has 2,048 tokens prefilled in an iteration."""
    one = worker(3000, 5000, 4000)
    assert (one.waiting, one.running) == (3, 0)
    assert one.queued_tokens == one.prefill_tokens == 12_000
    one.start(0.0)
    assert (one.waiting, one.running) == (2, 1)
    left = one.queued_tokens
    assert left in (9000, 7000, 8000)
    assert one.prefill_tokens == 12_000
    one.finish()
    assert (one.queued_tokens, one.prefill_tokens) == (left, 12_000 - 2048)
    assert one.kv_used == 12_000 - left


def test_what_a_cache_holds_of_a_prompt_need_not_be_prefilled() -> None:
    one = worker(cached=(1, 2))
    submit(one, "a", 1536, (1, 2, 3))
    assert one.queued_tokens == one.prefill_tokens == 512
    one.start(0.0)
    assert (one.queued_tokens, one.prefill_tokens) == (0, 512)


FIGURES = ("in_flight", "tokens", "waiting", "queued_tokens", "prefill_tokens", "kv_used")


@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans()), max_size=6))
@settings(max_examples=50)
def test_what_was_sent_since_a_look_counts_as_at_the_worker(
    sent: list[tuple[int, bool]],
) -> None:
    """As long as nothing happens there, both say the same."""
    one = worker(100, 200, cached=(1,))
    seen = Seen(one)
    for k, (prompt, shares) in enumerate(sent):
        hash_ids = (1, 100 + k) if shares else ()
        seen.count(Arrival(k, 0.0, prompt, 50.0, hash_ids))
        submit(one, str(k), prompt, hash_ids)
    assert [getattr(seen, name) for name in FIGURES] == [getattr(one, name) for name in FIGURES]


@pytest.mark.parametrize("name", sorted(POLLING))
def test_a_burst_between_two_looks_spreads(name: str) -> None:
    fleet = [worker() for _ in range(4)]
    rule = seen_every(POLL_S, dispatcher(name, random.Random(0)))
    for k in range(40):
        rule.arrive(Arrival(k, 0.0, 100, 50.0, targets=Targets(0.1, 0.1)), 0.0)
    counts = Counter(j for _, j in rule.poll(0.0, fleet))
    if name != "least-work":  # it knows no count, but tokens
        assert counts == {0: 10, 1: 10, 2: 10, 3: 10}
    assert max(counts.values()) <= 12


def test_looks_are_at_multiples_of_the_period_while_there_is_anything_to_see() -> None:
    fleet = [worker(), worker()]
    rule = seen_every(0.5, dispatcher("vllm-dp", random.Random(0)))

    def place(now: float) -> int:
        rule.arrive(Arrival(0, now, 100, 50.0), now)
        ((_, j),) = rule.poll(now, fleet)
        submit(fleet[j], f"at {now}", 100)
        return j

    assert rule.next_deadline() is None
    assert [place(0.7), place(0.7)] == [0, 1]
    assert rule.next_deadline() == 1.0
    for k in range(5):
        submit(fleet[0], f"behind its back {k}", 100)
    assert place(0.9) == 0  # as it was sent one each, for all that it knows
    assert list(rule.poll(1.0, fleet)) == []
    assert place(1.2) == 1
    assert rule.next_deadline() == 1.5


def test_a_plan_counts_itself_and_a_period_of_nothing_is_none() -> None:
    plan = DISPATCHERS["makespan"](random.Random(0), alike)
    assert seen_every(0.1, plan) is plan
    rule = DISPATCHERS["lmetric"](random.Random(0), alike)
    assert seen_every(0.0, rule) is rule
    assert seen_every(0.1, rule) is not rule


def test_memory_without_a_limit_presses_nobody() -> None:
    arrival = Arrival(0, 0.0, 100, 50.0)
    fleet = [replace(Told(running=1), kv_capacity=inf, kv_used=k) for k in (9000, 10)]
    assert choice("least-work", arrival, fleet) == 0
