"""Who holds a slot of one engine, and the memory that they hold with it.

Rules:
- a sequence takes a slot when it is admitted and keeps it until it is gone: prefilling, decoding,
  perhaps preempted and prefilling again, or paused and decoding again; unless it is evicted, and
  waits again as it did at first, with what it has made;
- a preempted sequence holds its slot but no memory; the last admitted is preempted first, and bulk
  work before any other;
- admission leaves those who run a round's tokens, and those with a target some rounds more; but
  whatever is left free, one is always admitted to an engine that holds nothing;
- the prefix cache has what is left of the memory beside those who run, and nothing else.

Must not know: the queue, policies, stages, clocks. Who is admitted, and when, is
`solver.batching.batcher`'s.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Many
from itertools import chain
from math import inf

from solver.batching.decoders import Decoders
from solver.batching.kv import WATERMARK, PrefixCache, count_fitting
from solver.batching.sequence import Sequence


class SlotTable(Decoders):
    """Slots and memory of one engine; see the module's rules.

    Attributes:
        prefilling: who holds a slot and whose prefill is not over.
        preempted: who holds a slot, but no memory.
        kv_held: cached tokens of all.
        preemptions: sequences that have lost their memory, so far.
    """

    def __init__(self, slots: int, kv_tokens: float, cache: PrefixCache | None) -> None:
        super().__init__(slots)
        self.kv_tokens, self.cache = kv_tokens, cache
        self.prefilling: dict[str, Sequence] = {}
        self.preempted: dict[str, Sequence] = {}
        self.kv_held = 0
        self._spare = 0  # tokens that those who hold memory are left
        self.preemptions = 0
        self._free = list(range(slots))

    def __len__(self) -> int:
        """Slots in use."""
        return self.slots - len(self._free)

    def __contains__(self, sequence_id: str) -> bool:
        groups = (self.decoding, self.prefilling, self.preempted, self.paused)
        return any(sequence_id in group for group in groups)

    @property
    def held_slots(self) -> set[int]:
        """The slots in use, by number."""
        return set(range(self.slots)).difference(self._free)

    @property
    def unprefilled(self) -> list[Sequence]:
        """Those that have their prefill, or the rest of it, before them."""
        return [*self.prefilling.values(), *self.preempted.values()]

    def free_slots(self, most: int) -> list[int]:
        """The free slots, lowest first, `most` of them at most."""
        return heapq.nsmallest(most, self._free)

    def count_fitting(self, candidates: Many[Sequence]) -> int:
        """How many of them memory has room for now."""
        if self.kv_tokens == inf:
            return len(candidates)
        room = self.kv_tokens * (1 - WATERMARK) - self._spare
        return self.count_within([one.context + one.spare for one in candidates], room)

    def count_within(self, needs: Many[float], room: float) -> int:
        """How many who need so many tokens fit into `room` beside what is held.

        One always fits where nothing is held: whatever is left free of memory, on purpose too, must
        not keep out for ever who fits into the engine alone.
        """
        count = count_fitting(needs, room - self.kv_held)
        empty = not self.decoding and not self.prefilling and not self.paused
        return max(count, min(1, len(needs))) if empty else count

    def rounds_that_fit(self) -> int:
        """Decode rounds that those decoding can make before memory runs out; memory is limited."""
        return int(self.kv_tokens - self.kv_held) // len(self.decoding)

    def admit(self, sequence: Sequence) -> bool:
        """Its prefill begins, with what the prefix cache has of it; False if it was preempted."""
        new = self.preempted.pop(sequence.id, None) is None
        if new:
            sequence.slot = heapq.heappop(self._free)
        if self.cache is not None:
            sequence.cached = self.cache.match(sequence.hash_ids, sequence.prompt_tokens)
        self.prefilling[sequence.id] = sequence
        self._spare += sequence.spare
        self._hold(sequence.context)
        return new

    def begin_decoding(self, sequence: Sequence) -> None:
        """Its prefill is over."""
        del self.prefilling[sequence.id]
        self._start(sequence)
        if self.cache is not None:
            room = self.kv_tokens - self.kv_held
            self.cache.store(sequence.hash_ids, sequence.prompt_tokens, room, sequence.id)

    def count_rounds(self, rounds: int, made: int) -> None:
        """So many decode rounds are over, in which those decoding made so many tokens."""
        self.progress.rounds += rounds
        self._hold(made)
        self.kv_decoding += made

    def make_room(self) -> list[Sequence]:
        """Preempt the last admitted until the next round fits into memory; who that was.

        Bulk work goes first, while there is other work.
        """
        lost: list[Sequence] = []
        while self.kv_held + len(self.decoding) > self.kv_tokens:
            if len(self.decoding) + len(self.prefilling) + len(self.paused) <= 1:
                break
            sequence = self._last_admitted()
            self._lose_memory(sequence)
            self.preempted[sequence.id] = sequence
            lost.append(sequence)
        return lost

    def _last_admitted(self) -> Sequence:
        online = len(self.bulk) < len(self.decoding) or not all(
            sequence.is_bulk for sequence in self.prefilling.values()
        )
        bulk = self.youngest_bulk() if online or self.paused else None
        return bulk or next(reversed((self.prefilling or self.decoding).values()))

    def youngest_bulk(self) -> Sequence | None:
        """The bulk work with memory that has got least for it."""
        filling = (s for s in reversed(self.prefilling.values()) if s.is_bulk)
        paused, bulk = iter(self.paused.values()), reversed(self.bulk.values())
        return next(chain(filling, paused, bulk), None)

    def evict(self, sequence: Sequence) -> None:
        """It loses its memory and its slot, and keeps what it has made."""
        self._lose_memory(sequence)
        heapq.heappush(self._free, sequence.slot)
        sequence.slot = -1

    def release(self, sequence_id: str, *, ended: bool) -> Sequence:
        """It holds its slot no longer; `ended`: it has made its last token."""
        sequence = self.decoding.get(sequence_id)
        if sequence is not None:
            self._stop(sequence, ended=ended)
        else:
            sequence = self.prefilling.pop(sequence_id, None) or self.paused.pop(sequence_id, None)
        if sequence is not None:
            self._free_memory(sequence)
        else:
            sequence = self.preempted.pop(sequence_id)
        heapq.heappush(self._free, sequence.slot)
        return sequence

    def _lose_memory(self, sequence: Sequence) -> None:
        """What it has made stays known, and is prefilled again with its prompt."""
        if sequence.id in self.decoding:
            self._stop(sequence, ended=False)
        elif self.paused.pop(sequence.id, None) is None:
            del self.prefilling[sequence.id]
        self._free_memory(sequence)
        sequence.prefilled = sequence.cached = 0
        sequence.restarts += 1
        self.preemptions += 1

    def _free_memory(self, sequence: Sequence) -> None:
        self.kv_held -= sequence.context
        self._spare -= sequence.spare

    def _hold(self, tokens: int) -> None:
        """Whoever runs needs more memory; the prefix cache has what is left of it."""
        self.kv_held += tokens
        if self.cache is not None:
            self.cache.trim(self.kv_tokens - self.kv_held)
