"""Lower bounds on engines' time: by hand, against the true optimum, and in the right directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.lab.simulation.traces import dataset
from solver.batching.bounds import Engine, Work, engine_bound, fleet_bound
from solver.cost.model import CostModel
from solver.cost.profiles import PROFILES

PAPER = PROFILES["llama-65b-ascend"]
COST = CostModel(alpha_p_s=1.0, beta_p_s=0.1, alpha_d_s=2.0, beta_d_s=0.5)
MIXING = replace(COST, alpha_m_s=1.5, beta_mp_s=0.1, beta_md_s=0.4)
WORK = Work(requests=3, prompt=30, output=10, longest_output=6)

terms, round_terms = st.floats(0.0, 3.0), st.floats(0.001, 3.0)
plain = st.builds(CostModel, terms, terms, round_terms, terms, terms)
mixing = st.builds(CostModel, terms, terms, round_terms, terms, terms, round_terms, terms, terms)
works = st.builds(
    Work,
    requests=st.integers(1, 50),
    prompt=st.integers(50, 5000),
    output=st.integers(100, 5000),
    longest_output=st.integers(1, 100),
    context=st.integers(0, 100_000),
)


def test_the_papers_data_take_173_seconds_at_least() -> None:
    requests, real = dataset("gsm8k-llama65b")
    outputs = [request.output_tokens for request in requests]
    prompt = sum(request.prompt_tokens for request in requests)
    work = Work(len(requests), prompt, sum(outputs), max(outputs))
    bound = engine_bound(PAPER.cost, PAPER.slots, work)
    assert bound == pytest.approx(173.40, abs=0.005 if real else 6)


def test_the_bound_by_hand() -> None:
    """Two stages, and as many rounds as the longest answer has tokens: 3 + 2 + 5 + 6 * 2."""
    assert engine_bound(COST, 2, WORK) == pytest.approx(22)
    assert engine_bound(COST, 1, WORK) == pytest.approx(3 + 3 + 5 + 10 * 2)
    assert engine_bound(COST, 2, WORK, prefill_budget=10) == pytest.approx(23)  # three stages
    reading = replace(COST, gamma_d_s=0.01)
    work = replace(WORK, context=100)
    assert engine_bound(reading, 2, work) == pytest.approx(22 + 1)
    assert engine_bound(reading, 2, work, kv_tokens=10) == pytest.approx(22 + 1 + 4 * 2)


def test_the_bound_with_mixed_iterations_by_hand() -> None:
    """One prefill, then six iterations of the cheaper fixed time, or ten shares of a full one."""
    assert engine_bound(MIXING, 2, WORK) == pytest.approx(1 + 3 + 6 * 1.5 + 10 * 0.4)
    short = replace(WORK, longest_output=5)
    assert engine_bound(MIXING, 2, short) == pytest.approx(1 + 3 + 5 * 2.3)
    dear = replace(MIXING, alpha_m_s=9.0, beta_mp_s=9.0, beta_md_s=9.0)
    assert engine_bound(dear, 2, WORK) == pytest.approx(22 - 1)  # but for the second stage


@given(mixing, works, st.integers(1, 60), st.sampled_from([inf, 100.0, 5000.0]))
def test_mixing_can_only_lower_the_bound(
    cost: CostModel, work: Work, slots: int, room: float
) -> None:
    exclusive = replace(cost, alpha_m_s=None, beta_mp_s=None, beta_md_s=None)
    both = [
        engine_bound(c, slots, work, kv_tokens=room, prefill_budget=room) for c in (cost, exclusive)
    ]
    assert both[0] <= both[1] * (1 + 1e-9)


@given(st.one_of(plain, mixing), works, st.integers(1, 60), st.integers(50, 5000))
def test_more_work_takes_longer_and_more_room_does_not(
    cost: CostModel, work: Work, slots: int, room: int
) -> None:
    bound = engine_bound(cost, slots, work, kv_tokens=room, prefill_budget=room)
    most = bound * (1 + 1e-9)
    for more in (slots, slots + 1), (slots * 3, 2 * slots):
        assert engine_bound(cost, max(more), work, kv_tokens=room, prefill_budget=room) <= most
    for wider in (room + 1, inf):
        assert engine_bound(cost, slots, work, kv_tokens=wider, prefill_budget=wider) <= most
    for name in ("requests", "prompt", "output", "longest_output", "context"):
        larger = replace(work, **{name: getattr(work, name) + 37})
        grown = engine_bound(cost, slots, larger, kv_tokens=room, prefill_budget=room)
        assert grown >= bound * (1 - 1e-9)


@given(
    st.one_of(plain, mixing),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=4),
)
@settings(max_examples=60)
def test_no_schedule_is_faster_than_the_bound(
    cost: CostModel, slots: int, load: list[tuple[int, int]]
) -> None:
    """The best of all schedules of a few requests: who is let in when, before or with a round."""
    prompts = [prompt for prompt, _ in load]
    outputs = [output for _, output in load]
    read = sum(p * d + d * (d - 1) // 2 for p, d in load)
    work = Work(len(load), sum(prompts), sum(outputs), max(outputs), read)
    best = optimum(cost, slots, tuple(prompts), tuple(outputs))
    assert engine_bound(cost, slots, work) <= best * (1 + 1e-9)
    columns = np.zeros(len(load)), np.array(prompts, float), np.array(outputs, float)
    assert fleet_bound([Engine(cost, slots)], *columns) <= best * (1 + 1e-9)


def optimum(
    cost: CostModel, slots: int, prompts: tuple[int, ...], outputs: tuple[int, ...]
) -> float:
    """Seconds; by trying everything."""

    def admissions(left: tuple[int, ...], running: frozenset[int]) -> Iterator[frozenset[int]]:
        """Who may be let in together: any of those that wait, as far as there are slots."""
        waiting = [i for i, tokens in enumerate(left) if tokens and i not in running]
        for count in range(1, min(len(waiting), slots - len(running)) + 1):
            yield from map(frozenset, combinations(waiting, count))

    @cache
    def best(left: tuple[int, ...], running: frozenset[int]) -> float:
        if not any(left):
            return 0.0
        ways = []
        context = sum(prompts[i] + outputs[i] - left[i] for i in running)
        after = tuple(tokens - (i in running) for i, tokens in enumerate(left))
        still = frozenset(i for i in running if after[i])
        if running:
            ways.append(cost.decode_s(len(running), context) + best(after, still))
        for admitted in admissions(left, running):
            tokens = sum(prompts[i] for i in admitted)
            ways.append(cost.prefill_s(tokens) + best(left, running | admitted))
            if cost.mixed is not None and running:
                mixed_s = cost.mixed_s(tokens, len(running), context)
                ways.append(mixed_s + best(after, still | admitted))
        return min(ways)

    return best(outputs, frozenset())


# Fleets.

ONE = (np.zeros(1), np.array([10.0]), np.array([4.0]))  # arrival, prompt, output


def test_one_request_takes_as_long_as_alone_on_the_engine_that_is_best_for_it() -> None:
    alone = 1 + 1 + 4 * 2.5
    assert fleet_bound([Engine(COST, 2)], *ONE) == pytest.approx(alone)
    assert fleet_bound([Engine(COST, 2)] * 9, *ONE) == pytest.approx(alone)
    fleet = [Engine(COST, 2), Engine(COST.scaled(0.5), 2)]
    assert fleet_bound(fleet, *ONE) == pytest.approx(alone / 2)
    late = (np.array([7.0]), *ONE[1:])
    assert fleet_bound([Engine(COST, 2)], *late) == pytest.approx(7 + alone)
    assert fleet_bound([Engine(COST, 2)], *(np.zeros(0),) * 3) == 0


def test_many_requests_take_their_share_of_full_engines() -> None:
    """Each takes 1/2 + 1 + 4 * 3/2 engine seconds, and half of it on the fast engine."""
    arrival, prompt, output = (np.repeat(column, 60) for column in ONE)
    fleet = [Engine(COST, 2), Engine(COST.scaled(0.5), 2)]
    assert fleet_bound(fleet[:1], arrival, prompt, output) == pytest.approx(60 * 7.5)
    assert fleet_bound(fleet, arrival, prompt, output) == pytest.approx(60 * 7.5 / 3)
    arrival[20:] = 400.0  # those forty can only be begun then
    assert fleet_bound(fleet, arrival, prompt, output) == pytest.approx(400 + 40 * 7.5 / 3)


@given(
    st.one_of(plain, mixing),
    st.lists(st.floats(0.1, 9), min_size=1, max_size=5),
    st.integers(1, 9),
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 99), st.integers(1, 99)), min_size=2),
)
@settings(max_examples=60)
def test_more_requests_or_fewer_engines_take_longer(
    cost: CostModel, factors: list[float], slots: int, load: list[tuple[float, int, int]]
) -> None:
    """On engines that differ in speed."""
    fleet = [Engine(cost.scaled(factor), slots) for factor in factors]
    arrival, prompt, output = np.array(sorted(load), dtype=np.float64).T
    bound = fleet_bound(fleet, arrival, prompt, output)
    assert 0 <= fleet_bound(fleet, arrival[:-1], prompt[:-1], output[:-1]) <= bound * (1 + 1e-9)
    larger = [*fleet, Engine(cost.scaled(0.3), slots)]
    assert fleet_bound(larger, arrival, prompt, output) <= bound * (1 + 1e-9)
