"""How bulk work steps back for online work inside one engine.

Online is whatever somebody waits for: all priorities but bulk. Rules:
- while online work is prefilled, or could be, no bulk prompt is: neither begun nor gone on with;
- beside online work that decodes, an iteration carries so much bulk work that it lasts no longer
  than the tightest target of those online lets it (`solver.batching.online`). What is over that is
  *paused*, the youngest first: it keeps its slot and its memory, is no part of iterations, and goes
  on, the oldest first, as soon as there is room again;
- where online work was here lately, a bulk prompt is cut into chunks of that length, so that who
  comes waits for one iteration at most; and a share of slots and memory is left free for it;
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
from math import inf
from typing import NamedTuple

from solver.batching.online import KEPT_FREE, OnlineHere
from solver.batching.sequence import Sequence
from solver.batching.slot_table import SlotTable
from solver.cost.model import CostModel


class BulkLoad(NamedTuple):
    """Bulk sequences, their prompt tokens to be prefilled, and their tokens in memory or queued."""

    sequences: int = 0
    to_prefill: int = 0
    tokens: int = 0


class SteppingBack(OnlineHere):
    """See the module."""

    def __init__(self, table: SlotTable) -> None:
        super().__init__()
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

    def let_in(
        self, found: Many[Sequence], cost: CostModel, now: float
    ) -> tuple[list[Sequence], bool]:
        """Of those who could come in, who does; and whether online work is to be prefilled."""
        table = self._table
        online = [sequence for sequence in found if not sequence.is_bulk]
        if online or not all(one.is_bulk for one in table.prefilling.values()):
            return online, True
        if table.paused:
            return [], False
        free = len(table.free_slots(table.slots)) - int(KEPT_FREE * table.slots)
        room = (1 - KEPT_FREE) * table.kv_tokens
        batch, kv, count = len(table.decoding) + len(table.prefilling), table.kv_held, 0
        limit_s = self.limit_s(now) if self._decodes_online() else inf
        for sequence in found:
            batch, kv = batch + 1, kv + sequence.context
            free -= sequence.slot < 0
            room -= sequence.expected_left
            if free < 0 or kv > room or cost.decode_s(batch, kv) > limit_s:
                break
            count += 1
        return list(found[:count]), False

    def pace(self, cost: CostModel, now: float, prompt_tokens: float) -> None:
        """Pause or resume bulk work beside online work of so many tokens to be prefilled now."""
        table = self._table
        limit_s = self.limit_s(now) if prompt_tokens or self._decodes_online() else inf
        tokens = prompt_tokens if cost.mixed is not None else 0.0

        def seconds(batch: int, kv: int) -> float:
            return cost.mixed_s(tokens, batch, kv) if tokens else cost.decode_s(batch, kv)

        while table.bulk and seconds(len(table.decoding), table.kv_decoding) > limit_s:
            table.pause()
        while table.paused:
            context = next(reversed(table.paused.values())).context
            if seconds(len(table.decoding) + 1, table.kv_decoding + context) > limit_s:
                break
            table.resume()

    def chunk_tokens(self, cost: CostModel, now: float, *, just_stalled: bool) -> float:
        """Tokens of bulk prompts that one iteration may carry; 0: none beside those online.

        Where these have `just_stalled` for a stage they make a token before the next. With nobody
        online a chunk takes as long as its iteration's fixed time, at least.
        """
        table, limit_s = self._table, self.limit_s(now)
        if limit_s == inf:
            return inf
        if just_stalled and self._decodes_online():
            return 0.0
        if cost.mixed is not None and table.decoding:
            tokens = cost.mixed_tokens(limit_s, len(table.decoding), table.kv_decoding)
        else:
            tokens = cost.prefill_tokens(limit_s)
        if not self._decodes_online():
            tokens = max(tokens, 1.0, cost.prefill_tokens(2 * cost.alpha_p_s))
        return tokens // 1

    def _decodes_online(self) -> bool:
        return len(self._table.decoding) > len(self._table.bulk)
