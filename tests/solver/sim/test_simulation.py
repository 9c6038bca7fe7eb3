"""Every simulation keeps its contract, and taking rounds together changes nothing but its speed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.policies import POLICIES
from solver.batching.queue import ORDERS
from solver.batching.targets import NO_TARGETS, Targets
from solver.errors import ProblemError
from solver.routing.dispatchers import DISPATCHERS
from solver.sim.decoding import Decoding
from solver.sim.request import Request
from tests.solver.sim.drive import Run, Way, simulate

PAPER = {"alpha_p_ms": 25.0, "beta_p_ms": 0.13, "alpha_d_ms": 29.0, "beta_d_ms": 0.21}
WORTH_WAITING = PAPER | {"alpha_p_ms": 900.0}  # a stage of few is dear, so policies wait
READING = PAPER | {"gamma_d_ms": 0.01}
MIXING = PAPER | {"alpha_m_ms": 30.0, "beta_mp_ms": 0.13, "beta_md_ms": 0.21}
CHEAPLY = READING | {"alpha_m_ms": 20.0, "beta_mp_ms": 0.1, "beta_md_ms": 0.3}
ROUND_S = 0.02921  # of one sequence on PAPER: arrivals at multiples of it meet ends of rounds

LENGTHS = ("known", "unknown", "noisy:0.4", "predicted")
# Full blocks at the front of prompts that have them in common.
PREFIXES = ((), (1,), (1, 2), (1, 2, 3), (1, 4), (5,))
# None: those of its priority; the tightest leaves chunks of a few hundred tokens.
TARGETS = (None, NO_TARGETS, Targets(tpot_s=0.01))
gaps = st.one_of(st.just(0.0), st.integers(0, 40).map(lambda k: k * ROUND_S), st.floats(0.0, 1.0))


@st.composite
def traces(draw: st.DrawFn) -> list[Request]:
    """All at once or one after the other, with or without prompts in common."""
    lengths = draw(
        st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=24)
    )
    n = len(lengths)
    arrive = draw(st.one_of(st.just([0.0] * n), st.lists(gaps, min_size=n, max_size=n)))
    share = draw(st.booleans())
    requests = []
    for k, (at, (prompt, output)) in enumerate(zip(accumulate(arrive), lengths, strict=True)):
        prefix = draw(st.sampled_from(PREFIXES)) if share else ()
        rest = (100 * (1 + PREFIXES.index(prefix)) + prompt,) if share else ()
        whole = 512 * len(prefix) + prompt
        wanted = draw(st.sampled_from(TARGETS))
        requests.append(Request(str(k), whole, output, at, prefix + rest, wanted=wanted))
    return requests


@st.composite
def ways(draw: st.DrawFn) -> Way:
    """On one worker; memory is set by `room`."""
    return Way(
        cost_ms=draw(st.sampled_from([PAPER, WORTH_WAITING, READING, MIXING, CHEAPLY])),
        slots=draw(st.integers(1, 8)),
        policy=draw(st.sampled_from(sorted(POLICIES))),
        order=draw(st.sampled_from(ORDERS)),
        lengths=draw(st.sampled_from(LENGTHS)),
        prefill_budget=draw(st.sampled_from([inf, 512, 64, 7])),
        prefix_cache=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Request], Way]:
    """A trace, and a way to serve it in which everybody fits into memory, if only alone."""
    requests, way = draw(traces()), draw(ways())
    largest = max(request.prompt_tokens + request.output_tokens for request in requests)
    room = draw(st.sampled_from([inf, 1.0, 1.3, 2.0, 4.0]))
    return requests, replace(way, kv_tokens=inf if room == inf else int(room * largest))


fleets = st.tuples(
    st.integers(1, 4),
    st.sampled_from([(1.0,), (1.0, 2.0), (1.0, 0.5, 3.0)]),
    st.sampled_from(sorted(DISPATCHERS)),
)
# These see of a worker only what stands still between two ends of requests.
INDIFFERENT = ("round-robin", "random", "least-requests", "power-of-two", "prefix-aware")


@given(cases())
@settings(max_examples=100)
def test_an_outsider_accepts_every_schedule(case: tuple[list[Request], Way]) -> None:
    simulate(*case).check()


@given(cases(), fleets, st.sampled_from([0.0, 0.1, 2.0]))
@settings(max_examples=60)
def test_an_outsider_accepts_every_fleets_schedule(
    case: tuple[list[Request], Way], fleet: tuple[int, tuple[float, ...], str], stale_s: float
) -> None:
    requests, way = case
    workers, speeds, dispatch = fleet
    way = replace(way, workers=workers, speeds=speeds, dispatch=dispatch, stale_s=stale_s)
    simulate(requests, way).check()


@given(cases(), fleets)
@settings(max_examples=50)
def test_the_same_seed_writes_the_same_bytes(
    case: tuple[list[Request], Way], fleet: tuple[int, tuple[float, ...], str]
) -> None:
    requests, way = case
    way = replace(way, workers=fleet[0], speeds=fleet[1], dispatch=fleet[2])
    first, again = simulate(requests, way), simulate(requests, way)
    assert json.dumps(first.lines) == json.dumps(again.lines)
    assert first.report == again.report


@given(cases(), st.integers(1, 3), st.sampled_from(INDIFFERENT))
@settings(max_examples=60)
def test_rounds_taken_together_are_the_rounds_taken_one_by_one(
    case: tuple[list[Request], Way], workers: int, dispatch: str
) -> None:
    requests, way = case
    way = replace(way, workers=workers, dispatch=dispatch)
    together = simulate(requests, way)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoding, "rounds_to_next_end", lambda *_: 1)
        one_by_one = simulate(requests, way)
    assert all(line["rounds"] == 1 for line in one_by_one.lines)
    for one, other in zip(_stages(together), _stages(one_by_one), strict=True):
        assert one == pytest.approx(other)
    assert together.fleet.end_s == pytest.approx(one_by_one.fleet.end_s)
    assert together.fleet.first_s == pytest.approx(one_by_one.fleet.first_s)
    assert together.fleet.stall_s == pytest.approx(one_by_one.fleet.stall_s)


def _stages(run: Run) -> Iterator[dict[str, Any]]:
    """Lines by worker, those of one and the same decode stage as one; flat, to be compared."""
    stages: list[dict[str, Any]] = []
    for line in sorted(run.lines, key=lambda line: line["worker"]):  # stable: in order of time
        last = stages[-1] if stages else {}
        same = all(last.get(key) == line[key] for key in ("worker", "kind", "decode", "slots"))
        if same and line["kind"] == "decode":
            last["rounds"] += line["rounds"]
            last["end_s"] = line["end_s"]
        else:
            stages.append(dict(line))
    for stage in stages:
        yield {"start_s": stage.pop("start_s"), "end_s": stage.pop("end_s"), "what": repr(stage)}


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("budget", [inf, 16])
def test_memory_runs_out_and_everybody_still_finishes(policy: str, budget: float) -> None:
    """Eight of ten tokens and twenty to make are let in together, and cannot end together.

    For those who have a target, memory is left.
    """
    for cost in (PAPER, CHEAPLY):
        way = Way(cost, 8, policy=policy, lengths="unknown", kv_tokens=130, prefill_budget=budget)
        preemptions = []
        for wanted in (NO_TARGETS, Targets(tpot_s=0.1)):
            requests = [Request(str(k), 10, 20 + k % 3, wanted=wanted) for k in range(24)]
            run = simulate(requests, way)
            run.check()
            preemptions.append(run.report.preemptions)
            batcher = run.fleet.workers[0].batcher
            assert (batcher.kv_held, batcher.running, batcher.queued) == (0, 0, 0)
        if policy != "threshold":  # which is careful with memory by itself
            assert preemptions[0] > preemptions[1]


def test_a_first_token_is_that_of_the_round_which_made_it() -> None:
    """Also if memory is lost between the prefill and that round, while others decode on."""
    requests = [Request(key, 1, 9, wanted=NO_TARGETS) for key in "abc"]
    requests.append(Request("late", 43, 2, 0.1, wanted=NO_TARGETS))
    run = simulate(requests, Way(MIXING, 4, policy="mixed", kv_tokens=60))
    first, again = (line["end_s"] for line in run.lines if "late" in line["prefill"])
    assert first < again < run.fleet.first_s[3]
    run.check()


def test_a_request_that_never_fits_is_an_error_that_names_it() -> None:
    requests = [Request("small", 10, 10), Request("large", 60, 41)]
    with pytest.raises(ProblemError, match="large needs 101 KV tokens, more than a worker's 100"):
        simulate(requests, Way(PAPER, 2, kv_tokens=100))
