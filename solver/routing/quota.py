"""How much somebody may ask for in a minute: requests and tokens, as buckets that fill up again.

Rules:
- a bucket holds what may come in a minute, and fills at that rate; who has been idle for a minute
  may come with all of it at once;
- a request takes one from the first and its tokens, as predicted, from the second: both or neither.
  What it has really used is settled when it has ended, so a bucket may be below empty for a while;
- a request of more tokens than a minute has goes when the bucket is full: it is late, not lost;
- who is refused is told when there will be enough, if nobody comes before.

Must not know: clocks, keys, who asks. Times are seconds of any clock that does not go back.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Level:
    """One bucket as a client is told of it: `reset_s` until it is full again."""

    limit: float
    remaining: float
    reset_s: float


class Bucket:
    """So many of something a minute; infinite: as many as one likes.

    Attributes:
        limit: what it holds.
        taken: what was missing from it at `at_s`, which has come back by and by since.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.taken, self.at_s = limit, 0.0, -inf

    def change(self, limit: float) -> None:
        """From now on it is so many; what was taken stays taken."""
        self.limit = limit

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until so many can be taken; 0: at once."""
        if self.limit == inf:
            return 0.0
        self._fill(now)
        missing = min(amount, self.limit) - (self.limit - self.taken)
        return max(0.0, missing * MINUTE_S / self.limit)

    def take(self, amount: float) -> None:
        """Whether or not there are so many; below 0 they come back."""
        if self.limit < inf:
            self.taken = max(0.0, self.taken + amount)

    def level(self, now: float) -> Level | None:
        """What there is; None without a limit."""
        if self.limit == inf:
            return None
        self._fill(now)
        remaining = max(0.0, self.limit - self.taken)
        return Level(self.limit, remaining, self.taken * MINUTE_S / self.limit)

    def _fill(self, now: float) -> None:
        if now > self.at_s:
            back = (now - self.at_s) * self.limit / MINUTE_S
            self.taken, self.at_s = max(0.0, self.taken - back), now


class Quota:
    """One key's requests and tokens a minute; see the module."""

    def __init__(self, requests: float = inf, tokens: float = inf) -> None:
        self.requests, self.tokens = Bucket(requests), Bucket(tokens)

    @property
    def limited(self) -> bool:
        """Whether there is anything to count."""
        return min(self.requests.limit, self.tokens.limit) < inf

    def take(self, tokens: float, now: float) -> tuple[float, float]:
        """A request of so many tokens, if it may come: then (0, 0).

        Else nothing is taken, and these are the seconds until its request and its tokens could be.
        """
        waits_s = self.requests.wait_s(1.0, now), self.tokens.wait_s(tokens, now)
        if waits_s == (0.0, 0.0):
            self.requests.take(1.0)
            self.tokens.take(tokens)
        return waits_s

    def settle(self, taken: float, used: float) -> None:
        """A request that had taken so many tokens has used others."""
        self.tokens.take(used - taken)
