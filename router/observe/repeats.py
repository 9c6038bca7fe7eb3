"""Log lines that somebody else can cause, as often as they like.

Rules:
- what has happened with somebody is said once, or `most` times where each says something new, and
  is then counted: at most so often in `EVERY_S` seconds there is a line, which tells how many
  `times` it has happened since the last;
- of the pairs of somebody and something the latest `REMEMBERED` are remembered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

EVERY_S = 60.0
REMEMBERED = 4096


@dataclass(slots=True)
class _Said:
    """Lines since `since_s`, and what has happened without one since the last."""

    since_s: float = -inf
    lines: int = 0
    times: int = 0


class Repeats:
    """See the module; lines go to `log`."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._said: dict[tuple[str, str], _Said] = {}

    def say(
        self,
        level: int,
        what: str,
        whom: str,
        extra: Mapping[str, object],
        *,
        most: int = 1,
        trace: bool = False,
    ) -> None:
        """`what` has happened with `whom`; `trace`: by the exception that is being handled."""
        now, key = self._clock(), (whom, what)
        said = self._said.pop(key) if key in self._said else _Said()
        self._said[key] = said
        if len(self._said) > REMEMBERED:
            del self._said[next(iter(self._said))]
        if now - said.since_s >= EVERY_S:
            said.since_s, said.lines = now, 0
        said.times += 1
        if said.lines < most:
            about = {**extra, "times": said.times} if said.times > 1 else extra
            said.lines, said.times = said.lines + 1, 0
            self._log.log(level, what, extra=about, exc_info=trace)
