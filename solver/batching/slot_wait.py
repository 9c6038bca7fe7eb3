"""What has been waited since the last prefill, for the policies that weigh it."""

from __future__ import annotations


class SlotWait:
    """Slots that stood idle with somebody admissible, summed since the last prefill.

    Attributes:
        slot_s: in slot-seconds.
        rounds: in decode rounds, each counted once for each of those held back.
    """

    def __init__(self) -> None:
        self.slot_s, self.rounds = 0.0, 0

    def add(self, held_back: int, rounds: int, seconds: float) -> None:
        """So many requests could have come in, and were held back for `rounds`."""
        self.rounds += held_back * rounds
        self.slot_s += held_back * seconds

    def reset(self) -> None:
        """A prefill has begun."""
        self.slot_s, self.rounds = 0.0, 0
