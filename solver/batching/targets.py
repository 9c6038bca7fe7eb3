"""What a request's user feels, as limits: seconds to its first token, and seconds a token after it.

A target is a wish, not a due time: a request that misses it is still served (`solver.routing`
weighs by how much). A request that keeps both counts towards goodput.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from solver.batching.priority import Priority
from solver.errors import ProblemError

# Of two gaps between tokens that take turns, the longer may be as long as twice their mean.
GAP_OVER_MEAN = 2.0


@dataclass(frozen=True, slots=True)
class Targets:
    """Limits on one request; infinite where there is none.

    Attributes:
        ttft_s: seconds from its arrival to its first token.
        tpot_s: mean seconds between its tokens after the first.
    """

    ttft_s: float = inf
    tpot_s: float = inf

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            if not getattr(self, name) > 0:
                raise ProblemError(f"targets: {name} must be above 0, not {getattr(self, name)}")

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return min(self.ttft_s, self.tpot_s) < inf

    @property
    def stall_s(self) -> float:
        """The longest gap between two tokens that should come beside others' prompts."""
        return GAP_OVER_MEAN * self.tpot_s

    def met(self, ttft_s: float, tpot_s: float) -> bool:
        """Whether a request with these times has kept both."""
        return ttft_s <= self.ttft_s and tpot_s <= self.tpot_s


class TightestStall:
    """Counts requests by the gap that they bear; what has no target does not count.

    Attributes:
        count: those that have a target.
        seconds: the tightest one; infinite if there is none.
    """

    def __init__(self) -> None:
        self.count, self.seconds = 0, inf
        self._counts: dict[float, int] = {}

    def add(self, targets: Targets) -> None:
        """One more."""
        gap = targets.stall_s
        if gap == inf:
            return
        self.count += 1
        self._counts[gap] = self._counts.get(gap, 0) + 1
        self.seconds = min(self.seconds, gap)

    def remove(self, targets: Targets) -> None:
        """One that was added is gone."""
        gap = targets.stall_s
        if gap == inf:
            return
        self.count -= 1
        self._counts[gap] -= 1
        if not self._counts[gap]:
            del self._counts[gap]
            self.seconds = min(self._counts, default=inf)


NO_TARGETS = Targets()
# A person notices two seconds before anything comes, and reads about ten tokens a second. What says
# nothing of its priority is taken to have a person waiting; bulk work has nobody.
DEFAULT_TARGETS: Mapping[Priority, Targets] = {
    Priority.INTERACTIVE: Targets(2.0, 0.1),
    Priority.DEFAULT: Targets(2.0, 0.1),
    Priority.BULK: NO_TARGETS,
}
