"""What engines push of their load: of all ranks together, and how fast they prefill.

Rules:
- it corrects what is counted by whoever sends: how many run at once, memory, speed of prefills;
- two messages of a rank tell how long it took to prefill so many tokens;
- who has said nothing for `SILENT_S` is not heard any more: its own count is all that there is.

Must not know: sockets, clocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.kv_wire import Load

# An engine says something every second, if only that it lives.
SILENT_S = 3.0
# Fewer tokens than that tell of the engine's fixed times more than of its speed.
LEAST_PREFILLED = 256


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A rank has prefilled so many tokens, in so many seconds."""

    tokens: int
    seconds: float


class Loads:
    """Of one worker's ranks; see the module."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, Load]] = {}
        self._since: dict[int, Load] = {}  # from which prefills are counted

    def push(self, rank: int, load: Load, now: float) -> Prefilled | None:
        """A rank has said this; what it has prefilled since it last told of enough."""
        self._last[rank] = now, load
        since = self._since.setdefault(rank, load)
        tokens, seconds = load.uncached - since.uncached, load.uncached_s - since.uncached_s
        if tokens < 0 or seconds < 0:  # it has restarted
            self._since[rank] = load
            return None
        if tokens < LEAST_PREFILLED or not seconds:
            return None
        self._since[rank] = load
        return Prefilled(tokens, seconds)

    def now(self, now: float) -> Load | None:
        """Of all ranks together; None unless all that have ever spoken still do."""
        told = [load for at_s, load in self._last.values() if now - at_s <= SILENT_S]
        if not told or len(told) < len(self._last):
            return None
        return Load(
            *(sum(getattr(load, name) for load in told) for name in Load.__dataclass_fields__)
        )
