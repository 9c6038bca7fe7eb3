"""Generated workloads: the statistics that the data sets have, drawn again from the same seed."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from solver.errors import ProblemError
from solver.sim.request import Request
from solver.sim.workload import (
    BLOCK_TOKENS,
    WORKLOADS,
    all_at_once,
    gsm8k,
    mooncake,
    poisson,
    servegen_m_large,
)

# Prompt mean and deviation, output mean and deviation, requests a second (0: no arrivals).
STATISTICS = {
    "gsm8k-llama65b": (68.43, 25.04, 344.83, 187.99, 0),
    "azure-conv": (1155, 1109, 211, 163, 5.53),
    "sharegpt": (2340, 2089, 439, 266, 0),
    "mooncake": (15325, 18380, 149.1, 178.1, 3.91),
    "servegen-m-large": (451.4, 827.3, 277.6, 230.0, 165),
}


def test_every_workload_has_its_statistics_here() -> None:
    assert set(STATISTICS) == set(WORKLOADS)


@pytest.mark.parametrize("name", STATISTICS)
def test_lengths_and_rate_are_those_of_the_data_set(name: str) -> None:
    requests = WORKLOADS[name](40_000, random.Random(1))
    prompts = [request.prompt_tokens for request in requests]
    outputs = [request.output_tokens for request in requests]
    *lengths, rate = STATISTICS[name]
    measured = [fmean(prompts), pstdev(prompts), fmean(outputs), pstdev(outputs)]
    assert measured == pytest.approx(lengths, rel=0.05)
    if rate:
        assert len(requests) / requests[-1].arrival_s == pytest.approx(rate, rel=0.05)
    else:
        assert {request.arrival_s for request in requests} == {0.0}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_draws_the_same_requests_again(name: str) -> None:
    first, again, other = (WORKLOADS[name](200, random.Random(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert [request.id for request in first] == [str(k) for k in range(200)]
    arrivals = [request.arrival_s for request in first]
    assert arrivals == sorted(arrivals)


def test_answers_to_gsm8k_run_into_their_cap() -> None:
    outputs = [request.output_tokens for request in gsm8k(20_000, random.Random(2))]
    assert max(outputs) == 512
    assert outputs.count(512) / len(outputs) == pytest.approx(0.55, abs=0.02)


def test_mooncakes_prompts_share_prefixes() -> None:
    requests = mooncake(20_000, random.Random(5))
    seen: set[int] = set()
    hits = blocks = 0
    for request in requests:
        fresh = [k not in seen for k in request.hash_ids]
        assert fresh == sorted(fresh), "only a prefix may have been seen"
        assert len(fresh) == -(-request.prompt_tokens // BLOCK_TOKENS)
        hits, blocks = hits + fresh.count(False), blocks + len(fresh)
        seen.update(request.hash_ids)
    assert hits / blocks == pytest.approx(0.64, abs=0.03)


def _burstiness(arrivals: list[float]) -> float:
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    return pstdev(gaps) / fmean(gaps)


def test_servegens_clients_burst_but_their_sum_hardly() -> None:
    requests = servegen_m_large(50_000, random.Random(6))
    assert _burstiness([r.arrival_s for r in requests]) == pytest.approx(1.1, abs=0.1)
    one = [r for r in requests if 1800 < r.prompt_tokens < 2900 and 350 < r.output_tokens < 700]
    assert _burstiness([r.arrival_s for r in one]) > 2  # nearly all are one client's, of CV 3.81


def test_arrivals_all_at_once_and_at_random() -> None:
    requests = [Request(str(k), 1, 1, arrival_s=float(k)) for k in range(5000)]
    assert {r.arrival_s for r in all_at_once(requests)} == {0.0}
    random_arrivals = [r.arrival_s for r in poisson(requests, 20, random.Random(0))]
    assert random_arrivals[-1] == pytest.approx(250, rel=0.05)
    assert _burstiness(random_arrivals) == pytest.approx(1, abs=0.05)
    assert [r.id for r in poisson(requests, 20, random.Random(0))] == [r.id for r in requests]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_named(bad: float) -> None:
    with pytest.raises(ProblemError, match="rate must be a number > 0"):
        poisson([], bad, random.Random(0))
