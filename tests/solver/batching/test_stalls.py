"""A price on stalls: nothing changes without targets, and with them none stands still for long."""

from __future__ import annotations

from dataclasses import replace
from math import inf, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.policies import POLICIES
from solver.batching.policies.adaptive import MOST, STALL_PRICE, Adaptive
from solver.batching.policy import Decision, EngineView, forced_decision
from solver.batching.progress import Progress
from solver.batching.sequence import SPARE_ROUNDS, Reason, Sequence
from solver.batching.targets import GAP_OVER_MEAN, NO_TARGETS, Targets, TightestStall
from solver.cost.model import Action, CostModel
from solver.cost.profiles import PROFILES
from solver.sim.request import Request
from tests.solver.sim.drive import Run, Way, simulate
from tests.solver.sim.test_simulation import cases

EXCLUSIVE = PROFILES["llama-65b-ascend"].cost
MIXING = PROFILES["llama-2-70b-a100-tp4"].cost
CURVED = replace(MIXING, delta_s=2e-8)
COSTS = [EXCLUSIVE, MIXING, CURVED]
SLOTS = 64


class AsItWas:
    """`adaptive` before stalls had a price."""

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        choice = forced_decision(view)
        if choice is not None:
            return choice
        action, overhead_s = self._cheaper(view, cost)
        if view.admissible >= view.waiting:
            return Decision(action, Reason.NOBODY_JOINS)
        price = overhead_s * (view.decoding + view.admissible)
        spent = cost.alpha_d_s * view.waited_rounds
        if price <= max(spent, cost.alpha_d_s * view.admissible):
            return Decision(action, Reason.WAIT_COST)
        if Adaptive()._pays_to_wait(view, price, cost.alpha_d_s):
            return Decision(Action.DECODE, Reason.STALL_COST)
        return Decision(action, Reason.WAIT_COST)

    def _cheaper(self, view: EngineView, cost: CostModel) -> tuple[Action, float]:
        if cost.mixed is None:
            return Action.PREFILL, cost.alpha_p_s
        tokens, batch, kv = view.stage_tokens, view.decoding, view.kv_held
        prompt_s = cost.prefill_s(tokens) - cost.alpha_p_s
        mixed_s = cost.mixed_s(tokens, batch, kv) - cost.decode_s(batch, kv) - prompt_s
        if mixed_s < cost.alpha_p_s:
            return Action.MIXED, max(0.0, mixed_s)
        return Action.PREFILL, cost.alpha_p_s


@given(cases())
@settings(max_examples=60)
def test_bulk_work_alone_is_done_as_if_stalls_had_no_price(case: tuple[list[Request], Way]) -> None:
    requests, way = [replace(one, wanted=NO_TARGETS) for one in case[0]], case[1]
    way = replace(way, policy="adaptive")
    ours = simulate(requests, way)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(POLICIES, "adaptive", AsItWas)
        patch.setattr(Sequence, "spare", 1)
        before = simulate(requests, way)
    assert ours.lines == before.lines
    assert ours.report == before.report


@st.composite
def long_prompts(draw: st.DrawFn) -> tuple[list[Request], Way]:
    """Prompts of up to thousands of tokens beside running requests with a target."""
    wanted = Targets(tpot_s=draw(st.sampled_from([0.02, 0.1, 0.4])))
    sizes = st.tuples(st.integers(1, 6000), st.integers(1, 60))
    lengths = draw(st.lists(sizes, min_size=2, max_size=20))
    gap_s = draw(st.sampled_from([0.0, 0.2, 1.0]))
    requests = [
        Request(str(k), prompt, output, gap_s * k, wanted=wanted)
        for k, (prompt, output) in enumerate(lengths)
    ]
    cost = draw(st.sampled_from(COSTS))
    lengths_known = draw(st.sampled_from(["known", "unknown"]))
    return requests, Way(cost.to_ms(), draw(st.integers(2, 12)), lengths=lengths_known)


def longest_allowed(run: Run) -> float:
    """The longest gap by the rule, from the largest base that the run can have had.

    Those whose prefill a stage ends take part in the round after it, which is the longer for it.
    """
    cost, slots = run.fleet.workers[0].cost, run.way.slots
    kv = sum(one.prompt_tokens + one.output_tokens for one in run.requests)
    bases = [cost.alpha_p_s + cost.decode_s(slots, kv)]
    if cost.mixed is not None:
        bases.append(cost.mixed_s(0, slots, kv))
    joining_s = cost.decode_s(slots, kv) - cost.decode_s(0)
    return max(MOST * run.requests[0].targets.stall_s, 2 * max(bases)) + joining_s


@given(long_prompts())
@settings(max_examples=60)
def test_nobody_with_a_target_stands_still_for_long(case: tuple[list[Request], Way]) -> None:
    run = simulate(*case)
    assert run.fleet.stall_s.max() <= longest_allowed(run) * (1 + 1e-9)


@pytest.mark.parametrize("cost", COSTS, ids=["exclusive", "mixing", "curved"])
def test_long_prompts_would_make_others_stand_still(cost: CostModel) -> None:
    """What the bound above is worth: the same work without targets, and what having some costs."""
    requests = [
        Request(str(k), 4000 if k % 2 else 50, 100, 0.5 * k, wanted=Targets(tpot_s=0.1))
        for k in range(40)
    ]
    way = Way(cost.to_ms(), 32)
    run = simulate(requests, way)
    bulk = simulate([replace(one, wanted=NO_TARGETS) for one in requests], way)
    assert run.fleet.stall_s.max() <= longest_allowed(run) < bulk.fleet.stall_s.max()
    assert run.report.makespan_s < 1.1 * bulk.report.makespan_s


def view_of(
    *targets: Targets,
    waiting: int = 1,
    prompt_tokens: int = 10**6,
    kv_held: int = 0,
    just_stalled: bool = False,
) -> EngineView:
    progress = Progress(SLOTS)
    for slot, wanted in enumerate(targets):
        progress.join(Sequence(str(slot), 50, 1000.0, 10_000, 0.0, targets=wanted, slot=slot))
    return EngineView(
        slots=SLOTS,
        decoding=len(targets),
        admissible=waiting,
        waiting=waiting,
        prompt_tokens=prompt_tokens,
        kv_tokens=inf,
        kv_held=kv_held,
        waited_slot_s=0.0,
        waited_rounds=0,
        prefill_budget=inf,
        just_stalled=just_stalled,
        progress=progress,
    )


def gap_s(action: Action, view: EngineView, cost: CostModel, tokens: float) -> float:
    """Between two tokens of those who decode, with so many prompt tokens in between."""
    if action is Action.MIXED:
        return cost.mixed_s(tokens, view.decoding, view.kv_held)
    return cost.prefill_s(tokens) + cost.decode_s(view.decoding, view.kv_held)


@given(
    st.sampled_from(COSTS),
    st.integers(1, SLOTS - 1),
    st.integers(0, SLOTS - 1),
    st.integers(1, 1000),
    st.integers(0, 200_000),
    st.floats(0.005, 2.0),
)
@settings(max_examples=120)
def test_a_chunk_is_as_long_as_target_and_queue_let_it_be(
    cost: CostModel, interactive: int, bulk: int, waiting: int, kv: int, tpot_s: float
) -> None:
    bulk = min(bulk, SLOTS - interactive)
    targets = [Targets(tpot_s=tpot_s)] * interactive + [NO_TARGETS] * bulk
    view = view_of(*targets, waiting=waiting, kv_held=kv)
    decision = Adaptive().decide(view, cost)
    assert decision.reason is Reason.FULL_CHUNK
    base_s = gap_s(decision.action, view, cost, 0)
    target_s = max(GAP_OVER_MEAN * tpot_s, 2 * base_s)
    most_s = max(target_s, MOST * GAP_OVER_MEAN * tpot_s)
    queue_s2 = waiting * base_s * target_s / (STALL_PRICE * interactive)
    wanted_s = min(most_s, base_s + sqrt((target_s - base_s) ** 2 + queue_s2))
    tokens = decision.max_prompt_tokens
    assert gap_s(decision.action, view, cost, tokens) <= wanted_s * (1 + 1e-9)
    assert gap_s(decision.action, view, cost, tokens + 1) > wanted_s * (1 - 1e-9)
    longer = Adaptive().decide(replace(view, waiting=2 * waiting), cost)
    assert longer.action is not decision.action or longer.max_prompt_tokens >= tokens


@pytest.mark.parametrize("cost", COSTS, ids=["exclusive", "mixing", "curved"])
def test_the_tightest_target_counts_and_bulk_work_has_none(cost: CostModel) -> None:
    def chunk(*targets: Targets) -> float:
        return Adaptive().decide(view_of(*targets), cost).max_prompt_tokens

    tight, loose = Targets(tpot_s=0.15), Targets(tpot_s=0.5)
    assert chunk(NO_TARGETS, Targets(ttft_s=1.0)) == inf
    assert chunk(tight, loose) < chunk(loose, loose) < inf
    assert chunk(tight, loose, NO_TARGETS) < chunk(loose, NO_TARGETS)


def test_an_exclusive_engine_decodes_between_two_chunks() -> None:
    running = [Targets(tpot_s=0.1)] * 8
    after = view_of(*running, just_stalled=True)
    decision = Adaptive().decide(after, EXCLUSIVE)
    assert (decision.action, decision.reason) == (Action.DECODE, Reason.STALL_TARGET)
    assert not decision.lasting
    bulk = view_of(*[NO_TARGETS] * 8, just_stalled=True)
    assert Adaptive().decide(bulk, EXCLUSIVE).action is Action.PREFILL


def test_less_than_a_chunk_waits_for_company_as_ever() -> None:
    """A stage costs 25 ms in each of 63 slots, and many who could share it are about to end."""
    about_to_end = view_of(*[Targets(tpot_s=0.1)] * 63, waiting=1, prompt_tokens=70)
    for sequence_slot in range(63):
        about_to_end.progress._expected[sequence_slot] = 5.0
        about_to_end.progress._scale[sequence_slot] *= 200
    waits = replace(about_to_end, waiting=500)
    assert Adaptive().decide(waits, EXCLUSIVE).reason is Reason.STALL_COST
    alone = Adaptive().decide(about_to_end, EXCLUSIVE)
    assert (alone.action, alone.reason) == (Action.PREFILL, Reason.NOBODY_JOINS)
    full = replace(waits, prompt_tokens=100_000)
    assert Adaptive().decide(full, EXCLUSIVE).reason is Reason.FULL_CHUNK


@given(st.lists(st.tuples(st.sampled_from([0.05, 0.1, 0.2, inf]), st.booleans()), max_size=40))
def test_the_tightest_of_those_who_are_there(steps: list[tuple[float, bool]]) -> None:
    kept, there = TightestStall(), list[float]()
    for tpot_s, comes in steps:
        if comes:
            kept.add(Targets(tpot_s=tpot_s))
            there.append(tpot_s)
        elif tpot_s in there:
            kept.remove(Targets(tpot_s=tpot_s))
            there.remove(tpot_s)
        finite = [one for one in there if one < inf]
        assert kept.count == len(finite)
        assert kept.seconds == (GAP_OVER_MEAN * min(finite) if finite else inf)


@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from([0.01, 0.1, inf]))
def test_memory_is_left_only_for_what_a_target_may_still_need(
    expected: int, most: int, tpot_s: float
) -> None:
    one = Sequence("a", 10, float(expected), most, 0.0, targets=Targets(tpot_s=tpot_s))
    assert one.spare == (1 if tpot_s == inf else min(SPARE_ROUNDS, expected, most))
