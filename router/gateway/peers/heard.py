"""What one other has told of its sends, booked as if this process had sent them.

Rules:
- a prompt is foreseen at its worker like this process's own (`router.gateway.fleet.prefixes`),
  until it has left, or whoever has told of it is gone, or `LONGEST_S` are over;
- what is told of workers that nobody here knows is kept: they may come up in a moment;
- of each other so many prompts and workers are kept; the oldest prompts go, and of more workers
  nothing is known;
- whatever is told can mislead plans, and no more: it is bounded, and goes with whoever has told it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from router.gateway.fleet.worker import Worker
from router.gateway.peers.lines import (
    Anew,
    Begun,
    Gateway,
    Held,
    Left,
    Line,
    Sent,
    Waiting,
    read_blocks,
)
from solver.routing.marks import Beginnings
from solver.routing.sums import NOTHING, Backlog, LoadSums

LONGEST_S = 600.0
MOST_PROMPTS, MOST_PLACES = 8192, 4096


@dataclass(eq=False, slots=True)
class Foreign:
    """A prompt that another has sent: as far as caches go, a request like any."""

    prompt_tokens: int
    sequences: int
    block_tokens: float
    marks: bytes
    blocks: tuple[int, ...]
    came_s: float
    session: str = field(default="", init=False)
    attempt: str = field(default="", init=False)

    @property
    def beginnings(self) -> Beginnings:
        """As engines tell of it."""
        return Beginnings(self.marks, self.block_tokens / self.sequences)


class Books(Protocol):
    """Where prompts are booked."""

    def find(self, place: str) -> Worker | None:
        """The worker that is called so here."""
        ...

    def sent(self, prompt: Foreign, worker: Worker) -> None:
        """It is on its way there."""
        ...

    def begun(self, prompt: Foreign) -> None:
        """Its first token has come."""
        ...

    def left(self, prompt: Foreign, made: int) -> None:
        """It has left; see `Left`."""
        ...


class Heard:
    """See the module.

    Attributes:
        held: what it has at workers, by their places.
        waiting: what waits in it for room.
        lines, lost: those that were heard, and that it says were lost.
    """

    def __init__(self, books: Books, changed: Callable[[str], None]) -> None:
        """`changed` is called with each place where it has something else than before."""
        self._books, self._changed = books, changed
        self.held = dict[str, LoadSums]()
        self.waiting = Backlog()
        self.lines = self.lost = 0
        self._prompts = dict[int, Foreign]()

    def take(self, line: Line | None, now: float) -> None:
        """It has told this; None: what is not known here."""
        self.lines += 1
        if isinstance(line, Sent):
            self._sent(line, now)
        elif isinstance(line, Begun):
            if (prompt := self._prompts.get(line.number)) is not None:
                self._books.begun(prompt)
        elif isinstance(line, Left):
            self._left(line.number, line.made)
        elif isinstance(line, Held):
            self._hold(line.place, line.sums)
        elif isinstance(line, Waiting):
            self.waiting = line.backlog
        elif isinstance(line, Anew):
            self.lost += line.lost
            self.forget()
        else:
            assert line is None or isinstance(line, Gateway)

    def forget(self) -> None:
        """It has nothing anywhere, as far as is known."""
        self.waiting = Backlog()
        for number in list(self._prompts):
            self._left(number)
        for place in list(self.held):
            self._hold(place, NOTHING)

    def _sent(self, line: Sent, now: float) -> None:
        self._left(line.number)
        while self._prompts:
            oldest = next(iter(self._prompts))
            if len(self._prompts) < MOST_PROMPTS and now - self._prompts[oldest].came_s < LONGEST_S:
                break
            self._left(oldest)
        worker = self._books.find(line.place)
        if worker is None:
            return
        prompt = self._prompts[line.number] = Foreign(
            line.prompt_tokens,
            line.sequences,
            line.block_tokens,
            line.marks,
            read_blocks(line.blocks),
            now,
        )
        self._books.sent(prompt, worker)

    def _left(self, number: int, made: int = 0) -> None:
        prompt = self._prompts.pop(number, None)
        if prompt is not None:
            self._books.left(prompt, made)

    def _hold(self, place: str, sums: LoadSums) -> None:
        if sums == NOTHING:
            self.held.pop(place, None)
        elif place in self.held or len(self.held) < MOST_PLACES:
            self.held[place] = sums
        self._changed(place)
