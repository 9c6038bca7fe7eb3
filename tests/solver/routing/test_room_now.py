"""What a worker is said to have room for is what its engine takes at once."""

from __future__ import annotations

import pytest

from solver.batching.kv import WATERMARK
from solver.batching.sequence import Sequence
from solver.batching.slot_table import SlotTable
from solver.batching.targets import NO_TARGETS, Targets
from solver.routing.problem import room_now

KV = 20_000.0
PEOPLE = Targets(2.0, 0.1)


def sequence(number: int, prompt: int, output: float, targets: Targets) -> Sequence:
    return Sequence(str(number), prompt, output, 4_000, 0.0, targets=targets)


@pytest.mark.parametrize("output", [1.0, 20.0, 64.0, 500.0])
@pytest.mark.parametrize("prompt", [10, 300, 2_000])
@pytest.mark.parametrize("targets", [PEOPLE, NO_TARGETS])
def test_room_ends_where_an_engine_takes_nobody_more(
    prompt: int, output: float, targets: Targets
) -> None:
    """But for the little that engines keep free besides, and the newcomer's own rounds."""
    table = SlotTable(10_000, KV, None)
    new = sequence(0, prompt, output, targets)
    while table.count_fitting([new]):
        table.admit(new)
        new = sequence(len(table), prompt, output, targets)
    awaited = len(table) if targets is PEOPLE else 0
    left = room_now(KV, table.kv_held, awaited, output)
    least = prompt + new.spare  # what one more would take
    kept = KV * WATERMARK + (len(table) if targets is NO_TARGETS else 0)
    assert 0.0 <= left <= kept + least
