"""Prompts and plausible words for an engine that has no model.

The emulated tokenizer makes one token of every 3.5 bytes of text, which is what LLaMA's makes of
English on average; its output tokens are words of a fixed list.
"""

from __future__ import annotations

import hashlib
import random
from math import ceil

from solver.cost.estimators import BYTES_PER_TOKEN

WORDS = """
the a an of to in and is that for it as with on by this be are from at one two three first then so
we can add each total number find answer because which there have gives more than time half many
left over per day take away now let us see how much cost value into twice product sum equal result
step next part whole divide multiply minus plus therefore since
""".split()  # noqa: SIM905 - eighty quoted words would be no easier to read


LONGEST_WORD = 1 + max(len(word) for word in WORDS)  # with the space before it


def count_tokens(text: str) -> int:
    """Prompt tokens of `text`, at least 1."""
    return max(1, ceil(len(text.encode()) / BYTES_PER_TOKEN))


def digest(text: str) -> str:
    """The key of a prompt in a file of output lengths: SHA-256 of its UTF-8 text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Words:
    """An endless, seeded stream of words; one word is one token."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._space = rng, ""

    def next(self) -> str:
        """The next token's text, with the space that parts it from the one before."""
        space, self._space = self._space, " "
        return space + self._rng.choice(WORDS)
