"""What requests take of an engine at least: by hand, and never more than a simulated one spent."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.policies import POLICIES
from solver.batching.target_bounds import Asked, EngineKind
from solver.cost.model import CostModel
from solver.sim.request import Request
from tests.solver.sim.drive import Run, Way, simulate

COST = CostModel(alpha_p_s=1.0, beta_p_s=0.1, alpha_d_s=2.0, beta_d_s=0.5)
MIXING = replace(COST, alpha_m_s=1.5, beta_mp_s=0.05, beta_md_s=0.4)


def asked(*rows: tuple[float, float, float, float]) -> Asked:
    """Prompt, output, and both targets of requests that come at once."""
    prompt, output, ttft_s, tpot_s = np.array(rows, dtype=np.float64).T
    return Asked(np.zeros(len(rows)), prompt, output, prompt, ttft_s, tpot_s)


def test_shares_of_slots_by_hand() -> None:
    """Of two slots a prefill stage is shared by two, and so is a round of 2 + 2 * 0.5."""
    demand = EngineKind(COST, 2).demands(asked((10, 4, inf, inf)))[0]
    assert demand.first_s == pytest.approx(0.5 + 1 + 1.5)
    assert demand.later_s == pytest.approx(3 * 1.5)
    reading = EngineKind(replace(COST, gamma_d_s=0.01), 2).demands(asked((10, 4, inf, inf)))[0]
    assert reading.first_s == pytest.approx(3 + 0.1)
    assert reading.later_s == pytest.approx(4.5 + 0.11 + 0.12 + 0.13)


def test_mixed_iterations_count_as_the_cheaper_of_both_kinds() -> None:
    """Prompts share no fixed time, and two sequences in a round take 1.5 + 2 * 0.4."""
    demand = EngineKind(MIXING, 2).demands(asked((10, 4, inf, inf)))[0]
    assert demand.first_s == pytest.approx(0.5 + 1.15)
    assert demand.later_s == pytest.approx(3 * 1.15)


@pytest.mark.parametrize(("tpot_s", "batch"), [(2.5, 1), (4.0, 4), (7.0, 10), (9.0, 10), (inf, 10)])
def test_a_round_in_time_is_shared_by_few(tpot_s: float, batch: int) -> None:
    demand = EngineKind(COST, 10).demands(asked((10, 4, inf, tpot_s)))[0]
    assert demand.later_s == pytest.approx(3 * (2 / batch + 0.5))


def test_shares_of_memory_by_hand() -> None:
    """Ten, eleven, twelve and thirteen of forty cached tokens."""
    _, demand = EngineKind(COST, 100, kv_tokens=40).demands(asked((10, 4, inf, inf)))
    assert demand.first_s == pytest.approx(1 / 4 + 1 + 2 / 4 + 0.5)
    assert demand.later_s == pytest.approx(2 * 36 / 40 + 3 * 0.5)


def test_shares_of_patience_by_hand() -> None:
    """9 s until the first token, and of 3 * 4 after it 3 * 2.5 in rounds: prompts of 13.5 s."""
    _, demand = EngineKind(COST, 100).demands(asked((10, 4, 9, 4)))
    assert demand.first_s == pytest.approx(1 + 2 / 13.5 + 0.5)
    assert demand.later_s == pytest.approx(3 * (2 / 13.5 + 0.5))
    _, least, most = EngineKind(COST, 100).demands(asked((10, 4, 9, 4), (10, 40, 5, 4)))
    assert least.later_s[1] == pytest.approx(39 * 0.5)  # it is more patient than the first
    assert most.later_s[0] == pytest.approx(3 * (2 / (9 + 39 * 1.5) + 0.5))


@pytest.mark.parametrize(
    ("wanted", "able"),
    [((4.5, 2.5), True), ((4.4, 2.5), False), ((4.5, 2.4), False), ((inf, inf), True)],
)
def test_who_can_be_in_time_alone(wanted: tuple[float, float], able: bool) -> None:
    """A stage of 1 + 1 and a round of 2.5; budgets of four tokens make three stages of it."""
    assert EngineKind(COST, 2).able(asked((10, 4, *wanted))) == able
    assert EngineKind(COST, 2).able(asked((10, 1, 4.5, 0.001)))  # no second token to wait for
    slower = EngineKind(COST, 2, prefill_budget=4).able(asked((10, 4, *wanted)))
    assert slower == (able and wanted[0] >= 6.5)


MIXED = "alpha_m_s", "beta_mp_s", "beta_md_s"
terms, round_terms = st.floats(0.0, 0.003), st.floats(0.001, 0.05)
costs = st.builds(
    CostModel,
    *(round_terms, terms, round_terms, terms, st.sampled_from([0.0, 1e-5, 1e-4])),
)
mixing = st.builds(
    lambda cost, *mixed: replace(cost, **dict(zip(MIXED, mixed, strict=True))),
    *(costs, round_terms, terms, terms),
)
lengths = st.sampled_from([(40, 40), (400, 10), (10, 90)]).flatmap(
    lambda most: st.lists(
        st.tuples(*(st.integers(1, tokens) for tokens in most)), min_size=1, max_size=40
    )
)


@given(
    st.one_of(costs, mixing),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from([1, 3, 8, 40]),
    st.sampled_from([inf, 1000.0, 450.0]),
    st.sampled_from([inf, 30.0]),
    lengths,
    st.sampled_from([0.0, 0.02]),
)
@settings(max_examples=60)
def test_no_engine_spends_less(
    cost: CostModel,
    policy: str,
    slots: int,
    kv_tokens: float,
    budget: float,
    load: list[tuple[int, int]],
    gap_s: float,
) -> None:
    """Requests whose targets are the very times that they had take no more than was spent."""
    requests = [
        Request(str(k), prompt, output, k * gap_s) for k, (prompt, output) in enumerate(load)
    ]
    way = Way(
        cost.to_ms(), slots, policy, kv_tokens=kv_tokens, prefill_budget=budget, dispatch="random"
    )
    run = simulate(requests, way)
    spent_s = sum(line.end_s - line.start_s for line in run.schedule)
    kind, served = EngineKind(cost, slots, kv_tokens, budget), _as_served(run)
    assert kind.able(served).all()
    for demand in kind.demands(served):
        assert (demand.first_s >= 0).all()
        assert (demand.later_s >= 0).all()
        assert demand.first_s.sum() + demand.later_s.sum() <= spent_s * (1 + 1e-9)


def _as_served(run: Run) -> Asked:
    fleet = run.fleet
    arrival_s, prompt, output = np.array(
        [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in fleet.requests]
    ).T
    later = np.where(output > 1, output - 1, np.nan)
    tpot_s = np.nan_to_num((fleet.end_s - fleet.first_s) / later, nan=inf)
    return Asked(arrival_s, prompt, output, prompt, fleet.first_s - arrival_s, tpot_s)
