"""How much bulk work an engine carries beside online work: who comes in, who stands still.

Rules:
- while online work is prefilled, or could be, no bulk prompt is;
- beside online work that decodes, an iteration carries so much bulk work that it lasts no longer
  than the tightest target of those online lets it (`solver.batching.online`). What is over that is
  *paused*, the youngest first: it keeps its slot and its memory, is no part of iterations, and goes
  on, the oldest first, as soon as there is room again, or when it has its turn; until then no
  other bulk work comes in;
- where online work was here lately, a bulk prompt is cut into chunks of that length, so that who
  comes waits for one iteration at most; and a share of the slots is left free for it.

Must not know: policies, clocks, queues, whose slots and memory they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Many
from math import inf

from solver.batching.decoders import Decoders
from solver.batching.online import KEPT_FREE, OnlineHere
from solver.batching.sequence import Sequence
from solver.cost.model import CostModel


class Pacing(OnlineHere):
    """See the module."""

    def __init__(self, decoders: Decoders) -> None:
        super().__init__()
        self._decoders = decoders

    def let_in(
        self,
        found: Many[Sequence],
        filling: Collection[Sequence],
        free: int,
        cost: CostModel,
        now: float,
    ) -> tuple[list[Sequence], bool]:
        """Of those who could come in, who does; and whether online work is to be prefilled.

        `filling` have a slot and are not prefilled yet, `free` slots are nobody's.
        """
        self._take_turns_held([*filling, *(one for one in found if one.slot >= 0)], now)
        online, here = [one for one in found if not one.is_bulk], self._decoders
        if online or not all(one.is_bulk for one in filling):
            return online, True
        if here.paused:
            return [], False
        free -= int(KEPT_FREE * here.slots)
        batch = len(here.decoding) + len(filling)
        kv, count = here.kv_decoding + sum(one.context for one in filling), 0
        limit_s = self.limit_s(now) if self._decodes_online() else inf
        for sequence in found:
            batch, kv = batch + 1, kv + sequence.context
            free -= sequence.slot < 0
            if free < 0 or cost.decode_s(batch, kv) > limit_s:
                break
            count += 1
        return list(found[:count]), False

    def pace(self, cost: CostModel, now: float, prompt_tokens: float) -> None:
        """Pause or resume bulk work beside online work of so many tokens to be prefilled now."""
        here = self._decoders
        limit_s = self.limit_s(now) if prompt_tokens or self._decodes_online() else inf
        tokens = prompt_tokens if cost.mixed is not None else 0.0

        def seconds(batch: int, kv: int) -> float:
            return cost.mixed_s(tokens, batch, kv) if tokens else cost.decode_s(batch, kv)

        while here.bulk and seconds(len(here.decoding), here.kv_decoding) > limit_s:
            here.pause()
        while here.paused:
            context = next(reversed(here.paused.values())).context
            if seconds(len(here.decoding) + 1, here.kv_decoding + context) > limit_s:
                break
            here.resume()

    def resume_all(self) -> None:
        """Nobody stands still."""
        while self._decoders.paused:
            self._decoders.resume()

    def chunk_tokens(self, cost: CostModel, now: float, *, just_stalled: bool) -> float:
        """Tokens of bulk prompts that one iteration may carry; 0: none beside those online.

        Where these have `just_stalled` for a stage they make a token before the next. With nobody
        online a chunk takes as long as its iteration's fixed time, at least.
        """
        here, limit_s = self._decoders, self.limit_s(now)
        if limit_s == inf:
            return inf
        if just_stalled and self._decodes_online():
            return 0.0
        if cost.mixed is not None and here.decoding:
            tokens = cost.mixed_tokens(limit_s, len(here.decoding), here.kv_decoding)
        else:
            tokens = cost.prefill_tokens(limit_s)
        if not self._decodes_online():
            tokens = max(tokens, 1.0, cost.prefill_tokens(2 * cost.alpha_p_s))
        return tokens // 1

    def _take_turns_held(self, unprefilled: Iterable[Sequence], now: float) -> None:
        """Who stands still in its slot has its turn in time, as has who waits for one."""
        for sequence in unprefilled:
            self.has_turn(sequence, now)
        paused = self._decoders.paused
        while paused and self.has_turn(next(reversed(paused.values())), now):
            self._decoders.resume()

    def _decodes_online(self) -> bool:
        return len(self._decoders.decoding) > len(self._decoders.bulk)
