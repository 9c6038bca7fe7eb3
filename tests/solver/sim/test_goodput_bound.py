"""No schedule lets more requests keep their targets than the bound says, by hand and at random."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.policies import POLICIES
from solver.batching.queue import ORDERS
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.routing.dispatchers import DISPATCHERS
from solver.sim.goodput_bound import goodput_bound
from solver.sim.report import goodput
from solver.sim.request import Request
from solver.sim.worker import Worker, WorkerSetting
from tests.solver.sim.drive import Way, simulate

COST = CostModel(alpha_p_s=1.0, beta_p_s=0.1, alpha_d_s=2.0, beta_d_s=0.5)
TWO = WorkerSetting(slots=2)
EXACT = 1e-9


def fleet(*costs: CostModel, setting: WorkerSetting = TWO) -> list[Worker]:
    made = POLICIES["prefill-first"]
    return [Worker(f"w{j}", cost, setting, made()) for j, cost in enumerate(costs)]


def at_once(count: int, ttft_s: float, tpot_s: float = inf, output: int = 1) -> list[Request]:
    """Requests of ten prompt tokens, which begin together."""
    wanted = Targets(ttft_s, tpot_s)
    return [Request(str(k), 10, output, wanted=wanted) for k in range(count)]


def test_what_has_no_targets_keeps_them() -> None:
    requests = [Request(str(k), 1000, 1000, wanted=NO_TARGETS) for k in range(50)]
    assert goodput_bound(requests, fleet(COST)) == 1.0
    assert goodput_bound([], fleet(COST)) == 1.0


def test_only_those_with_targets_count() -> None:
    """Bulk work behind them keeps nobody's, and nobody from his."""
    bulk = [Request(f"bulk{k}", 10, 1, wanted=NO_TARGETS, arrival_s=100.0) for k in range(24)]
    requests = [*at_once(8, 12.0), *bulk]
    way = Way(COST.to_ms(), 2, "prefill-first", "fcfs")
    assert goodput(simulate(requests, way).fleet) == 4 / 8
    assert goodput_bound(requests, fleet(COST)) == 4 / 8
    assert goodput(simulate(bulk, way).fleet) == goodput_bound(bulk, fleet(COST)) == 1.0


@pytest.mark.parametrize(("ttft_s", "kept"), [(6.0, 2), (12.0, 4), (18.0, 6), (60.0, 8)])
def test_pairs_take_six_seconds_each(ttft_s: float, kept: int) -> None:
    """A stage of two takes 1 + 2, and the round of both 3; the schedule that does so reaches it."""
    requests = at_once(8, ttft_s)
    way = Way(COST.to_ms(), 2, "prefill-first", "fcfs")
    assert goodput(simulate(requests, way).fleet) == kept / 8
    assert goodput_bound(requests, fleet(COST)) == kept / 8


def test_nobody_is_in_time_who_could_not_be_alone() -> None:
    """Alone, the first token takes 1 + 1 + 2.5 seconds and each later one 2.5."""
    assert goodput_bound(at_once(1, 4.5, 2.5, 4), fleet(COST)) == 1
    assert goodput_bound(at_once(1, 4.4, 2.5, 4), fleet(COST)) == 0
    assert goodput_bound(at_once(1, 4.5, 2.4, 4), fleet(COST)) == 0
    assert goodput_bound(at_once(1, 4.4, 2.4, 4), fleet(COST, COST.scaled(0.5))) == 1


def test_each_worker_has_its_own_time() -> None:
    """The fast one does two pairs meanwhile; the slow one is too slow for all."""
    assert goodput_bound(at_once(8, 6.0), fleet(COST, COST.scaled(0.5))) == pytest.approx(6 / 8)
    assert goodput_bound(at_once(8, 6.0), fleet(COST, COST.scaled(2.0))) == pytest.approx(2 / 8)


def test_rounds_that_must_be_short_cannot_be_shared_by_many() -> None:
    """Of 100 slots, rounds of 4 seconds on average have room for (4 - 2) / 0.5 = 4."""
    requests = at_once(40, 20.0, 4.0, 100)
    wide = WorkerSetting(slots=100)
    by_end_s, prompts_s = 20 + 99 * 4.0, 1 / 100 + 1 + (2 / 100 + 0.5)
    least = prompts_s + 99 * (2 / 4 + 0.5)
    assert goodput_bound(requests, fleet(COST, setting=wide)) <= by_end_s / least / 40


def test_memory_and_stalls_limit_batches_too() -> None:
    requests = at_once(40, 60.0, 4.0, 20)
    wide = WorkerSetting(slots=100)
    loose = goodput_bound(requests, fleet(COST, setting=wide))
    assert goodput_bound(requests, fleet(COST, setting=replace(wide, kv_tokens=60))) < loose
    dear = replace(COST, beta_p_s=1.0)  # 10 seconds a prompt: later ones stall for too long
    slack = 60.0 + 19 * (4.0 - 2.5)
    by_stalls = (60.0 + 19 * 4.0) / (10 + 20 * (0.5 + 2 * 10 / slack))
    assert goodput_bound(requests, fleet(dear, setting=wide)) * 40 <= by_stalls + EXACT


@pytest.mark.parametrize(
    ("caches", "others_at_s", "kept"), [(False, 0.0, 0), (True, 0.0, 1), (True, 5.0, 0)]
)
def test_what_another_may_have_brought_in_time_is_not_prefilled(
    caches: bool, others_at_s: float, kept: int
) -> None:
    """The prompt takes 51.2 seconds, and without the block that both have one token's time."""
    wanted = Targets(4.0, inf)
    one = Request("one", 513, 1, 0.0, (7, 8), wanted=wanted)
    other = Request("other", 512, 1, others_at_s, (7,), wanted=Targets(0.1, inf))
    bound = goodput_bound([one, other], fleet(COST, setting=replace(TWO, prefix_cache=caches)))
    assert bound == kept / 2


terms, round_terms = st.floats(0.0, 0.003), st.floats(0.001, 0.05)
context_terms = st.one_of(st.floats(0.0, 1e-5), st.sampled_from([1e-49, 1e-20, 1e-14]))
plain = st.builds(CostModel, round_terms, terms, round_terms, terms, context_terms)
mixing = st.builds(
    CostModel, round_terms, terms, round_terms, terms, st.just(0.0), round_terms, terms, terms
)


@st.composite
def ways(draw: st.DrawFn) -> Way:
    """Every policy, dispatcher and order, with and without memory, budgets and caches."""
    speeds = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=3))
    return Way(
        draw(st.one_of(plain, mixing)).to_ms(),
        slots=draw(st.sampled_from([1, 2, 5, 20])),
        policy=draw(st.sampled_from(sorted(POLICIES))),
        order=draw(st.sampled_from(ORDERS)),
        lengths=draw(st.sampled_from(["known", "unknown", "predicted"])),
        kv_tokens=draw(st.sampled_from([inf, 700.0, 2000.0])),
        prefill_budget=draw(st.sampled_from([inf, 64.0])),
        prefix_cache=draw(st.booleans()),
        workers=len(speeds),
        speeds=speeds,
        dispatch=draw(st.sampled_from(sorted(DISPATCHERS))),
    )


@st.composite
def traffic(draw: st.DrawFn) -> list[Request]:
    """Up to forty requests, some with prompts in common, at once or within a second or two."""
    longest = draw(st.sampled_from([(5, 3), (60, 30), (600, 10), (20, 90)]))
    gap_s = draw(st.sampled_from([0.0, 0.005, 0.05]))
    arrival_s, requests = 0.0, []
    for k in range(draw(st.integers(1, 40))):
        arrival_s += gap_s * draw(st.integers(0, 3))
        prompt, output = (draw(st.integers(1, most)) for most in longest)
        document = draw(st.integers(0, 3))
        blocks = tuple(100 * document + block for block in range(-(-prompt // 512)))
        requests.append(Request(str(k), prompt, output, arrival_s, blocks))
    return requests


@given(ways(), traffic(), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_what_was_done_was_possible(way: Way, requests: list[Request], rng: random.Random) -> None:
    """Some ask for just what a run has given to them, the others for less time."""
    served = simulate(requests, way).fleet
    asking: list[Request] = []
    kept = 0
    for request, first_s, end_s in zip(served.requests, served.first_s, served.end_s, strict=True):
        ttft_s, later = first_s - request.arrival_s, request.output_tokens - 1
        given = Targets(ttft_s, (end_s - first_s) / later if later else inf)
        less = Targets(given.ttft_s * rng.uniform(0.1, 0.99), given.tpot_s)
        asking.append(replace(request, wanted=rng.choice([given, given, less])))
        kept += asking[-1].targets.met(given.ttft_s, given.tpot_s if later else 0.0)
    assert goodput_bound(asking, served.workers) >= kept / len(requests)


@given(
    st.one_of(plain, mixing),
    st.integers(1, 2),
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=4
    ),
    st.floats(1.0, 4.0),
    st.floats(1.0, 3.0),
)
@settings(max_examples=30)
def test_no_schedule_of_a_few_is_better(
    cost: CostModel, slots: int, load: list[tuple[int, int, int]], slack: float, pace: float
) -> None:
    """By trying every one: who is let in when, before or with a round, or whether all wait."""
    alone_s = cost.prefill_s(40) + cost.decode_s(1, 40)
    wanted = Targets(slack * alone_s, pace * cost.decode_s(1, 40))
    requests = [
        Request(str(k), prompt, output, late * alone_s / 2, wanted=wanted)
        for k, (prompt, output, late) in enumerate(sorted(load, key=lambda one: one[2]))
    ]
    workers = fleet(cost, setting=WorkerSetting(slots))
    assert goodput_bound(requests, workers) >= optimum(cost, slots, requests) / len(requests)


def optimum(cost: CostModel, slots: int, requests: Sequence[Request]) -> int:
    """How many can keep their targets; nothing is done for the others."""
    for size in range(len(requests), 0, -1):
        if any(_Trial(cost, slots, few).possible() for few in combinations(requests, size)):
            return size
    return 0


@dataclass(frozen=True)
class _At:
    """The time, tokens made by each, -1 before its prefill, and when each made its first."""

    now: float
    made: tuple[int, ...]
    first_s: tuple[float, ...]


@dataclass(frozen=True)
class _Trial:
    """Whether all of these can keep their targets on one engine."""

    cost: CostModel
    slots: int
    requests: Sequence[Request]

    def possible(self) -> bool:
        n = len(self.requests)
        return self._ends_well(_At(0.0, (-1,) * n, (inf,) * n))

    def _ends_well(self, at: _At) -> bool:
        made = zip(self.requests, at.made, strict=True)
        if all(tokens == request.output_tokens for request, tokens in made):
            return True
        return any(after is not None and self._ends_well(after) for after in self._next(at))

    def _next(self, at: _At) -> Iterator[_At | None]:
        """After each thing that could be done now; None if somebody is late then."""
        left = list(enumerate(zip(self.requests, at.made, strict=True)))
        running = [i for i, (r, tokens) in left if 0 <= tokens < r.output_tokens]
        unborn = [r.arrival_s for _, (r, _) in left if r.arrival_s > at.now]
        waiting = [i for i, (r, tokens) in left if tokens < 0 and r.arrival_s <= at.now]
        if unborn and not running:
            yield replace(at, now=min(unborn))
        if running:
            yield self._after(at, running, ())
        for size in range(1, min(self.slots - len(running), len(waiting)) + 1):
            for let_in in combinations(waiting, size):
                yield self._after(at, (), let_in)
                if running and self.cost.mixed is not None:
                    yield self._after(at, running, let_in)

    def _after(self, at: _At, running: Sequence[int], let_in: Sequence[int]) -> _At | None:
        end = at.now + self._took_s(at, running, let_in)
        made, first_s = list(at.made), list(at.first_s)
        for i in let_in:
            made[i] = 0
        for i in running:
            made[i] += 1
            first_s[i] = end if made[i] == 1 else first_s[i]
            request = self.requests[i]
            ended = made[i] == request.output_tokens > 1
            each_s = (end - first_s[i]) / (made[i] - 1) if ended else 0.0
            if not request.targets.met(first_s[i] - request.arrival_s - EXACT, each_s - EXACT):
                return None
        return _At(end, tuple(made), tuple(first_s))

    def _took_s(self, at: _At, running: Sequence[int], let_in: Sequence[int]) -> float:
        tokens = sum(self.requests[i].prompt_tokens for i in let_in)
        kv = sum(self.requests[i].prompt_tokens + at.made[i] for i in running)
        if not running:
            return self.cost.prefill_s(tokens)
        if not let_in:
            return self.cost.decode_s(len(running), kv)
        return self.cost.mixed_s(tokens, len(running), kv)
