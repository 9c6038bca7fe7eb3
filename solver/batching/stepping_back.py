"""How bulk work steps back for online work inside one engine of ours.

Online is whatever somebody waits for: all priorities but bulk. Rules, besides those of
`solver.batching.pacing` on who comes in and who stands still:
- where online work was here lately, a share of memory is left free for it, but by no engine that
  holds nothing: what fits there alone is served;
- nothing that runs is thrown away unless online work lacks a slot or memory: then the youngest bulk
  sequence is evicted, and waits again with what it has made;
- bulk work that has had its turn is online from then on, so it starves nowhere.

An engine with bulk work alone, or without any, is served as ever. Must not know: policies, clocks,
queues. `solver.batching.batcher` asks before each iteration.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Many
from itertools import takewhile
from typing import NamedTuple

from solver.batching.online import KEPT_FREE
from solver.batching.pacing import Pacing
from solver.batching.sequence import Sequence
from solver.batching.slot_table import SlotTable
from solver.cost.model import CostModel


class BulkLoad(NamedTuple):
    """Bulk sequences, their prompt tokens to be prefilled, and their tokens in memory or queued."""

    sequences: int = 0
    to_prefill: int = 0
    tokens: int = 0


class SteppingBack(Pacing):
    """See the module."""

    def __init__(self, table: SlotTable) -> None:
        super().__init__(table)
        self._table = table

    def load(self, waiting: Iterable[Sequence]) -> BulkLoad:
        """What bulk work comes to, with that of those `waiting`."""
        if not self.bulk:
            return BulkLoad()
        table, made = self._table, self._table.progress.made
        queued = sum(one.prompt_tokens for one in waiting if one.is_bulk)
        to_prefill = sum(one.to_prefill for one in table.unprefilled if one.is_bulk)
        held = sum(one.prompt_tokens + made(one) for one in table.bulk.values())
        still = (*table.paused.values(), *table.prefilling.values())
        held += sum(one.context for one in still if one.is_bulk)
        return BulkLoad(self.bulk, queued + to_prefill, held + queued)

    def evict_for(self, wanted: Many[Sequence]) -> list[Sequence]:
        """Bulk work gives up slots and memory until these, who wait, fit; who that was."""
        table, evicted = self._table, list[Sequence]()
        wanted = list(takewhile(lambda one: not one.is_bulk, wanted))
        while wanted and not (
            len(table.free_slots(len(wanted))) == len(wanted) == table.count_fitting(wanted)
        ):
            victim = table.youngest_bulk()
            if victim is None:
                break
            table.evict(victim)
            evicted.append(victim)
        return evicted

    def admitted(
        self, found: Many[Sequence], cost: CostModel, now: float
    ) -> tuple[list[Sequence], bool]:
        """Who of them is let in, as far as memory goes; and whether online work is prefilled."""
        table = self._table
        free = len(table.free_slots(table.slots))
        chosen, online = self.let_in(found, table.prefilling.values(), free, cost, now)
        if online:
            return chosen, True
        needs = [one.context + one.expected_left for one in chosen]
        return chosen[: table.count_within(needs, (1 - KEPT_FREE) * table.kv_tokens)], False
