"""The cost model of an engine that mixes, learnt from its iterations."""

from __future__ import annotations

import random
from math import inf, nan

import pytest

from solver.cost.joint_fit import JointFit
from solver.cost.model import Action, CostModel
from solver.errors import ProblemError

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


def learnt(extra: float, *, noise: float = 0.0, iterations: int = 2000) -> JointFit:
    """Mostly decode rounds, some mixed iterations of nearly the same size, very few prefills."""
    rng, fit = random.Random(3), JointFit(PRIOR)
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


def test_until_it_knows_anything_it_says_what_it_was_told() -> None:
    fit = JointFit(PRIOR)
    fit.observe(Action.DECODE, 0, 4, 100, 0.005)
    assert fit.cost == PRIOR


def test_nonsense_is_refused_and_changes_nothing() -> None:
    fit = learnt(0.0)
    before = fit.cost
    for took in (0.0, -1.0, nan, inf, 60.0):
        assert not any(fit.observe(Action.DECODE, 0, 8, 800, took) for _ in range(100))
    assert not fit.observe(Action.IDLE, 0, 0, 0, 0.01)
    assert fit.cost == before


def test_the_prior_must_know_mixed_iterations() -> None:
    with pytest.raises(ProblemError, match="mixed"):
        JointFit(CostModel(0.01, 1e-4, 0.01, 1e-4))
