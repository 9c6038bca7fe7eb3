"""Where slot-time goes: every slot is in exactly one state at any moment.

prefill   the slot's own request is being prefilled
decode    the slot's own request is being decoded
stalled   its request stands still while others are prefilled
paused    its bulk request stands still for online work
waiting   idle while work is queued
empty     idle with none

Utilization is prefill and decode over all slot-time (README section 6 for one busy period); the
useful share is the same over all but empty: what was made of slots while there was work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STATES = ("prefill", "decode", "stalled", "paused", "waiting", "empty")


@dataclass(slots=True)
class SlotLedger:
    """Integrates slot states over time; the six sums always add up to slots x time.

    `since_s` is when the ledger was opened. Times never run backwards: one before the last is
    taken as the last.
    """

    slots: int
    since_s: float
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STATES, 0.0))
    _last_s: float = field(init=False)
    _prefill: int = 0
    _decode: int = 0
    _stalled: int = 0
    _paused: int = 0
    _queued: int = 0

    def __post_init__(self) -> None:
        self._last_s = self.since_s

    def advance(self, now: float) -> None:
        """Book the time up to `now` under the present states."""
        passed = now - self._last_s
        if passed <= 0:
            return
        self._last_s = now
        for state, count in self.counts().items():
            self.seconds[state] += count * passed

    def stage(
        self, now: float, *, prefill: int, decode: int, stalled: int, paused: int = 0
    ) -> None:
        """From `now` on, so many slots are in each busy state."""
        self.advance(now)
        self._prefill, self._decode, self._stalled = prefill, decode, stalled
        self._paused = paused

    def queue(self, now: float, queued: int) -> None:
        """From `now` on, so many requests wait for a slot."""
        self.advance(now)
        self._queued = queued

    def counts(self) -> Mapping[str, int]:
        """Slots in each state now."""
        idle = self.slots - self._prefill - self._decode - self._stalled - self._paused
        waiting = min(idle, self._queued)
        return {
            "prefill": self._prefill,
            "decode": self._decode,
            "stalled": self._stalled,
            "paused": self._paused,
            "waiting": waiting,
            "empty": idle - waiting,
        }

    @property
    def utilization(self) -> float:
        """(prefill + decode) over all slot-time since the ledger was opened; 0 of none."""
        total = sum(self.seconds.values())
        return self._worked / total if total else 0.0

    @property
    def useful(self) -> float:
        """(prefill + decode) over all but empty, since the ledger was opened; 0 if never busy."""
        seconds = self.seconds
        total = self._worked + seconds["stalled"] + seconds["paused"] + seconds["waiting"]
        return self._worked / total if total else 0.0

    @property
    def _worked(self) -> float:
        return self.seconds["prefill"] + self.seconds["decode"]
