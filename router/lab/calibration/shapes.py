"""Which iterations a calibration measures: lengths of prompts, batches, contexts."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_PROMPT = 16
STRETCH = 4  # rounds that are timed together, at least, where single ones cannot be


@dataclass(frozen=True, slots=True)
class Shapes:
    """The plan of a calibration of an engine with so many slots and so much memory.

    `rounds` are samples of each shape; a request makes at most `most_tokens`. With `mixed`, prompts
    also join decode rounds.
    """

    slots: int
    kv_tokens: int
    max_model_len: int
    rounds: int
    mixed: bool = True

    @property
    def mixed_repeats(self) -> int:
        """Mixed iterations of each shape."""
        return max(1, self.rounds // 4)

    @property
    def most_tokens(self) -> int:
        """Output tokens that a sequence may make while it is measured, and as many to spare."""
        iterations = self.rounds + self.mixed_repeats * len(self.mixed_prompts)
        return max(2 * iterations + 8, self.streamed_tokens)

    @property
    def streamed_tokens(self) -> int:
        """Those that a stream makes whose rounds are timed from outside."""
        return STRETCH * (self.rounds + 2)

    @property
    def prompts(self) -> list[int]:
        """Lengths of prompts, each twice as long as the one before."""
        longest = min(self.max_model_len, self.kv_tokens) * 3 // 4
        return _doubled(LEAST_PROMPT, longest)

    @property
    def mixed_prompts(self) -> list[int]:
        """Those that join decode rounds: every second, up to a quarter of the longest request."""
        if not self.mixed:
            return []
        return _doubled(LEAST_PROMPT, max(LEAST_PROMPT, self.max_model_len // 4))[::2]

    @property
    def decodes(self) -> list[tuple[int, int]]:
        """Batches, and the prompt of each of their sequences, as far as memory goes."""
        found: list[tuple[int, int]] = []
        for batch in _doubled(1, self.slots):
            room = (
                self.kv_tokens - 2 * max(self.mixed_prompts, default=0)
            ) // batch - self.most_tokens
            longest = min(room, self.max_model_len - self.most_tokens)
            contexts = {LEAST_PROMPT, *(longest * eighths // 8 for eighths in range(1, 5))}
            found += [(batch, n) for n in sorted(contexts) if LEAST_PROMPT <= n <= longest]
        return found


def unequal(context: int, batch: int) -> list[int]:
    """Prompts of a batch, half to one and a half times `context`, and that on average."""
    return [max(1, round(context * (0.5 + (k + 0.5) / batch))) for k in range(batch)]


def _doubled(least: int, most: int) -> list[int]:
    """From the least on, each twice the one before, and the most."""
    found = []
    while least < most:
        found.append(least)
        least *= 2
    return [*found, most]
