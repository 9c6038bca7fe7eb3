"""What an agent tells of its slots: the same slot-time as its ledger, however often one asks."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.agent.slot_trace import MOST, SlotTrace
from router.wire import PrefillSpan, SlotStay
from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.sequence import Sequence
from solver.cost.profiles import PROFILES

COST = PROFILES["llama-65b-ascend"].cost
loads = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 30)), min_size=1, max_size=30)


def slot_seconds(held: list[SlotStay], fills: list[PrefillSpan]) -> dict[str, float]:
    """As the page paints it: held slots decode, but for prefills and those who stand still."""
    spent = dict.fromkeys(("prefill", "decode", "stalled"), 0.0)
    for _, from_ms, to_ms in held:
        spent["decode"] += to_ms - from_ms
    for from_ms, to_ms, alone, slots in fills:
        beside = sum(max(0.0, min(to_ms, end) - max(from_ms, start)) for _, start, end in held)
        filled = (to_ms - from_ms) * len(slots)
        spent["prefill"] += filled
        spent["decode"] -= beside if alone else filled
        spent["stalled"] += beside - filled if alone else 0.0
    return {state: total / 1000 for state, total in spent.items()}


@given(loads, st.sampled_from(sorted(POLICIES)), st.integers(1, 8), st.integers(1, 20))
@settings(max_examples=60)
def test_reports_add_up_to_the_ledger(
    load: list[tuple[int, int]], policy: str, slots: int, every: int
) -> None:
    core = Batcher(slots, inf, COST, POLICIES[policy](), 0.0)
    left = {str(k): output for k, (_, output) in enumerate(load)}
    for k, (prompt, output) in enumerate(load):
        core.add(Sequence(str(k), prompt, output, 512, 0.0), 0.0)
    trace, now, stages, until_s = SlotTrace(core.held_slots, 0.0), 0.0, 0, 0.0
    told = dict.fromkeys(("prefill", "decode", "stalled"), 0.0)

    def take() -> None:
        nonlocal until_s
        since_s, upto_s, held, fills = trace.take(now, idle=not core.running)
        assert since_s == until_s
        until_s = upto_s
        for state, seconds in slot_seconds(held, fills).items():
            told[state] += seconds

    while (stage := core.next_stage(now)) is not None:
        start, now = now, now + stage.duration_s(COST)
        ended = []
        for sequence in stage.decode:
            left[sequence.id] -= 1
            sequence.made += 1
            if not left[sequence.id]:
                ended.append(sequence.id)
        core.finish_stage(stage, ended, now)
        trace.add(stage, start, now, core.held_slots)
        stages += 1
        if stages % every == 0:
            take()
    now += 1.0
    take()
    core.ledger.advance(now)
    assert until_s == now
    for state, seconds in told.items():
        assert seconds == pytest.approx(core.ledger.seconds[state], abs=1e-4 * slots * stages)


def test_a_reader_who_is_slow_loses_the_oldest() -> None:
    core = Batcher(1, inf, COST, POLICIES["prefill-first"](), 0.0)
    trace = SlotTrace(core.held_slots, 0.0)
    for k in range(MOST + 10):
        core.add(Sequence(str(k), 1, 1, 1, float(k)), float(k))
        stage = core.next_stage(float(k))
        assert stage is not None
        core.finish_stage(stage, [str(k)], k + 0.5)
        trace.add(stage, float(k), k + 0.5, core.held_slots)
    _, _, held, fills = trace.take(MOST + 10.0, idle=True)
    assert (len(held), len(fills)) == (MOST, MOST)
    assert fills[0][0] == 10_000


def test_who_holds_a_slot_before_anybody_looks_is_told() -> None:
    trace = SlotTrace({3, 5}, 10.0)
    assert trace.take(11.0, idle=False) == (10.0, 10.0, [], [])
    assert trace.take(12.0, idle=True)[2] == [(3, 0.0, 2000.0), (5, 0.0, 2000.0)]
