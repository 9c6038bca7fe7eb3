"""What each slot did lately, stage by stage, for one who looks on.

A trace exists only while somebody looks: an agent that nobody watches records nothing. Where the
reader is slow, the oldest is forgotten. A slot whose request waits for memory counts as held.
"""

from __future__ import annotations

from collections import deque

from router.wire import PrefillSpan, SlotStay
from solver.batching.sequence import Stage
from solver.cost.model import Action

MOST = 1024  # prefills, and stays in slots, that are kept for a reader


class SlotTrace:
    """Slots held and prefilled since the last `take`."""

    def __init__(self, held: set[int], now: float) -> None:
        self._since_s = self._until_s = now
        self._held = dict.fromkeys(held, now)
        self._left: deque[tuple[int, float, float]] = deque(maxlen=MOST)
        self._fills: deque[tuple[float, float, bool, tuple[int, ...]]] = deque(maxlen=MOST)

    def add(self, stage: Stage, start_s: float, end_s: float, held: set[int]) -> None:
        """A stage is over; `held` are the slots in use after it."""
        if stage.prefill:
            slots = tuple(chunk.sequence.slot for chunk in stage.prefill)
            for slot in slots:
                self._held.setdefault(slot, start_s)
            self._fills.append((start_s, end_s, stage.action is Action.PREFILL, slots))
        if self._held.keys() != held:
            for slot in self._held.keys() - held:
                self._left.append((slot, self._held.pop(slot), end_s))
            for slot in held - self._held.keys():
                self._held[slot] = end_s
        self._until_s = end_s

    def take(
        self, now: float, *, idle: bool
    ) -> tuple[float, float, list[SlotStay], list[PrefillSpan]]:
        """From when to when, who held slots and what was prefilled, and begin anew.

        A stage under way is told when it is over; until then only an `idle` engine is at `now`.
        """
        since_s = self._since_s
        until_s = max(since_s, now if idle else self._until_s)
        stays = [*self._left, *((slot, from_s, until_s) for slot, from_s in self._held.items())]
        held = [
            (slot, _ms(max(from_s, since_s) - since_s), _ms(to_s - since_s))
            for slot, from_s, to_s in stays
            if to_s > since_s
        ]
        fills = [
            (_ms(start_s - since_s), _ms(end_s - since_s), alone, slots)
            for start_s, end_s, alone, slots in self._fills
        ]
        self._left.clear()
        self._fills.clear()
        self._since_s = until_s
        return since_s, until_s, held, fills


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
