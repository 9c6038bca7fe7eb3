"""Bulk work is paused by one rule, whoever has the slots: we, or an engine with its own."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from solver.batching.outside.follow import Follower
from solver.batching.pacing import Pacing
from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.batching.sequence import Sequence
from solver.batching.slot_table import SlotTable
from solver.batching.targets import Targets
from solver.cost.profiles import PROFILES

COST = PROFILES["llama-2-70b-h100-tp8"].cost
SLOTS = 16

sequences = st.lists(st.tuples(st.booleans(), st.integers(1, 900)), min_size=1, max_size=SLOTS)
steps = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 3)), max_size=12)


def ours(load: list[Sequence]) -> SlotTable:
    table = SlotTable(SLOTS, inf, None)
    for one in load:
        table.admit(one)
        table.begin_decoding(one)
    return table


def its_own(load: list[Sequence]) -> Follower:
    follower = Follower(SLOTS, inf, inf, POLICIES["adaptive"](), COST)
    for one in load:
        follower.join(one)
    return follower


@given(sequences, steps, st.sampled_from((0.019, 0.022, 0.0225, 0.025, 0.05, inf)))
def test_who_stands_still_is_the_same_and_as_few_as_the_targets_let(
    load: list[tuple[bool, int]], paces: list[tuple[int, int]], tpot_s: float
) -> None:
    first = [
        Sequence(
            str(k),
            prompt,
            100.0,
            100,
            0.0,
            priority=Priority.BULK if bulk else Priority.DEFAULT,
            targets=Targets() if bulk else Targets(inf, tpot_s),
        )
        for k, (bulk, prompt) in enumerate(load)
    ]
    second = [replace(one) for one in first]
    table, follower = ours(first), its_own(second)
    both = [Pacing(table), Pacing(follower)]
    for pacing, known in zip(both, (first, second), strict=True):
        for one in known:
            pacing.came(one)
    for tokens, rounds in paces:
        for pacing in both:
            pacing.pace(COST, 0.0, float(tokens))
        assert list(table.paused) == list(follower.paused)
        assert table.kv_decoding == follower.kv_decoding
        assert set(table.decoding) == set(follower.decoding)
        if not table.paused:
            continue
        assert all(one.is_bulk for one in table.paused.values())
        limit_s, context = both[0].limit_s(0.0), next(reversed(table.paused.values())).context
        batch, kv = len(table.decoding) + 1, table.kv_decoding + context
        one_more_s = COST.mixed_s(tokens, batch, kv) if tokens else COST.decode_s(batch, kv)
        assert one_more_s > limit_s
        for _ in range(rounds):
            table.count_rounds(1, len(table.decoding))
            follower.begin_iteration(0, len(follower.decoding))
    for pacing in both:
        pacing.resume_all()
    assert list(table.bulk) == list(follower.bulk)
    for one in second:
        follower.leave(one, ended=True)
    assert (follower.kv_decoding, follower.progress.finishes) == (0, len(second))
    assert follower.decoding == follower.bulk == follower.paused == {}
