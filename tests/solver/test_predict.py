"""Estimators learn from what they are shown, and stay within sense."""

from __future__ import annotations

import pytest

from solver.predict import LengthPredictor, ScaleEstimator, TokenEstimator


def test_tokens_per_byte_are_learnt() -> None:
    estimator = TokenEstimator()
    assert estimator.estimate(350) == 100
    for _ in range(2000):
        estimator.observe(300, 100)
    assert estimator.estimate(300) == pytest.approx(100, abs=4)
    assert estimator.estimate(0) == 1


def test_what_no_tokenizer_does_is_not_learnt() -> None:
    estimator = TokenEstimator()
    for tokens in (10**9, 301, 0, 5):
        estimator.observe(300, tokens)
    assert estimator.estimate(350) == 100


def test_output_length_is_the_mean_below_the_limit() -> None:
    predictor = LengthPredictor()
    assert predictor.predict(100) == 100
    for length in [100, 300] * 400:
        predictor.observe(length)
    assert predictor.predict(10_000) == pytest.approx(200)
    assert predictor.predict(200) == pytest.approx(150)
    assert predictor.predict(1) == 1


def test_scale_follows_what_was_measured() -> None:
    scale = ScaleEstimator()
    assert scale.factor == 1.0
    for _ in range(50):
        scale.observe(predicted_s=1.0, actual_s=0.02)
    assert scale.factor == pytest.approx(0.02)
    scale.observe(predicted_s=0.0, actual_s=1.0)
    scale.observe(predicted_s=1.0, actual_s=0.0)
    assert scale.factor == pytest.approx(0.02)
