"""From tokens to text, one at a time: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# From a token's id to the text that it completes; None: nothing yet.
Step = Callable[[int], str | None]
# The text of all tokens of an answer.
Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """The text of one answer as it grows.

    Text that may be the beginning of a stop string is held back until it is clear that it is none.
    With `include_stop` the string that ends the answer is part of it.
    """

    def __init__(
        self, step: Step, decode: Decode, stop: Sequence[str], *, include_stop: bool = False
    ) -> None:
        self._step, self._decode, self._stop = step, decode, tuple(stop)
        self._include_stop = include_stop
        self._tokens: list[int] = []
        self._text = self._held = ""

    def add(self, token: int) -> tuple[str, bool]:
        """The text that another token lets go, and whether a stop string ended the answer."""
        new = self._step(token) or ""
        self._tokens.append(token)
        self._text += new
        self._held += new
        found = [(self._held.find(text), text) for text in self._stop if text in self._held]
        if found:
            at, text = min(found)
            end = at + len(text) if self._include_stop else at
            said, self._held = self._held[:end], ""
            return said, True
        keep = max((_overlap(self._held, text) for text in self._stop), default=0)
        said = self._held[: len(self._held) - keep]
        self._held = self._held[len(said) :]
        return said, False

    def rest(self) -> str:
        """What was held back, once the answer is over; half a character counts, too."""
        whole = self._decode(self._tokens)
        cut = whole[len(self._text) :] if whole.startswith(self._text) else ""
        return self._held + cut


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
