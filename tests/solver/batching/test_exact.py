"""The optimum of one engine: the whole MIP, the search, and trying everything agree."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.exact import mip as engine
from solver.batching.exact import search
from solver.batching.exact.case import EngineCase, Placement
from solver.cost.model import CostModel
from solver.errors import InfeasibleProblem, InvalidPlan, ProblemError
from tests.solver.batching.engine_cases import (
    LLAMA_65B,
    Requests,
    best_by_trying,
    engine_cases,
    replay,
)

SLOTS = 3
EXACT = 1e-9
SOLVED = 3e-6  # what the MIP's gap and tolerances may leave

milliseconds = st.sampled_from([0.0, 1.0, 10.0, 40.0])
costs = st.builds(
    lambda a, b, c, d: CostModel.from_ms(
        {"alpha_p_ms": a, "beta_p_ms": b / 100, "alpha_d_ms": c + 1, "beta_d_ms": d / 10}
    ),
    *[milliseconds] * 4,
)
tiny = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=4)
budgets = st.one_of(st.just(inf), st.integers(30, 60))


@given(tiny, st.integers(1, 3), costs, budgets)
@settings(max_examples=120)
def test_search_is_as_good_as_trying_everything(
    requests: Requests, slots: int, cost: CostModel, budget: float
) -> None:
    found = search.solve(requests, slots, cost, prefill_budget=budget)
    best = best_by_trying(requests, slots, cost, budget)
    assert found.makespan_s == pytest.approx(best, rel=EXACT)
    assert replay(requests, slots, cost, found, budget) == pytest.approx(best, rel=EXACT)
    assert best >= EngineCase.of(requests, slots, cost, budget).bound_s * (1 - EXACT)


@given(tiny, st.integers(1, 2), costs, budgets)
@settings(max_examples=60)
def test_whole_mip_is_as_good_as_trying_everything(
    requests: Requests, slots: int, cost: CostModel, budget: float
) -> None:
    found = engine.solve(requests, slots, cost, prefill_budget=budget)
    best = best_by_trying(requests, slots, cost, budget)
    assert found.optimal
    assert found.schedule is not None
    assert found.makespan_s == pytest.approx(best, rel=SOLVED)
    assert found.bound_s == pytest.approx(best, rel=SOLVED)
    assert found.bound_s <= best * (1 + EXACT)
    replayed = replay(requests, slots, cost, found.schedule, budget)
    assert replayed == pytest.approx(found.makespan_s, rel=EXACT)


@given(tiny, st.integers(1, 2), costs, budgets)
@settings(max_examples=30)
def test_a_known_makespan_cuts_off_just_what_is_worse(
    requests: Requests, slots: int, cost: CostModel, budget: float
) -> None:
    best = search.solve(requests, slots, cost, prefill_budget=budget)
    again = engine.solve(requests, slots, cost, prefill_budget=budget, upper_s=best.makespan_s)
    assert again.makespan_s == pytest.approx(best.makespan_s, rel=SOLVED)
    below = best.makespan_s * 0.999
    none = engine.solve(requests, slots, cost, prefill_budget=budget, upper_s=below)
    assert (none.stop, none.schedule) == (engine.Stop.INFEASIBLE, None)
    assert none.bound_s <= best.makespan_s * (1 + EXACT)


@pytest.mark.parametrize("requests", engine_cases(seed=5, count=2))
def test_whole_mip_and_search_agree_on_eight_requests(requests: Requests) -> None:
    best = search.solve(requests, SLOTS, LLAMA_65B)
    found = engine.solve(requests, SLOTS, LLAMA_65B, upper_s=best.makespan_s)
    assert found.optimal
    assert found.makespan_s == pytest.approx(best.makespan_s, rel=EXACT)


@pytest.mark.parametrize("budget", [150, 250, inf])
def test_search_on_eight_requests_is_feasible_and_above_the_bound(budget: float) -> None:
    for requests in engine_cases(seed=7, count=5):
        found = search.solve(requests, SLOTS, LLAMA_65B, prefill_budget=budget)
        bound_s = EngineCase.of(requests, SLOTS, LLAMA_65B, budget).bound_s
        took_s = replay(requests, SLOTS, LLAMA_65B, found, budget)
        assert found.makespan_s == pytest.approx(took_s, rel=EXACT)
        assert bound_s * (1 - EXACT) <= took_s < bound_s * 1.3


def test_a_tighter_budget_is_never_better() -> None:
    [requests] = engine_cases(seed=9, count=1, requests=6)
    spans = [
        search.solve(requests, SLOTS, LLAMA_65B, prefill_budget=budget).makespan_s
        for budget in (150, 200, 300, 450)
    ]
    assert spans == sorted(spans, reverse=True)
    assert spans[0] > spans[-1]


def test_waiting_for_company_pays_where_a_stage_is_dear() -> None:
    """Two slots fall free a round apart: one stage for both, or one for each."""
    requests = [(10, 5), (10, 6), (10, 5), (10, 4)]
    dear, cheap = (replace(LLAMA_65B, alpha_p_s=alpha_s) for alpha_s in (0.1, 0.001))
    together, apart = (engine.solve(requests, 2, cost).schedule for cost in (dear, cheap))
    assert together is not None
    assert apart is not None
    assert (together.stages, sum(together.rounds)) == (2, 11)
    assert (apart.stages, sum(apart.rounds)) == (3, 10)


def test_a_node_limit_leaves_a_bound_and_is_named() -> None:
    [requests] = engine_cases(seed=11, count=1)
    best_s = search.solve(requests, SLOTS, LLAMA_65B).makespan_s
    found = engine.solve(requests, SLOTS, LLAMA_65B, node_limit=1)
    assert (found.stop, found.optimal) == (engine.Stop.NODE_LIMIT, False)
    bound_s = EngineCase.of(requests, SLOTS, LLAMA_65B).bound_s
    assert bound_s <= found.bound_s <= best_s <= found.makespan_s


def test_a_time_limit_is_named() -> None:
    [requests] = engine_cases(seed=11, count=1)
    found = engine.solve(requests, SLOTS, LLAMA_65B, time_limit_s=0.0)
    assert (found.stop, found.optimal) == (engine.Stop.TIME_LIMIT, False)
    assert found.bound_s > 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"requests": []}, "requests: there is none"),
        ({"requests": [(3, 0)]}, "request 0"),
        ({"requests": [(3, 1), (0, 1)]}, "request 1"),
        ({"requests": [(3, 1.5)]}, "request 0"),
        ({"requests": [(nan, 1)]}, "request 0"),
        ({"slots": 0}, "slots"),
        ({"cost": replace(LLAMA_65B, gamma_d_s=1e-6)}, "gamma_d"),
        ({"cost": replace(LLAMA_65B, alpha_m_s=1, beta_mp_s=1, beta_md_s=1)}, "mixed iterations"),
    ],
)
def test_malformed_cases_name_the_field(change: dict[str, object], complaint: str) -> None:
    fields = {"requests": [(3, 2)], "slots": 2, "cost": LLAMA_65B, **change}
    for solve in (engine.solve, search.solve):
        with pytest.raises(ProblemError, match=complaint):
            solve(**fields)  # type: ignore[arg-type]


def test_a_prompt_above_the_budget_is_named() -> None:
    with pytest.raises(InfeasibleProblem, match="request 1: its prompt of 9") as caught:
        engine.solve([(3, 2), (9, 2)], 2, LLAMA_65B, prefill_budget=8)
    assert caught.value.request == 1


@pytest.mark.parametrize(
    ("places", "budget", "complaint"),
    [
        ([Placement(0, 0), Placement(0, 0)], inf, "together on slots"),
        ([Placement(0, 0), Placement(2, 1)], inf, "on slots"),
        ([Placement(0, 0), Placement(1, 0)], 10, "11 tokens exceed"),
    ],
)
def test_placements_that_an_engine_cannot_follow(
    places: list[Placement], budget: float, complaint: str
) -> None:
    case = EngineCase.of([(5, 2), (6, 2)], 2, LLAMA_65B, budget)
    with pytest.raises(InvalidPlan, match=complaint):
        case.schedule(places)
