"""Time formulas against the paper's figures, and the load that is kept in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.cost.model import CostModel, request_s, span_s
from solver.cost.profiles import PROFILES
from solver.errors import ProblemError
from solver.lengths.distribution import BINS, LengthDistribution, bin_of
from solver.routing.load import REPREDICT_TOKENS, WorkerLoad
from solver.routing.problem import Job, WorkerView, build_problem
from tests.helpers import calls

PAPER = PROFILES["llama-65b-ascend"].cost


def test_the_papers_iteration_times() -> None:
    assert PAPER.prefill_s(1000) == pytest.approx(0.155)
    assert PAPER.decode_s(200) == pytest.approx(0.071)


def test_milliseconds_there_and_back() -> None:
    terms = {"alpha_p_ms": 25, "beta_p_ms": 0.13, "alpha_d_ms": 29, "beta_d_ms": 0.21}
    cost = CostModel.from_ms(terms)
    assert cost.decode_s(10) == pytest.approx(PAPER.decode_s(10))
    assert cost.to_ms() == pytest.approx({**terms, "gamma_d_ms": 0.0, "delta_ms": 0.0})


def test_attention_takes_queries_times_keys() -> None:
    cost = CostModel(1.0, 0.1, 2.0, 0.5, 0.01, 3.0, 0.2, 0.6, delta_s=0.001)
    assert cost.prefill_s(10) == pytest.approx(1 + 1 + 0.001 * 10 * 10)
    assert cost.mixed_s(10, 4, 50) == pytest.approx(3 + 2 + 2.4 + 0.5 + 0.001 * 14 * 60)
    assert cost.decode_s(4, 50) == pytest.approx(2 + 2 + 0.5)
    assert CostModel.from_ms(cost.to_ms()) == cost
    assert cost.scaled(2).prefill_s(10) == pytest.approx(2 * cost.prefill_s(10))


@given(st.floats(0, 100_000), st.sampled_from([0.0, 1e-9, 1e-6]), st.floats(0, 1e6))
def test_seconds_and_the_tokens_that_fill_them(tokens: float, delta_s: float, kv: float) -> None:
    cost = CostModel(0.02, 1e-4, 0.03, 1e-4, 1e-6, 0.03, 2e-4, 3e-4, delta_s=delta_s)
    assert cost.prefill_tokens(cost.prefill_s(tokens)) == pytest.approx(tokens, abs=1e-3)
    mixed_s = cost.mixed_s(tokens, 8, kv)
    assert cost.mixed_tokens(mixed_s, 8, kv) == pytest.approx(tokens, rel=1e-5, abs=1e-3)


def test_too_few_seconds_hold_no_token_and_free_tokens_fit_into_any() -> None:
    cost = CostModel(1.0, 0.0, 2.0, 0.5, 0.01, 3.0, 0.2, 0.6)
    assert cost.prefill_tokens(0.5) == 0
    assert cost.prefill_tokens(1.5) == float("inf")
    assert PAPER.prefill_tokens(float("inf")) == float("inf")
    assert cost.mixed_tokens(3.0, 1, 0) == 0
    with pytest.raises(ProblemError, match="no terms for mixed iterations"):
        PAPER.mixed_tokens(1.0, 1)


@pytest.mark.parametrize(
    ("terms", "complaint"),
    [
        ({"alpha_ms": 1}, "unknown term 'alpha_ms'"),
        ({"alpha_p_ms": 1}, "beta_p_ms is missing"),
        (dict.fromkeys(("alpha_p_ms", "beta_p_ms", "alpha_d_ms", "beta_d_ms"), -1), "from 0 to"),
    ],
)
def test_bad_cost_models_name_the_term(terms: dict[str, float], complaint: str) -> None:
    with pytest.raises(ProblemError, match=complaint):
        CostModel.from_ms(terms)


@given(st.integers(1, 300), st.integers(1, 100))
def test_equal_requests_end_when_their_costs_add_up(output: int, count: int) -> None:
    """`count` requests in step: each round makes one token of each."""
    total = count * request_s(PAPER, 50.0, float(output), float(count))
    stages = PAPER.prefill_s(50 * count) + output * PAPER.decode_s(count)
    assert total == pytest.approx(stages)


def test_load_counts_tokens_as_they_come() -> None:
    load = WorkerLoad()
    load.add("a", Job(100, 50.0), 0.0, streamed=True)
    full = load.backlog_s(PAPER, 8, 0, 0.0)
    assert full == pytest.approx(request_s(PAPER, 100.0, 50.0, 1.0))
    load.progress("a", 20)
    assert load.backlog_s(PAPER, 8, 0, 0.0) == pytest.approx(30 * PAPER.decode_s(1))
    load.progress("a", 500)  # it outlived its prediction: it is about to end
    assert load.backlog_s(PAPER, 8, 0, 0.0) == pytest.approx(PAPER.decode_s(1))
    load.remove("a")
    load.remove("a")
    assert (len(load), load.backlog_s(PAPER, 8, 0, 0.0), load.kv_reserved) == (0, 0.0, 0.0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=60))
def test_load_returns_to_zero(events: list[tuple[int, int]]) -> None:
    load, added = WorkerLoad(), set[str]()
    for key, tokens in events:
        if tokens == 0:
            load.remove(str(key))
            added.discard(str(key))
        elif tokens == 1 and str(key) not in added:
            added.add(str(key))
            load.add(str(key), Job(7, 12.0, key + 1), 0.0, streamed=key % 2 == 0)
        else:
            load.progress(str(key), tokens)
        assert load.backlog_s(PAPER, 4, 1, 5.0) >= 0
    for key in range(5):
        load.remove(str(key))
    assert load.backlog_s(PAPER, 4, 0, 5.0) == 0.0


def test_choices_run_side_by_side() -> None:
    """64 answers to one prompt: 64 slots, each for its own tokens, and no more than those."""
    load, job = WorkerLoad(), Job(64 * 10, 64 * 200.0, 64)
    load.add("many", job, 0.0, streamed=True)
    assert (len(load), load.sequences) == (1, 64)
    assert load.backlog_s(PAPER, 200, 0, 0.0) == pytest.approx(
        64 * request_s(PAPER, 10.0, 200.0, 64)
    )
    view = WorkerView(PAPER, slots=200, in_flight=0, backlog_s=0.0, kv_free=None, prefill_s=0.0)
    problem = build_problem([job], [view], [frozenset({0})])
    took = PAPER.prefill_s(640) + 200 * PAPER.decode_s(64)
    assert problem.alone_s[0, 0] == pytest.approx(took)


def test_what_streams_is_predicted_again_from_its_distribution() -> None:
    """Half make 10 tokens, half 1000: one that has made 16 is one of the long ones."""
    weights = np.full(BINS, 1e-9)
    weights[[bin_of(10), bin_of(1000)]] = 0.5
    lengths = LengthDistribution.of(weights)
    load = WorkerLoad()
    load.add("one", Job(10, lengths.mean, lengths=lengths), 0.0, streamed=True)
    before = load.backlog_s(PAPER, 8, 0, 0.0)
    load.progress("one", 16)
    left = lengths.remaining(16).mean
    assert left > 1.5 * lengths.mean
    assert load.backlog_s(PAPER, 8, 0, 0.0) == pytest.approx(left * PAPER.decode_s(1), rel=1e-3)
    assert load.backlog_s(PAPER, 8, 0, 0.0) > 1.5 * before
    load.remove("one")
    assert load.backlog_s(PAPER, 8, 0, 0.0) == 0.0


def test_unseen_progress_is_told_by_the_clock() -> None:
    """To within the tokens after which it is looked at again."""
    load = WorkerLoad()
    load.add("json", Job(100, 50.0), 0.0, streamed=False)
    later = PAPER.prefill_s(100) + 20 * PAPER.decode_s(1)
    left = load.backlog_s(PAPER, 8, 0, later) / PAPER.decode_s(1)
    assert 30 - REPREDICT_TOKENS <= left <= 30 + REPREDICT_TOKENS
    assert load.running == 1
    assert load.backlog_s(PAPER, 8, 0, 1e6) == pytest.approx(PAPER.decode_s(1))
    assert load.not_begun() == ["json"]  # it may not have, as far as anybody has seen


def test_reading_the_load_looks_at_nobody() -> None:
    """However many are in flight whose progress cannot be seen."""
    counts = []
    for flying in (10, 1000):
        load = WorkerLoad()
        for key in range(flying):
            load.add(key, Job(100, 50.0), 0.0, streamed=False)
        load.backlog_s(PAPER, 8, 0, 0.0)
        counts.append(calls(lambda load=load: load.backlog_s(PAPER, 8, 0, 0.1)))  # type: ignore[misc]
    assert counts[0] == counts[1]


def test_problem_from_jobs_and_workers() -> None:
    both, second = frozenset({0, 1}), frozenset({1})
    jobs = [Job(100, 50.0), Job(10, 5.0)] * 8
    fast = WorkerView(PAPER, slots=8, in_flight=3, backlog_s=1.5, kv_free=1000.0, prefill_s=0.5)
    slow = WorkerView(
        PAPER.scaled(3), slots=8, in_flight=0, backlog_s=0.0, kv_free=None, prefill_s=0.0
    )
    problem = build_problem(jobs, [fast, slow], [both, second] * 8)
    assert problem.eligible[:2].tolist() == [[True, True], [False, True]]
    assert problem.initial_s.tolist() == [1.5, 0.0]
    assert problem.cost_s[0, 0] == pytest.approx(request_s(PAPER, 100.0, 50.0, 8.0))
    assert problem.span_s[0, 0] == pytest.approx(1.5 + span_s(PAPER, 100.0, 50.0, 8.0))
    assert problem.kv_capacity.tolist() == [1000.0, float("inf")]


def test_memory_limits_only_what_could_fit_at_once() -> None:
    view = WorkerView(PAPER, slots=8, in_flight=0, backlog_s=0.0, prefill_s=0.0, kv_free=100.0)
    many = [Job(60, 30.0)] * 2
    assert build_problem(many, [view], [frozenset({0})] * 2).kv_capacity.tolist() == [float("inf")]
