"""What each iteration policy decides, and why, in front of an engine that a test describes."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.arrays import FloatArray
from solver.batching.policies import POLICIES
from solver.batching.policies.adaptive import Adaptive
from solver.batching.policies.lagrangian import Lagrangian
from solver.batching.policies.mixed import Mixed
from solver.batching.policies.prefill_first import PrefillFirst
from solver.batching.policies.threshold import (
    RISK,
    Threshold,
    hazard_correction,
    length_statistics,
    memory_safe_batch,
    optimal_share,
)
from solver.batching.policy import EngineView, IterationPolicy
from solver.batching.progress import Progress
from solver.batching.sequence import Reason, Sequence
from solver.cost.model import Action, CostModel
from solver.cost.profiles import PROFILES
from solver.sim.request import Request
from tests.solver.sim.drive import Way, simulate

PAPER = PROFILES["llama-65b-ascend"].cost
MIXING = replace(PAPER, alpha_m_s=0.030, beta_mp_s=0.00013, beta_md_s=0.00021)
SLOTS = 200


def decoding(*expected: float, finished: int = 0) -> Progress:
    """So many tokens are expected of each of those that run; they have made none yet."""
    progress = Progress(SLOTS)
    for _ in range(finished):  # of a hundred tokens, as was expected
        one = Sequence("", 50, 100.0, 10_000, 0.0, slot=SLOTS - 1)
        progress.join(one)
        progress.rounds += 100
        progress.leave(one, ended=True)
    for slot, tokens in enumerate(expected):
        progress.join(Sequence(str(slot), 50, tokens, 10_000, 0.0, slot=slot))
    return progress


ENGINE = EngineView(
    slots=SLOTS,
    decoding=100,
    admissible=1,
    waiting=2,
    prompt_tokens=70,
    kv_tokens=inf,
    kv_held=0,
    waited_slot_s=0.0,
    waited_rounds=0,
    prefill_budget=inf,
    just_stalled=False,
    progress=decoding(*[100.0] * 100),
)
IDLE = replace(ENGINE, decoding=0, progress=decoding())


def decided(
    policy: IterationPolicy, view: EngineView, cost: CostModel = PAPER
) -> tuple[Action, Reason]:
    decision = policy.decide(view, cost)
    return decision.action, decision.reason


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("cost", [PAPER, MIXING], ids=["exclusive", "mixing"])
def test_no_policy_has_a_choice_where_there_is_none(policy: str, cost: CostModel) -> None:
    rule = POLICIES[policy]()
    full = replace(ENGINE, admissible=0)
    assert decided(rule, IDLE, cost) == (Action.PREFILL, Reason.ENGINE_IDLE)
    assert decided(rule, full, cost) == (Action.DECODE, Reason.NOTHING_ADMISSIBLE)
    nothing = replace(IDLE, admissible=0, waiting=0)
    assert decided(rule, nothing, cost) == (Action.IDLE, Reason.NOTHING_ADMISSIBLE)


@given(
    st.sampled_from(sorted(POLICIES)),
    st.integers(1, 199),
    st.integers(1, 100),
    st.integers(0, 1000),
    st.floats(0, 100),
    st.integers(0, 5000),
)
@settings(max_examples=80)
def test_no_policy_mixes_on_an_engine_that_cannot(
    policy: str, busy: int, admissible: int, more: int, waited_s: float, waited: int
) -> None:
    view = replace(
        ENGINE,
        decoding=busy,
        admissible=min(admissible, SLOTS - busy),
        waiting=min(admissible, SLOTS - busy) + more,
        waited_slot_s=waited_s,
        waited_rounds=waited,
        progress=decoding(*[50.0] * busy),
    )
    assert POLICIES[policy]().decide(view, PAPER).action in (Action.PREFILL, Action.DECODE)


def test_prefill_first_never_waits() -> None:
    assert decided(PrefillFirst(), ENGINE) == (Action.PREFILL, Reason.SLOT_FREE)
    assert decided(PrefillFirst(), ENGINE, MIXING) == (Action.PREFILL, Reason.SLOT_FREE)


def test_mixed_fills_what_the_running_leave_of_its_budget() -> None:
    decision = Mixed().decide(ENGINE, MIXING)
    assert (decision.action, decision.max_prompt_tokens) == (Action.MIXED, 2048 - 100)
    assert decided(Mixed(), ENGINE, PAPER) == (Action.PREFILL, Reason.SLOT_FREE)
    cost = MIXING.to_ms()
    requests = [Request(str(k), 100 + 37 * k, 5 + k % 9) for k in range(60)]
    for line in simulate(requests, Way(cost, 16, policy="mixed")).lines:
        assert sum(line["prefill"].values()) + len(line["decode"]) <= 2048


@pytest.mark.parametrize(
    ("busy", "waiting", "waited_s", "rounds", "action", "reason"),
    [
        (100, 2, 0.0, 48, Action.DECODE, Reason.STALL_COST),  # 2.4 s until the next comes in
        (100, 2, 0.0, 52, Action.PREFILL, Reason.WAIT_COST),  # 2.6 s
        (100, 2, 2.4, 4, Action.PREFILL, Reason.WAIT_COST),
        (100, 2, 2.4, 1, Action.DECODE, Reason.STALL_COST),
        (100, 1, 0.0, 1, Action.PREFILL, Reason.WAIT_COST),  # nobody else waits
        (10, 2, 0.3, 1, Action.PREFILL, Reason.WAIT_COST),  # it stalls few
    ],
)
def test_lagrangian_weighs_a_stage_against_waiting(
    busy: int, waiting: int, waited_s: float, rounds: int, action: Action, reason: Reason
) -> None:
    """A stage costs 25 ms in each of 100 slots: 2.5 slot-seconds. A round lasts 50 ms."""
    view = replace(
        ENGINE,
        decoding=busy,
        waiting=waiting,
        waited_slot_s=waited_s,
        progress=decoding(*[float(rounds)] * busy),
    )
    assert decided(Lagrangian(), view) == (action, reason)


# Threshold.


def test_the_closed_form_gives_the_papers_threshold() -> None:
    theta = optimal_share(PAPER, 344.83)
    assert theta / (1 - theta) + log(1 - theta) == pytest.approx(0.025 / (0.029 * 344.83))
    assert round(theta * 200) == 14


def test_a_dearer_stage_or_shorter_answers_raise_the_threshold() -> None:
    usual = optimal_share(PAPER, 344.83)
    assert optimal_share(replace(PAPER, alpha_p_s=0.1), 344.83) > usual
    assert optimal_share(PAPER, 50.0) > usual
    assert optimal_share(replace(PAPER, alpha_p_s=0.0), 344.83) == 0
    assert optimal_share(replace(PAPER, alpha_d_s=0.0), 344.83) == 1


@given(st.floats(0.001, 0.999), st.floats(-1, 1), st.integers(1, 1000), st.floats(1, 5000))
def test_the_correction_is_at_most_half(
    theta: float, slope: float, slots: int, output: float
) -> None:
    added = hazard_correction(theta, slope, slots, PAPER, output)
    assert abs(added) <= theta / 2
    assert added * slope >= 0  # a rising hazard: more will be free soon


def drawn(hazard_rise: float, cap: int, count: int = 20_000) -> FloatArray:
    """Prompts of ten tokens, and lengths of hazard 0.005 + hazard_rise * t, cut at `cap`."""
    rng = random.Random(5)
    outputs = []
    for _ in range(count):
        made = 1
        while made < cap and rng.random() >= 0.005 + hazard_rise * made:
            made += 1
        outputs.append((10, made))
    return np.array(outputs, dtype=np.float64)


def test_a_cap_on_lengths_is_no_rising_hazard() -> None:
    """More than a third of the answers end at the cap."""
    capped = drawn(0.0, 200, 4000)
    assert np.mean(capped[:, 1] == 200) > 0.33
    assert abs(length_statistics(capped).slope) < 1e-5
    assert length_statistics(capped).output == pytest.approx(capped[:, 1].mean())
    rising = length_statistics(drawn(1e-4, 1000, 4000)).slope
    assert rising == pytest.approx(1e-4, rel=0.2)
    assert length_statistics(drawn(1e-4, 60, 4000)).slope == pytest.approx(1e-4, rel=0.5)


def test_the_safe_batch_is_what_memory_holds_but_for_a_small_risk() -> None:
    theta, prompt, output = 0.07, 68.0, 345.0
    growth = (1 - theta) / theta * output * log(1 / (1 - theta))
    reserve = log(1 / RISK) * output**2 / prompt
    assert memory_safe_batch(131_072, theta, prompt, output) == (131_072 - reserve) // (
        prompt + growth
    )
    assert memory_safe_batch(inf, theta, prompt, output) == inf
    assert memory_safe_batch(100, theta, prompt, output) == 1


def test_threshold_prefills_when_enough_are_free() -> None:
    rule = Threshold()
    rule.decide(ENGINE, PAPER)
    k = rule.k
    assert 2 < k < 30
    for free, expected in (
        (k, (Action.PREFILL, Reason.ENOUGH_FREE)),
        (k - 1, (Action.DECODE, Reason.STALL_COST)),
    ):
        view = replace(ENGINE, decoding=SLOTS - free, admissible=free, waiting=SLOTS)
        assert decided(rule, view) == expected
    alone = replace(ENGINE, decoding=SLOTS - 1, admissible=1, waiting=1)
    assert decided(rule, alone) == (Action.PREFILL, Reason.NOBODY_JOINS)


def test_threshold_learns_from_what_has_ended() -> None:
    """Shorter answers than it took for granted: stages are worth more company."""
    rule = Threshold()
    rule.decide(ENGINE, PAPER)
    before = rule.k
    rule.decide(replace(ENGINE, progress=decoding(100.0, finished=40)), PAPER)
    assert rule.k > before


def test_threshold_leaves_slots_empty_that_memory_could_not_feed() -> None:
    rule = Threshold()
    view = replace(ENGINE, kv_tokens=50_000, decoding=150, admissible=50, waiting=500)
    assert decided(rule, view) == (Action.DECODE, Reason.NOTHING_ADMISSIBLE)
    assert rule.slots < 150


# Adaptive.


def test_adaptive_waits_for_company_that_is_about_to_come() -> None:
    soon = replace(ENGINE, decoding=199, waiting=500, progress=decoding(*[10.0] * 199))
    assert decided(Adaptive(), soon) == (Action.DECODE, Reason.STALL_COST)
    nobody = replace(soon, waiting=1)
    assert decided(Adaptive(), nobody) == (Action.PREFILL, Reason.NOBODY_JOINS)
    hurried = replace(soon, hurried=True)
    assert decided(Adaptive(), hurried) == (Action.PREFILL, Reason.HURRIED)


def test_adaptive_does_not_wait_for_company_that_is_far_away() -> None:
    """All that run have 2,000 tokens before them, and predictions have always been right."""
    progress = decoding(*[2000.0] * 150, finished=200)
    far = replace(ENGINE, decoding=150, admissible=50, waiting=500, progress=progress)
    assert decided(Adaptive(), far) == (Action.PREFILL, Reason.WAIT_COST)


@given(
    st.integers(1, 199), st.integers(1, 199), st.floats(1, 5000), st.sampled_from([PAPER, MIXING])
)
@settings(max_examples=60)
def test_adaptive_never_waits_longer_than_a_stage_costs(
    busy: int, idle: int, expected: float, cost: CostModel
) -> None:
    """Slot-rounds waited so far, at the fixed time of a round, against the stage's fixed time."""
    idle = min(idle, SLOTS - busy)
    price = cost.alpha_p_s * (busy + idle)
    view = replace(
        ENGINE,
        decoding=busy,
        admissible=idle,
        waiting=1000,
        waited_rounds=int(price / cost.alpha_d_s) + 1,
        progress=decoding(*[expected] * busy),
    )
    assert Adaptive().decide(view, cost).action is not Action.DECODE


@pytest.mark.parametrize(
    ("alpha_m_s", "action"), [(0.030, Action.MIXED), (0.053, Action.MIXED), (0.056, Action.PREFILL)]
)
def test_adaptive_mixes_when_that_is_cheaper(alpha_m_s: float, action: Action) -> None:
    """Beyond a round it costs alpha_m - alpha_d; a stage of its own costs alpha_p, 25 ms."""
    view = replace(ENGINE, admissible=1, waiting=1)
    assert decided(Adaptive(), view, replace(MIXING, alpha_m_s=alpha_m_s)) == (
        action,
        Reason.NOBODY_JOINS,
    )
