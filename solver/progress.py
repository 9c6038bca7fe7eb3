"""Where the running requests of one engine stand, and how many will end within the next rounds."""

from __future__ import annotations

from collections import deque

import numpy as np

from solver.sequence import Sequence
from solver.survival import BINS, MOST_MULTIPLES, Survival
from solver.types import FloatArray

LAST_BIN = BINS * MOST_MULTIPLES
NEVER = np.iinfo(np.int64).max // 4
# Bins; products of tokens and bins a token must not fall just short of a whole bin.
ROUNDING = 1e-6
# Finished requests that estimates of their lengths look back on.
WINDOW = 2048


class Progress:
    """One row a slot; rounds are counted once for all, so a round costs nothing a request.

    Attributes:
        rounds: decode rounds made so far.
        finished: prompt and output tokens of the last requests that ended by themselves.
        finishes: how many have ended so in all.
    """

    def __init__(self, slots: int) -> None:
        self.rounds = 0
        self.finished: deque[tuple[int, int]] = deque(maxlen=WINDOW)
        self.finishes = 0
        self._survival = Survival()
        self._born = np.zeros(slots, dtype=np.int64)  # round at which it would have made no token
        self._scale = np.zeros(slots)  # bins a token; 0: the slot decodes nothing
        self._limit = np.full(slots, NEVER)  # most tokens
        self._nearest_limit = NEVER  # no limit is reached before this round
        self._expected = np.zeros(slots)

    def join(self, sequence: Sequence) -> None:
        """It decodes from the next round on."""
        slot = sequence.slot
        self._born[slot] = self.rounds - sequence.made
        self._expected[slot] = max(1.0, sequence.expected_tokens)
        self._scale[slot] = BINS / self._expected[slot]
        self._limit[slot] = sequence.max_tokens
        reached = int(self._born[slot]) + sequence.max_tokens
        self._nearest_limit = min(self._nearest_limit, reached)

    def leave(self, sequence: Sequence, *, ended: bool) -> None:
        """It decodes no longer; `ended`: it has made its last token. Brings `made` up to date."""
        slot = sequence.slot
        sequence.made = self.made(sequence)
        self._scale[slot] = 0.0
        self._limit[slot] = NEVER
        if self.rounds >= self._nearest_limit:
            self._nearest_limit = int((self._born + self._limit).min())
        if ended:
            self.finished.append((sequence.prompt_tokens, sequence.made))
            self.finishes += 1
            self._survival.observe(sequence.made / self._expected[slot])

    def made(self, sequence: Sequence) -> int:
        """Tokens made by a decoding sequence."""
        return self.rounds - int(self._born[sequence.slot])

    def ending_within(self, rounds: FloatArray) -> FloatArray:
        """(h,) how many of those now decoding are expected to end within each of `rounds` (h,)."""
        made = self.rounds - self._born
        at = made * self._scale + ROUNDING
        if self._survival.stale:
            running = np.minimum(at, LAST_BIN).astype(np.int64)
            self._survival.refresh(running[self._scale > 0])
        beyond = self._survival.beyond
        now = beyond.take(at.astype(np.int32), mode="clip")
        later = (at + rounds[:, None] * self._scale).astype(np.int32)
        stay = beyond.take(later, mode="clip")
        if self._nearest_limit <= self.rounds + rounds[-1]:
            stay *= made + rounds[:, None] < self._limit
        return np.asarray(len(made) - stay @ (1.0 / now), dtype=np.float64)

    def remaining(self) -> FloatArray:
        """(slots,) tokens that each will still make, as predicted; 0 for slots that do not decode.

        One that has outlived its prediction is taken to go on for as long as was predicted, or to
        its limit if that is nearer.
        """
        made = self.rounds - self._born
        left = self._expected - made
        left = np.where(left > 0, left, self._expected)
        left = np.maximum(0.0, np.minimum(left, self._limit - made))
        return np.where(self._scale > 0, left, 0.0)

    def next_end(self) -> float:
        """Rounds until the first of them ends, as predicted; infinite if none decodes."""
        left = self.remaining()[self._scale > 0]
        return float(left.min()) if len(left) else np.inf
