"""The online fit: it finds the engine's cost model, follows it, and nothing throws it off."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf, isfinite, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.cost.linear import nearest, solve
from solver.cost.model import Action, CostModel
from solver.cost.online import OnlineFit
from solver.cost.profiles import PROFILES

PAPER = PROFILES["llama-65b-ascend"].cost
FULL = CostModel(0.020, 0.0002, 0.015, 0.0004, 2e-7, 0.022, 0.0002, 0.0003)
KINDS = (Action.PREFILL, Action.DECODE, Action.MIXED)


def drawn(rng: random.Random, action: Action) -> tuple[int, int, int]:
    """Prompt tokens, batch and cached tokens of an iteration."""
    batch = 0 if action is Action.PREFILL else rng.randint(1, 64)
    prompt = 0 if action is Action.DECODE else rng.randint(16, 2048)
    return prompt, batch, batch * rng.randint(50, 2000)


def true_s(cost: CostModel, action: Action, prompt: int, batch: int, kv: int) -> float:
    if action is Action.PREFILL:
        return cost.prefill_s(prompt)
    return cost.decode_s(batch, kv) if action is Action.DECODE else cost.mixed_s(prompt, batch, kv)


def feed(
    fit: OnlineFit,
    cost: CostModel,
    rng: random.Random,
    count: int,
    noise: float = 0.0,
    kinds: tuple[Action, ...] = KINDS,
) -> int:
    """So many iterations of each kind; how many were used."""
    used = 0
    for _ in range(count):
        for action in kinds:
            row = drawn(rng, action)
            seconds = true_s(cost, action, *row) * rng.lognormvariate(0.0, noise)
            used += fit.observe(action, *row, seconds)
    return used


def errors(fit: OnlineFit, cost: CostModel, seed: int = 99) -> list[float]:
    """Relative errors over iterations that were not seen, sorted."""
    rng, found = random.Random(seed), []
    for action in KINDS:
        for _ in range(60):
            row = drawn(rng, action)
            truth = true_s(cost, action, *row)
            found.append(abs(true_s(fit.cost, action, *row) / truth - 1))
    return sorted(found)


def mixing_like_decoding(cost: CostModel) -> CostModel:
    """A mixed iteration reads the weights as a decode round does: it takes at least as long."""
    assert cost.alpha_m_s is not None
    assert cost.beta_md_s is not None
    return replace(
        cost,
        alpha_m_s=max(cost.alpha_d_s, cost.alpha_m_s),
        beta_md_s=max(cost.beta_d_s, cost.beta_md_s),
    )


terms = st.builds(
    CostModel,
    st.floats(1e-4, 0.1),
    st.floats(1e-5, 1e-3),
    st.floats(1e-3, 0.1),
    st.floats(1e-5, 1e-2),
    st.one_of(st.just(0.0), st.floats(1e-8, 1e-6)),
    st.floats(1e-3, 0.1),
    st.floats(1e-5, 1e-3),
    st.floats(1e-5, 1e-2),
    st.one_of(st.just(0.0), st.floats(1e-9, 1e-7)),
).map(mixing_like_decoding)


@given(
    truth=terms,
    wrong=st.lists(st.floats(0.1, 10), min_size=9, max_size=9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_an_engine_is_found_though_each_term_is_ten_times_wrong(
    truth: CostModel, wrong: list[float], seed: int
) -> None:
    told = zip(truth.to_ms().items(), wrong, strict=True)
    fit = OnlineFit(CostModel.from_ms({name: value * factor for (name, value), factor in told}))
    feed(fit, truth, random.Random(seed), 120, noise=0.05)
    found = errors(fit, truth)
    assert found[len(found) // 2] < 0.05
    assert found[int(0.95 * len(found))] < 0.25


@pytest.mark.parametrize("factor", [0.01, 0.3, 3, 100])
def test_a_wrong_prior_is_overcome_within_tens_of_iterations(factor: float) -> None:
    fit = OnlineFit(FULL.scaled(factor))
    feed(fit, FULL, random.Random(1), 40)
    assert errors(fit, FULL)[-1] < 0.1


def test_exact_samples_of_the_prior_change_nothing() -> None:
    fit = OnlineFit(FULL)
    assert feed(fit, FULL, random.Random(1), 200) == 600
    assert errors(fit, FULL)[-1] < 1e-9


def test_mixed_terms_are_learnt_once_there_are_mixed_iterations() -> None:
    fit, rng = OnlineFit(PAPER), random.Random(1)
    feed(fit, FULL, rng, 60, kinds=(Action.PREFILL, Action.DECODE))
    assert fit.cost.mixed is None
    feed(fit, FULL, rng, 60, noise=0.02)
    assert errors(fit, FULL)[-1] < 0.1


def test_stalls_are_refused() -> None:
    rng, fit = random.Random(1), OnlineFit(FULL.scaled(2))
    refused = 0
    for k in range(600):
        action = KINDS[k % 3]
        row = drawn(rng, action)
        stall = rng.random() < 0.1
        seconds = true_s(FULL, action, *row) * rng.lognormvariate(0.0, 0.05)
        used = fit.observe(action, *row, seconds * (30 if stall else 1))
        refused += stall and not used
        if k > 60:
            assert used is not stall
    assert refused > 30
    assert errors(fit, FULL)[-1] < 0.15


def test_moderate_outliers_weigh_little() -> None:
    """A twentieth of the times are 45 % too long: just what is not refused."""
    rng, fit = random.Random(1), OnlineFit(FULL)
    for k in range(900):
        action = KINDS[k % 3]
        row = drawn(rng, action)
        slow = 1.45 if rng.random() < 0.05 else 1.0
        fit.observe(action, *row, true_s(FULL, action, *row) * slow * rng.lognormvariate(0, 0.02))
    assert errors(fit, FULL)[90] < 0.02


@pytest.mark.parametrize("factor", [0.5, 1.3, 2, 10])
def test_an_engine_that_changes_is_followed_within_dozens(factor: float) -> None:
    fit, rng = OnlineFit(FULL), random.Random(1)
    feed(fit, FULL, rng, 500, noise=0.03)
    changed = FULL.scaled(factor)
    feed(fit, changed, rng, 60, noise=0.03)
    assert errors(fit, changed)[90] < 0.06


@given(seed=st.integers(0, 1000), batch=st.integers(1, 64))
@settings(max_examples=3)
def test_what_was_learnt_stays_while_nothing_is_told_of_it(seed: int, batch: int) -> None:
    """Thousands of rounds of one batch do not make the fit forget the others."""
    fit, rng = OnlineFit(FULL.scaled(3)), random.Random(seed)
    feed(fit, FULL, rng, 100, noise=0.03)
    before = errors(fit, FULL)[-1]
    for _ in range(1000):
        row = 0, batch, batch * 300
        seconds = true_s(FULL, Action.DECODE, *row) * rng.lognormvariate(0.0, 0.03)
        assert fit.observe(Action.DECODE, *row, seconds)
    assert errors(fit, FULL)[-1] < before + 0.1


def test_what_rounds_never_tell_stays_with_the_prior() -> None:
    """One batch, one context: the terms cannot be told apart, and stay near the prior's shares."""
    fit, rng = OnlineFit(FULL), random.Random(1)
    for _ in range(2000):
        seconds = true_s(FULL, Action.DECODE, 0, 32, 9600) * rng.lognormvariate(0.0, 0.05)
        fit.observe(Action.DECODE, 0, 32, 9600, seconds)
    for batch in (1, 64):
        assert fit.cost.decode_s(batch, batch * 300) == pytest.approx(
            FULL.decode_s(batch, batch * 300), rel=0.15
        )


def test_no_gamma_where_rounds_show_none() -> None:
    fit, truth = OnlineFit(PAPER), replace(FULL, gamma_d_s=0.0)
    feed(fit, truth, random.Random(1), 300, noise=0.02, kinds=(Action.DECODE,))
    share = fit.cost.gamma_d_s * 32 * 1000 / truth.decode_s(32)
    assert share < 0.03


@pytest.mark.parametrize("seconds", [0.0, -1.0, nan, inf, -inf, 1e9])
@pytest.mark.parametrize("action", KINDS)
def test_nonsense_is_refused(action: Action, seconds: float) -> None:
    fit = OnlineFit(FULL)
    assert not fit.observe(action, 100, 8, 1000, seconds)
    assert fit.cost == FULL


@pytest.mark.parametrize(
    ("action", "row"),
    [
        (Action.IDLE, (1, 1, 1)),
        (Action.PREFILL, (0, 0, 0)),
        (Action.PREFILL, (-5, 0, 0)),
        (Action.DECODE, (0, 0, 0)),
        (Action.DECODE, (0, 4, -1)),
        (Action.MIXED, (10, 0, 0)),
        (Action.MIXED, (0, 10, 0)),
    ],
)
def test_iterations_that_cannot_be_are_refused(action: Action, row: tuple[int, int, int]) -> None:
    fit = OnlineFit(FULL)
    assert not fit.observe(action, *row, 0.01)
    assert fit.cost == FULL


samples = st.tuples(
    st.sampled_from(KINDS),
    st.integers(-1, 10**6),
    st.integers(-1, 10**4),
    st.integers(-1, 10**8),
    st.one_of(st.floats(1e-7, 100), st.floats(), st.sampled_from([0.01, 0.01, 0.02])),
)


@given(prior=st.one_of(terms, st.just(PAPER)), seen=st.lists(samples, max_size=60))
@settings(max_examples=40)
def test_it_stays_a_cost_model_whatever_comes(
    prior: CostModel, seen: list[tuple[Action, int, int, int, float]]
) -> None:
    fit = OnlineFit(prior)
    for sample in seen:
        fit.observe(*sample)
        for value in fit.cost.to_ms().values():
            assert isfinite(value)
            assert value >= 0
        assert fit.cost.decode_s(1) > 0
        assert fit.cost.prefill_s(1) > 0


@given(
    rows=st.lists(st.tuples(*[st.floats(-5, 5)] * 3), min_size=4, max_size=6),
    point=st.tuples(*[st.floats(-3, 3)] * 3),
    other=st.tuples(*[st.floats(0, 3)] * 3),
)
def test_nobody_without_negative_terms_is_nearer(
    rows: list[tuple[float, ...]], point: tuple[float, ...], other: tuple[float, ...]
) -> None:
    matrix = [[sum(row[i] * row[j] for row in rows) + (i == j) for j in range(3)] for i in range(3)]

    def distance(place: tuple[float, ...]) -> float:
        d = [a - b for a, b in zip(place, point, strict=True)]
        return sum(d[i] * matrix[i][j] * d[j] for i in range(3) for j in range(3))

    found = tuple(nearest(matrix, point))
    assert min(found) >= 0
    assert distance(found) <= distance(other) + 1e-9


def test_a_singular_matrix_has_no_solution() -> None:
    assert solve([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0]]) is None


PRIOR = CostModel.from_ms(
    {
        "alpha_p_ms": 10,
        "beta_p_ms": 0.1,
        "alpha_d_ms": 10,
        "beta_d_ms": 0.1,
        "alpha_m_ms": 10,
        "beta_mp_ms": 0.1,
        "beta_md_ms": 0.1,
    }
)
ALPHA, BETA_P, BETA_D, GAMMA_D = 0.0029, 54e-6, 150e-6, 4e-7


def seconds(prompt: int, batch: int, kv: int, extra: float) -> float:
    both = extra if prompt and batch else 0.0
    return ALPHA + BETA_P * prompt + BETA_D * batch + GAMMA_D * kv + both


def learnt(extra: float, *, noise: float = 0.0, iterations: int = 2000) -> OnlineFit:
    """Mostly decode rounds, some mixed iterations of nearly the same size, very few prefills."""
    rng, fit = random.Random(3), OnlineFit(PRIOR)
    for k in range(iterations):
        batch = rng.randint(1, 16)
        kv = batch * rng.randint(50, 500)
        prompt = 0 if k % 5 else min(512 - batch, rng.randint(300, 900))
        if k % 400 == 0:
            prompt, batch, kv = 512, 0, 0
        action = Action.DECODE if not prompt else Action.MIXED if batch else Action.PREFILL
        took = seconds(prompt, batch, kv, extra) * rng.uniform(1 - noise, 1 + noise)
        assert fit.observe(action, prompt, batch, kv, took)
    return fit


@pytest.mark.parametrize("extra", [0.0, 0.001, 0.004])
def test_it_finds_the_terms_and_most_of_what_mixing_costs(extra: float) -> None:
    cost = learnt(extra).cost
    assert cost.alpha_d_s == pytest.approx(ALPHA, rel=0.02)
    assert cost.beta_p_s == pytest.approx(BETA_P, rel=0.06)
    assert cost.beta_d_s == pytest.approx(BETA_D, rel=0.03)
    assert cost.gamma_d_s == pytest.approx(GAMMA_D, rel=0.03)
    assert cost.mixed is not None
    assert 0.6 * extra <= cost.mixed.alpha_m_s - cost.alpha_d_s <= extra + 1e-5
    assert cost.mixed_s(500, 12, 4000) == pytest.approx(seconds(500, 12, 4000, extra), rel=0.02)


def test_noise_hardly_passes_for_a_price_of_mixing() -> None:
    cost = learnt(0.0, noise=0.3).cost
    assert cost.mixed is not None
    assert cost.mixed.alpha_m_s - cost.alpha_d_s < 0.05 * cost.mixed_s(500, 12, 4000)


def test_it_follows_an_engine_that_becomes_slower() -> None:
    fit = learnt(0.0)
    rng = random.Random(4)
    for _ in range(8000):
        batch = rng.randint(1, 16)
        fit.observe(Action.DECODE, 0, batch, 100 * batch, 2 * seconds(0, batch, 100 * batch, 0.0))
    assert fit.cost.decode_s(8, 800) == pytest.approx(2 * seconds(0, 8, 800, 0.0), rel=0.05)


def test_nonsense_is_refused_and_changes_nothing() -> None:
    fit = learnt(0.0)
    before = fit.cost
    for took in (0.0, -1.0, nan, inf, 60.0):
        assert not any(fit.observe(Action.DECODE, 0, 8, 800, took) for _ in range(100))
    assert not fit.observe(Action.IDLE, 0, 0, 0, 0.01)
    assert fit.cost == before


def test_a_kind_that_was_never_seen_follows_those_that_were() -> None:
    fit, rng = OnlineFit(FULL.scaled(3)), random.Random(1)
    feed(fit, FULL, rng, 100, noise=0.03, kinds=(Action.DECODE, Action.MIXED))
    assert fit.cost.prefill_s(500) == pytest.approx(FULL.prefill_s(500), rel=0.2)
    fit = OnlineFit(FULL.scaled(3))
    feed(fit, FULL, rng, 100, noise=0.03, kinds=(Action.PREFILL, Action.MIXED))
    assert fit.cost.alpha_d_s == pytest.approx(FULL.alpha_d_s, rel=0.2)
