"""The agent's core: slots, memory, order, policies and the books, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.agent.engines.text import count_tokens
from solver.batching import Batcher, Sequence
from solver.bounds import engine_bound
from solver.cost import PROFILES
from solver.iteration import POLICIES, Action, EngineView, Lagrangian, PrefillFirst, Reason
from tests.helpers import gsm8k
from tests.solver.simulate import run

PAPER = PROFILES["llama-65b-ascend"]
requests = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 80)), min_size=1, max_size=40)
policies = st.sampled_from(sorted(POLICIES))


@given(requests, policies, st.integers(1, 8), st.integers(712, 2000), st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_request_finishes_within_slots_and_memory(
    load: list[tuple[int, int]], policy: str, slots: int, kv: int, known: bool
) -> None:
    result = run(load, PAPER.cost, slots=slots, policy=policy, kv_tokens=kv, known=known)
    assert sorted(result.ends, key=int) == [str(k) for k in range(len(load))]
    assert max(len(stage.sequences) for stage in result.stages) <= slots
    assert result.peak_kv <= kv
    batcher = result.batcher
    assert (batcher.kv_held, batcher.running, batcher.queued) == (0, 0, 0)
    decoded = sum(len(s.sequences) for s in result.stages if s.action is Action.DECODE)
    assert decoded == sum(output for _, output in load)
    prefilled = sum(s.prompt_tokens for s in result.stages)
    assert prefilled == sum(prompt for prompt, _ in load)


@given(requests, policies, st.integers(1, 8), st.booleans())
@settings(max_examples=80, deadline=None)
def test_slot_time_adds_up_and_the_bound_holds(
    load: list[tuple[int, int]], policy: str, slots: int, known: bool
) -> None:
    result = run(load, PAPER.cost, slots=slots, policy=policy, known=known)
    ledger = result.batcher.ledger
    assert sum(ledger.seconds.values()) == pytest.approx(slots * result.makespan_s)
    assert 0 < ledger.utilization <= 1
    prompt, output = (sum(column) for column in zip(*load, strict=True))
    longest = max(made for _, made in load)
    bound = engine_bound(PAPER.cost, slots, len(load), prompt, output, longest)
    assert bound <= result.makespan_s * (1 + 1e-9)
    assert result.batcher.efficiency == pytest.approx(bound / result.makespan_s)


def test_prefill_first_reproduces_the_papers_baseline() -> None:
    """201.00 s and 80.2 % in arXiv:2502.15763 table IV; 199.86 s on these lengths (method.md 6)."""
    load = [(count_tokens(question), output) for question, output in gsm8k()]
    result = run(load, PAPER.cost, slots=200, policy="prefill-first")
    assert result.makespan_s == pytest.approx(200, rel=0.03)
    offline = result.batcher.ledger.seconds
    useful = (offline["prefill"] + offline["decode"]) / (200 * result.makespan_s)
    assert useful == pytest.approx(0.80, abs=0.02)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("slots", "concurrency"), [(200, None), (14, 16)])
def test_lagrangian_beats_prefill_first(slots: int, concurrency: int | None, known: bool) -> None:
    load = [(68, output) for _, output in gsm8k()]
    first, rule = (
        run(load, PAPER.cost, slots=slots, policy=p, known=known, concurrency=concurrency)
        for p in ("prefill-first", "lagrangian")
    )
    assert rule.batcher.ledger.utilization > first.batcher.ledger.utilization
    assert rule.makespan_s < first.makespan_s


def test_lagrangian_waits_only_for_company_that_comes_in_time() -> None:
    rule, cost = Lagrangian(), PAPER.cost  # alpha_p is 25 ms
    for view, action, reason in (
        (EngineView(0, 3, 0.0, 9.0), Action.PREFILL, Reason.ENGINE_IDLE),
        (EngineView(9, 0, 9.0, 9.0), Action.DECODE, Reason.NOTHING_ADMISSIBLE),
        (EngineView(0, 0, 0.0, 9.0), Action.IDLE, Reason.NOTHING_ADMISSIBLE),
        (EngineView(100, 1, 0.0, 2.4), Action.DECODE, Reason.STALL_COST),
        (EngineView(100, 1, 0.0, 2.6), Action.PREFILL, Reason.WAIT_COST),
        (EngineView(100, 1, 2.4, 0.2), Action.PREFILL, Reason.WAIT_COST),
        (EngineView(100, 1, 0.0, float("inf")), Action.PREFILL, Reason.WAIT_COST),
    ):
        decision = rule.decide(view, cost)
        assert (decision.action, decision.reason) == (action, reason)


def test_prefill_first_never_waits() -> None:
    decision = PrefillFirst().decide(EngineView(100, 1, 0.0, 0.0), PAPER.cost)
    assert (decision.action, decision.reason) == (Action.PREFILL, Reason.SLOT_FREE)


def batcher(slots: int = 1, kv_tokens: int = 1000) -> Batcher:
    return Batcher(slots, kv_tokens, PAPER.cost, PrefillFirst(), 0.0)


def admitted(core: Batcher, now: float = 0.0) -> list[str]:
    stage = core.next_stage(now)
    return [] if stage is None else [sequence.id for sequence in stage.sequences]


def test_longest_first_within_a_burst() -> None:
    core = batcher(slots=2)
    for key, expected in (("short", 10.0), ("long", 500.0), ("middle", 100.0)):
        core.add(Sequence(key, 10, expected, 10, 0.0), 0.0)
    assert admitted(core) == ["long", "middle"]


def test_a_short_request_is_not_overtaken_for_ever() -> None:
    """One that is 490 tokens longer may come 490 rounds later, but not more."""
    round_s = PAPER.cost.decode_s(1)
    for later, first in ((480 * round_s, "long"), (500 * round_s, "short")):
        core = batcher()
        core.add(Sequence("short", 10, 10.0, 10, 0.0), 0.0)
        core.add(Sequence("long", 10, 500.0, 10, later), later)
        assert admitted(core, later) == [first]


def test_nobody_overtakes_a_request_that_waits_for_memory() -> None:
    core = batcher(slots=3, kv_tokens=100)
    core.add(Sequence("first", 40, 40.0, 40, 0.0), 0.0)
    assert admitted(core) == ["first"]
    core.add(Sequence("large", 50, 50.0, 50, 0.0), 0.0)
    core.add(Sequence("small", 5, 5.0, 5, 9.0), 0.0)
    stage = core.next_stage(0.0)
    assert stage is not None
    assert stage.action is Action.DECODE


def test_cancelled_requests_leave_queue_and_slot() -> None:
    core = batcher(slots=1)
    core.add(Sequence("running", 10, 10.0, 10, 0.0), 0.0)
    stage = core.next_stage(0.0)
    assert stage is not None
    core.add(Sequence("waiting", 10, 10.0, 10, 0.0), 0.0)
    core.cancel("waiting", 0.1)
    core.cancel("running", 0.1)
    core.cancel("unknown", 0.1)
    core.finish_stage(stage, [], 1.0)
    assert (core.running, core.queued, core.kv_held) == (0, 0, 0)
    assert core.next_stage(1.0) is None
    assert core.busy is None
