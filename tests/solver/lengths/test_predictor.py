"""Estimators learn from what they are shown, and stay within sense."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.cost.estimators import (
    FleetScale,
    FleetSpeeds,
    ScaleEstimator,
    SpeedEstimator,
    TokenEstimator,
)
from solver.lengths.distribution import BINS, MOST_TOKENS, LengthDistribution
from solver.lengths.predictor import (
    BROADER,
    LEAN,
    MODEL,
    Features,
    LengthPredictor,
    _groups,
    kind_of,
)

QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)

features = st.builds(
    Features,
    model=st.sampled_from("ab"),
    prompt_tokens=st.sampled_from([0, 1, 90, 100, 5000, 10**9]),
    max_tokens=st.none() | st.integers(1, 3000),
    tenant=st.sampled_from(["", "t"]),
    kind=st.sampled_from(["", "k"]),
)


@st.composite
def finished(draw: st.DrawFn) -> tuple[Features, int]:
    asked = draw(features)
    most = 5000 if asked.max_tokens is None else asked.max_tokens
    return asked, draw(st.integers(1, most))


histories = st.lists(finished(), max_size=30)


def taught(history: list[tuple[Features, int]]) -> LengthPredictor:
    predictor = LengthPredictor()
    for asked, length in history:
        predictor.observe(asked, length)
    return predictor


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


def test_scale_follows_what_was_measured() -> None:
    scale = ScaleEstimator()
    assert scale.factor == 1.0
    for _ in range(50):
        scale.observe(predicted_s=1.0, actual_s=0.02)
    assert scale.factor == pytest.approx(0.02)
    scale.observe(predicted_s=0.0, actual_s=1.0)
    scale.observe(predicted_s=1.0, actual_s=0.0)
    assert scale.factor == pytest.approx(0.02)


@given(histories, features)
def test_lengths_stay_within_the_limit(
    history: list[tuple[Features, int]], asked: Features
) -> None:
    expected = taught(history).predict(asked)
    most = asked.max_tokens or MOST_TOKENS
    quantiles = [expected.quantile(q) for q in QUANTILES]
    assert quantiles == sorted(quantiles)
    assert quantiles[0] >= 1
    assert quantiles[-1] <= expected.max_remaining == most
    assert 1 <= expected.mean <= most
    assert expected.cdf(0) == 0
    assert expected.cdf(most) == 1


@given(histories, features, st.integers(0, 4000))
def test_mean_and_quantiles_are_those_of_the_distribution(
    history: list[tuple[Features, int]], asked: Features, made: int
) -> None:
    limited = Features(asked.model, asked.prompt_tokens, asked.max_tokens or 2000)
    expected = taught(history).predict(limited).remaining(made)
    by_definition = sum(1 - expected.cdf(tokens) for tokens in range(expected.max_remaining))
    assert expected.mean == pytest.approx(by_definition)
    for q in QUANTILES[1:-1]:
        tokens = expected.quantile(q)
        assert expected.cdf(tokens) >= q - 1e-9
        assert expected.cdf(tokens - 1) < q + 1e-9


@given(histories, features, st.integers(0, 6000), st.integers(0, 6000))
def test_what_remains_follows_from_what_was_expected(
    history: list[tuple[Features, int]], asked: Features, made: int, more: int
) -> None:
    expected = taught(history).predict(asked)
    assert expected.remaining(0) == expected
    assert expected.remaining(made).remaining(more) == expected.remaining(made + more)
    left = expected.remaining(made)
    if made >= expected.max_remaining:
        assert (left.mean, left.quantile(0.5), left.cdf(1)) == (1, 1, 1)
        return
    longer = 1 - expected.cdf(made)
    if longer > 1e-6:
        both = expected.cdf(made + more) - expected.cdf(made)
        assert left.cdf(more) == pytest.approx(both / longer, abs=1e-6)
    assert 1 <= left.mean <= left.max_remaining == expected.max_remaining - made
    assert made + left.mean >= expected.mean - 1e-6


@given(histories, features)
def test_a_prediction_is_the_mix_of_what_each_group_expects(
    history: list[tuple[Features, int]], asked: Features
) -> None:
    """By the definition, group by group, whatever way of summing is quicker."""
    predictor = taught(history)
    rows = [predictor._rows.get(key, predictor._most) for key in _groups(asked)]
    trust, mix, forecasts = predictor._trust(rows[MODEL]), np.zeros(BINS), [predictor._prior]
    for k, row in enumerate(rows):
        broader = forecasts[BROADER[k] + 1]  # the prior is the first, the broader one of "all"
        lean, count = (8.0 if k == 0 else LEAN), predictor._count[row]
        histogram = predictor._seen[row].astype(np.float64) / predictor._gain[row]
        forecasts.append((histogram + lean * broader) / (count + lean))
        mix += trust[k] * forecasts[-1]
    expected, found = LengthDistribution.of(mix, asked.max_tokens), predictor.predict(asked)
    assert found.survival == pytest.approx(expected.survival, rel=1e-9, abs=1e-15)
    assert (found.mean, found.overrun) == pytest.approx((expected.mean, expected.overrun))


@given(histories, features)
def test_same_history_same_prediction(history: list[tuple[Features, int]], asked: Features) -> None:
    often_asked = LengthPredictor()
    for past, length in history:
        often_asked.predict(asked)
        often_asked.observe(past, length)
    assert often_asked.predict(asked) == taught(history).predict(asked)


@given(histories, finished(), st.integers(1, 16))
def test_ends_weigh_together_as_much_as_one_after_the_other(
    history: list[tuple[Features, int]], end: tuple[Features, int], times: int
) -> None:
    in_turn, together = taught([*history, *[end] * times]), taught(history)
    together.observe_all([end] * times)
    assert together.learned == in_turn.learned
    np.testing.assert_allclose(together._count, in_turn._count, rtol=1e-6)
    np.testing.assert_allclose(together._gain, in_turn._gain, rtol=1e-6)
    weights = together._seen.sum(axis=1) / np.array(together._gain)
    np.testing.assert_allclose(weights, together._count, rtol=1e-5)


def test_memory_is_bounded_whoever_comes() -> None:
    predictor = LengthPredictor(groups=50)
    ends = [(Features(f"m{k % 3}", k, tenant=f"t{k}", kind=f"k{k}"), 70) for k in range(500)]
    for end in ends[:250]:
        predictor.observe(*end)
    predictor.observe_all(ends[250:])
    assert len(predictor._rows) == 50
    assert predictor.predict(Features("m1", 9, tenant="t")).mean == pytest.approx(70, rel=0.1)


def test_cold_start_is_the_prior_below_the_limit() -> None:
    predictor = LengthPredictor(prior=256)
    assert predictor.predict(Features("m", 10)).mean == pytest.approx(256, rel=0.02)
    assert 50 < predictor.predict(Features("m", 10, 100)).mean < 100
    assert predictor.predict(Features("m", 10, 1)).mean == 1


def test_a_run_beyond_all_experience_goes_on_for_long() -> None:
    predictor = taught([(Features("m", 10), 50)] * 2000)
    expected = predictor.predict(Features("m", 10))
    assert expected.mean == pytest.approx(50, rel=0.1)
    assert expected.remaining(50_000).mean > 5_000
    assert expected.remaining(MOST_TOKENS + 1).mean == 1


def ways(rng: random.Random) -> Iterator[tuple[Features, int]]:
    """Tenants, kinds, sizes and models, each with a way of its own."""
    while True:
        tenant, kind, prompt = rng.choice("xy"), rng.choice("cd"), rng.choice([30, 300])
        length = {"x": 20, "y": 200}[tenant] * {"c": 1, "d": 3}[kind] * {30: 1, 300: 2}[prompt]
        noisy = max(1, round(length * rng.lognormvariate(0, 0.1)))
        yield Features("m", prompt, tenant=tenant, kind=kind), noisy


def test_each_group_is_learnt() -> None:
    predictor = taught(list(islice(ways(random.Random(1)), 1500)))
    for asked, length in islice(ways(random.Random(2)), 20):
        assert predictor.predict(asked).mean == pytest.approx(length, rel=0.4)


def test_little_known_groups_lean_on_broader_ones() -> None:
    history = [(Features("m", 30, tenant="x"), 80)] * 200 + [(Features("n", 30), 500)] * 5
    predictor = taught(history)
    assert predictor.predict(Features("m", 30, tenant="new")).mean == pytest.approx(80, rel=0.1)
    assert predictor.predict(Features("m", 9999, tenant="x")).mean == pytest.approx(80, rel=0.1)
    assert 80 < predictor.predict(Features("other", 30)).mean < 256
    predictor.observe(Features("m", 30, tenant="new"), 400)
    once = predictor.predict(Features("m", 30, tenant="new")).mean
    assert 80 < once < 300


def test_what_was_cut_counts_as_longer() -> None:
    rng = random.Random(3)
    predictor = LengthPredictor()
    for _ in range(3000):
        length, limit = rng.randint(50, 500), rng.choice([100, None])
        predictor.observe(Features("m", 30, limit), min(length, limit or length))
    free, limited = predictor.predict(Features("m", 30)), predictor.predict(Features("m", 30, 100))
    assert free.mean == pytest.approx(275, rel=0.1)
    assert free.quantile(0.5) == pytest.approx(275, rel=0.1)
    assert free.quantile(0.9) == pytest.approx(455, rel=0.1)
    assert limited.quantile(0.5) == 100
    assert limited.cdf(99) == pytest.approx(50 / 451, abs=0.03)


def test_always_cut_leaves_the_rest_open() -> None:
    predictor = taught([(Features("m", 30, 100), 100)] * 500)
    assert predictor.predict(Features("m", 30, 100)).mean == pytest.approx(100, rel=0.05)
    assert predictor.predict(Features("m", 30)).mean > 200


def test_quantiles_are_calibrated_on_two_peaks() -> None:
    rng = random.Random(4)
    predictor, below = LengthPredictor(), dict.fromkeys(QUANTILES[2:-2], 0.0)
    for _ in range(3000):
        asked = Features("m", rng.randint(20, 200), 512)
        short = round(rng.lognormvariate(4.9, 0.4)) + 1
        length = min(512, short if rng.random() < 0.45 else 512)
        expected = predictor.predict(asked)
        before, upto = expected.cdf(length - 1), expected.cdf(length)
        for q in below:  # a length that many have counts for its part below the quantile
            below[q] += min(max((q - before) / max(upto - before, 1e-12), 0), 1)
        predictor.observe(asked, length)
    for q, count in below.items():
        assert count / 3000 == pytest.approx(q, abs=0.03)


def alike(rng: random.Random) -> Iterator[tuple[Features, int]]:
    """Nothing to learn but the mean, and much that looks as if there were."""
    while True:
        asked = Features("m", rng.randint(1, 4000), tenant=str(rng.randrange(50)))
        yield asked, round(rng.lognormvariate(5, 1)) + 1


def unique(rng: random.Random) -> Iterator[tuple[Features, int]]:
    """Each prompt a kind of its own."""
    for _, length in alike(rng):
        yield Features("m", 100, kind=str(rng.random())), length


def drifting(rng: random.Random) -> Iterator[tuple[Features, int]]:
    """A model that was exchanged."""
    for k, (asked, length) in enumerate(alike(rng)):
        yield asked, length if k < 1000 else 5 * length


def alternating(_: random.Random) -> Iterator[tuple[Features, int]]:
    """The last few tell the wrong thing."""
    while True:
        yield from [(Features("m", 100), length) for length in [900] * 6 + [100] * 6]


@pytest.mark.parametrize("stream", [alike, unique, drifting, alternating, ways])
def test_never_much_worse_than_the_plain_mean(
    stream: Callable[[random.Random], Iterator[tuple[Features, int]]],
) -> None:
    predictor, total, weight, ours, plain = LengthPredictor(), 256.0 * 8, 8, 0.0, 0.0
    for asked, length in islice(stream(random.Random(5)), 2000):
        expected: LengthDistribution = predictor.predict(asked)
        ours += abs(length - expected.mean)
        plain += abs(length - total / weight)
        predictor.observe(asked, length)
        total, weight = total + length, weight + 1
    assert ours <= 1.03 * plain


def test_prompts_that_begin_alike_are_of_one_kind() -> None:
    system = "You answer in one word. " * 60
    assert kind_of(system + "Who?") == kind_of(system + "Where?")
    assert kind_of("Who?") != kind_of("Where?")
    assert kind_of("\ud800") == kind_of("\ud800")


def test_a_worker_that_was_never_asked_is_taken_for_one_of_its_fleet_and_tried() -> None:
    """Whatever the first one is found to be: else one that is never asked stays so."""
    for ratio in (0.01, 0.3, 1.0, 7.0):
        fleet = FleetScale()
        asked, unasked = ScaleEstimator(fleet), ScaleEstimator(fleet)
        for _ in range(10):
            asked.observe(1.0, ratio)
        assert 0.8 * ratio < unasked.factor < asked.factor <= ratio


def test_equal_workers_all_get_their_share_where_the_fastest_is_chosen() -> None:
    rng = random.Random(3)
    fleet = FleetScale()
    workers = [ScaleEstimator(fleet) for _ in range(4)]
    counts = [0] * 4
    for _ in range(2000):
        chosen = min(range(4), key=lambda j: workers[j].factor)
        counts[chosen] += 1
        workers[chosen].observe(1.0, rng.lognormvariate(0.0, 0.3))
    assert min(counts) > 2000 / 4 / 3
    assert all(0.75 < worker.factor < 1.25 for worker in workers)


def test_unequal_workers_are_told_apart() -> None:
    fleet = FleetScale()
    workers = [ScaleEstimator(fleet) for _ in range(32)]
    for k in range(32 * 100):
        workers[k % 32].observe(1.0, 2.0 if k % 2 else 0.5)
    assert all(
        worker.factor == pytest.approx(2.0 if j % 2 else 0.5, rel=0.2)
        for j, worker in enumerate(workers)
    )


def test_prefills_are_learnt_apart_and_like_rounds_while_none_was_seen() -> None:
    speed = SpeedEstimator()
    for _ in range(20):
        speed.rounds.observe(1.0, 0.1)
    assert speed.factors == pytest.approx((0.1, 0.1))
    for _ in range(200):
        speed.prefills.observe(1.0, 2.0)
    assert speed.factors == pytest.approx((0.1, 2.0), rel=0.3)
    fleet = FleetSpeeds()
    seen, unseen = SpeedEstimator(fleet), SpeedEstimator(fleet)
    for _ in range(200):
        seen.prefills.observe(1.0, 2.0)
    assert unseen.factors[1] == pytest.approx(seen.factors[1], rel=0.3)
