"""Where the running requests of one engine stand, and how many will end within the next rounds."""

from __future__ import annotations

from collections import deque

import numpy as np

from solver.arrays import FloatArray
from solver.batching.sequence import Sequence
from solver.batching.targets import TightestStall
from solver.lengths.distribution import EDGE_ARRAY, EDGES
from solver.lengths.survival import BINS, MOST_MULTIPLES, IntArray, Survival

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
        stall: of those decoding that have a target, how many they are, and the tightest.
    """

    def __init__(self, slots: int) -> None:
        self.rounds = 0
        self.finished: deque[tuple[int, int]] = deque(maxlen=WINDOW)
        self.finishes = 0
        self.stall = TightestStall()
        self._survival = Survival()
        self._born = np.zeros(slots, dtype=np.int64)  # round at which it would have made no token
        self._scale = np.zeros(slots)  # bins a token; 0: the slot decodes nothing
        self._limit = np.full(slots, NEVER)  # most tokens
        self._nearest_limit = NEVER  # no limit is reached before this round
        self._expected = np.zeros(slots)
        # By slot, tokens to come at each edge of the bins of lengths; rows of NaN: no distribution.
        self._left: FloatArray | None = None

    def join(self, sequence: Sequence) -> None:
        """It decodes from the next round on."""
        slot = sequence.slot
        self._born[slot] = self.rounds - sequence.made
        self._expected[slot] = max(1.0, sequence.expected_tokens)
        self._scale[slot] = BINS / self._expected[slot]
        self._limit[slot] = sequence.max_tokens
        self.stall.add(sequence.targets)
        reached = int(self._born[slot]) + sequence.max_tokens
        self._nearest_limit = min(self._nearest_limit, reached)
        if sequence.lengths is not None and self._left is None:
            self._left = np.full((len(self._born), len(EDGES)), np.nan)
        if self._left is not None:
            known = sequence.lengths
            self._left[slot] = np.nan if known is None else known.left_at_edges()

    def leave(self, sequence: Sequence, *, ended: bool) -> None:
        """It decodes no longer; `ended`: it has made its last token. Brings `made` up to date."""
        slot = sequence.slot
        sequence.made = self.made(sequence)
        self._scale[slot] = 0.0
        self._limit[slot] = NEVER
        self.stall.remove(sequence.targets)
        if self.rounds >= self._nearest_limit:
            self._nearest_limit = int((self._born + self._limit).min())
        if ended:
            self.finished.append((sequence.prompt_tokens, sequence.made))
            self.finishes += 1
            self._survival.observe(sequence.made / self._expected[slot])

    def place(self, sequence: Sequence, made: int) -> None:
        """It has been seen to have made so many tokens, whatever the rounds say."""
        self._born[sequence.slot] = self.rounds - made
        reached = int(self._born[sequence.slot]) + sequence.max_tokens
        self._nearest_limit = min(self._nearest_limit, reached)

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
        return self._limited(self._expected - made, made)

    def _limited(self, left: FloatArray, made: IntArray) -> FloatArray:
        left = np.where(left > 0, left, self._expected)
        left = np.maximum(0.0, np.minimum(left, self._limit - made))
        return np.where(self._scale > 0, left, 0.0)

    def expected_left(self, ahead: int = 0) -> FloatArray:
        """As `remaining`, after `ahead` more rounds, and where distributions are known from these.

        Whoever has outlived its prediction is likely to be one of the long ones.
        """
        made = self.rounds + ahead - self._born
        left = self._limited(self._expected - made, made)
        if self._left is None:
            return left
        at = np.maximum(1.0, made + 1.0)
        k = np.minimum(EDGE_ARRAY.searchsorted(at, side="right"), len(EDGES) - 1) - 1
        rows, low = np.arange(len(at)), EDGE_ARRAY[k]
        into = np.minimum(1.0, (at - low) / (EDGE_ARRAY[k + 1] - low))
        again = self._left[rows, k] * (1.0 - into) + self._left[rows, k + 1] * into
        return np.where((left > 0) & ~np.isnan(again), again, left)

    def next_end(self) -> float:
        """Rounds until the first of them ends, as predicted; infinite if none decodes."""
        left = self.remaining()[self._scale > 0]
        return float(left.min()) if len(left) else np.inf
