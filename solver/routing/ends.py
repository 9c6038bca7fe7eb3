"""In which order prompts have left an engine: what it lets go of first, it needs room of first.

Several routers hear of ends each in its own order, and what others tell comes later than what is
answered here. But an engine makes a token of each answer at a time (one that guesses several, or
takes memory from who runs, may let go in another order: then it is foreseen a little wrong).

Rules:
- who was taken in before another, and made no more tokens, has ended before it: of one iteration
  the engine lets go in the order in which it took them in;
- where that says nothing the order is that in which ends are heard; who is told of after its end is
  the last, as all others were taken in before it.

Must not know: what they leave there.
"""

from __future__ import annotations

from solver.routing.foreseen import Coming

# The latest that are remembered: an engine's batch, or more, may end within what a line takes.
MOST_ENDED = 256


class Ends:
    """Of one engine; see the module."""

    def __init__(self) -> None:
        self._ended: list[Coming] = []

    def ended(self, coming: Coming) -> list[Coming]:
        """One more has: it, and those that have ended behind it, in order."""
        places = (k for k, one in enumerate(self._ended) if _is_before(coming, one))
        at = next(places, len(self._ended))
        self._ended.insert(at, coming)
        behind = self._ended[at:]
        del self._ended[:-MOST_ENDED]
        return behind

    def told(self, coming: Coming) -> None:
        """The engine has told of it only now."""
        if coming in self._ended:
            self._ended.remove(coming)
            self._ended.append(coming)

    def clear(self) -> None:
        """It is as if none had."""
        self._ended.clear()


def _is_before(one: Coming, other: Coming) -> bool:
    return 0 < one.told < other.told and 0 < one.made <= other.made
