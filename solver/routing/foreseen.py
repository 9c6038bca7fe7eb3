"""Prompts on their way to an engine that tells of its cache: what they bring there, and need.

An engine tells of a prompt only once it has prefilled it. Until then its router, which has sent it,
foresees that those behind it will find it, and that it will push out what was used least lately.

Rules:
- a prompt needs room from when it is sent until its engine first tells of it: then that has taken
  the room, and has told of what had to go (of one that is prefilled in pieces, for the first);
- it is there for others until it has been told of, and its first token has come: either may be
  first, as an engine's events may be late;
- all together have no more room than the engine: of those that have begun the oldest were pushed
  out by the others, and are found no more, though nothing has been told;
- who leaves before its first token brings nothing; who was told of nothing, though its first token
  came before a prompt was sent that was told of, never will be, and nor will the oldest of many;
- where an engine does not tell of what a prompt finds, a first token counts as told.

Must not know: workers, clocks, and who else sends there.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from solver.routing.marks import NAME_BYTES, common_marks

# Who has answered so many more prompts since will not tell of one: it may tell of it by another
# name.
MOST_UNTOLD = 64


class Coming:
    """One prompt on its way: its marks, its tokens if they are found, and how many need room.

    `sure`: its engine will tell of it. `sent`, `begun` and `told` say when, in turns; 0: it was not
    told of. `made`: tokens of its answer, once all of it is there; 0: nobody says. `over`: it is
    foreseen no more.
    """

    __slots__ = ("begun", "made", "marks", "need", "over", "sent", "sure", "tokens", "told")

    def __init__(self, marks: bytes, tokens: int, need: int, sent: int, *, sure: bool) -> None:
        self.marks, self.tokens, self.need, self.sent, self.sure = marks, tokens, need, sent, sure
        self.begun: int | None = None
        self.told = self.made = 0
        self.over = False


class Foreseen:
    """Of one engine; see the module.

    Attributes:
        tokens: of all that are found there.
        need: those for which room is needed, of all.
    """

    def __init__(self) -> None:
        self._turn = self.tokens = self.need = 0
        self._by_marks: dict[bytes, list[Coming]] = {}
        self._marks: list[bytes] = []  # of all, in order
        self._untold: dict[Coming, None] = {}  # that have begun, in that order

    def __len__(self) -> int:
        return sum(map(len, self._by_marks.values()))

    def sent(self, marks: bytes, tokens: int, need: int, *, sure: bool) -> Coming:
        """A prompt of so many tokens goes there, and needs room for those that are not there.

        `sure`: the engine will tell of it, be it that all of it is there.
        """
        self._turn += 1
        coming = Coming(marks, max(1, tokens), need, self._turn, sure=sure)
        self._by_marks.setdefault(marks, []).append(coming)
        insort(self._marks, marks)
        self.need += need
        self.tokens += coming.tokens
        return coming

    def fit(self, room: float) -> None:
        """They have so much room."""
        for one in self._untold if self.tokens > room else ():
            if self.tokens <= room:
                break
            self._hide(one)

    def begun(self, coming: Coming) -> None:
        """Its first token has come."""
        if coming.over or coming.begun is not None:
            return
        self._turn += 1
        coming.begun = self._turn
        if coming.told or not coming.sure:
            self._remove(coming)
        else:
            self._untold[coming] = None
            if len(self._untold) > MOST_UNTOLD:
                self._remove(next(iter(self._untold)))

    def left(self, coming: Coming) -> None:
        """It has left; perhaps it had not begun."""
        if coming.begun is None and not coming.over:
            self._remove(coming)

    def told(self, marks: bytes) -> Coming | None:
        """The engine tells of a prompt of these marks: of which, if of one of these."""
        there = self._by_marks.get(marks)
        if there is None:
            return None
        first = next((one for one in there if not one.told), None)
        if first is None:
            return there[-1]
        self._turn += 1
        first.told = self._turn
        self._take_need(first)
        if first.begun is not None:
            self._remove(first)
        for one in list(self._untold):
            assert one.begun is not None
            if one.begun > first.sent:
                break
            self._remove(one)
        return first

    def clear(self) -> None:
        """The engine has nothing, or is another."""
        for comings in list(self._by_marks.values()):
            for one in list(comings):
                self._remove(one)

    def common(self, marks: bytes) -> int:
        """How many marks, from the first on, these share with a prompt on its way, at most."""
        at, first = bisect_left(self._marks, marks), marks[:NAME_BYTES]
        beside = self._marks[max(0, at - 1) : at + 1]
        return max([common_marks(one, marks) for one in beside if one.startswith(first)], default=0)

    def _take_need(self, coming: Coming) -> None:
        self.need -= coming.need
        coming.need = 0

    def _remove(self, coming: Coming) -> None:
        self._take_need(coming)
        coming.over = True
        self._hide(coming)
        comings = self._by_marks[coming.marks]
        comings.remove(coming)
        if not comings:
            del self._by_marks[coming.marks]
        self._untold.pop(coming, None)

    def _hide(self, coming: Coming) -> None:
        """Nobody finds it there."""
        if coming.tokens:
            self.tokens -= coming.tokens
            coming.tokens = 0
            del self._marks[bisect_left(self._marks, coming.marks)]
