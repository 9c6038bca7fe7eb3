"""How many tokens a prompt will have, and how fast a worker really is, from experience.

Output lengths have a module of their own, `solver.lengths.predictor`. The estimators learn from
finished requests only, one observation at a time, and give the same answers for the same history.
"""

from __future__ import annotations

import math

# LLaMA's tokenizer makes 1 token of 3.5 bytes of English text (GSM8K test questions: 239.9 bytes
# and 68.43 tokens on average); the ratio learnt starts from here.
BYTES_PER_TOKEN = 3.5
MOST_BYTES_PER_TOKEN = 16.0


class TokenEstimator:
    """Prompt tokens from the prompt's bytes, with a ratio learnt from reported usage."""

    def __init__(self, prior_tokens: float = 200.0) -> None:
        self._tokens = prior_tokens
        self._bytes = prior_tokens * BYTES_PER_TOKEN

    def estimate(self, prompt_bytes: int) -> int:
        """Expected prompt tokens, at least 1."""
        return max(1, round(prompt_bytes * self._tokens / self._bytes))

    def observe(self, prompt_bytes: int, tokens: int) -> None:
        """A finished request reported `tokens` for a prompt of `prompt_bytes`.

        What no tokenizer does to text is left out: it tells of templates, images or nonsense.
        """
        if not prompt_bytes / MOST_BYTES_PER_TOKEN <= tokens <= prompt_bytes:
            return
        decay = 0.999  # about the last thousand requests count
        self._tokens = self._tokens * decay + tokens
        self._bytes = self._bytes * decay + prompt_bytes


class ScaleEstimator:
    """How much slower a worker really is than its cost model says, from finished requests.

    A running geometric mean of actual over predicted seconds, bounded against nonsense.

    Attributes:
        factor: multiply the cost model by this; 1 until something was observed.
    """

    def __init__(self, weight: float = 0.1) -> None:
        self._weight = weight
        self._log: float | None = None
        self.factor = 1.0

    def observe(self, predicted_s: float, actual_s: float) -> None:
        """A request of `predicted_s` took `actual_s`, both by the unscaled model."""
        if predicted_s <= 0 or actual_s <= 0:
            return
        new = max(-12.0, min(12.0, math.log(actual_s / predicted_s)))
        self._log = new if self._log is None else self._log + self._weight * (new - self._log)
        self.factor = math.exp(self._log)
