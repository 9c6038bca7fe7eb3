"""Targets for a trace that has none: ``--ttft-ms 2000,5000:4096 --tpot-ms 100``.

A person who sends a long prompt waits for its first token with more patience, so limits on that may
step up with the prompt's length.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated

from router.settings.base import readable_by
from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, NO_TARGETS, Targets


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests are to keep that have no targets of their own.

    Attributes:
        ttft_s: (prompt tokens, seconds) pairs, tokens rising from 0: the limit on the first token
            for prompts of more tokens; empty: the priority's.
        tpot_s: seconds a token after the first; None: the priority's.
    """

    ttft_s: tuple[tuple[int, float], ...] = ()
    tpot_s: float | None = None

    def of(self, priority: Priority, prompt_tokens: int) -> Targets:
        """A request's targets; a priority without any, as nobody waits for it, stays so."""
        standard = DEFAULT_TARGETS[priority]
        if standard == NO_TARGETS:
            return standard
        steps = [limit for beyond, limit in self.ttft_s if prompt_tokens > beyond]
        return Targets(
            steps[-1] if steps else standard.ttft_s,
            standard.tpot_s if self.tpot_s is None else self.tpot_s,
        )


def first_token_limits(text: str) -> tuple[tuple[int, float], ...]:
    """(prompt tokens, seconds) of ``2000,5000:4096``: 2 s, and 5 s for more than 4,096 tokens.

    Raises:
        ValueError: naming the part that is wrong.
    """
    steps: list[tuple[int, float]] = []
    for part in text.split(","):
        limit, colon, tokens = part.strip().partition(":")
        if bool(colon) != bool(steps) or (colon and not tokens.isdecimal()):
            raise ValueError(f"{part!r}: give milliseconds, then MS:TOKENS: 2000,5000:4096")
        steps.append((int(tokens or 0), _seconds(limit)))
    beyond = [tokens for tokens, _ in steps]
    if beyond != sorted(set(beyond)):
        raise ValueError(f"{text!r}: tokens must rise from 0, as in 2000,5000:4096")
    return tuple(steps)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < inf:
        raise ValueError(f"{text!r} is no number of milliseconds above 0")
    return value / 1000


FirstTokenLimits = Annotated[str, readable_by(first_token_limits)]
