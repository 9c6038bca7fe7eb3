"""How much of a conversation the worker that had it last has cached, as its engine counted it.

Rules:
- an answer that has ended leaves its prompt and itself in its worker's cache: so many tokens;
- the next request of the session finds them there, if its prompt begins with all blocks of the last
  one's, and if that worker is still taken to hold those: one that was down, or has had too much
  else since, does not;
- that is a saving in the plan, as any prefix's is, and no binding: a full or slow worker loses it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

from solver.arrays import FloatArray

MOST = 20_000  # sessions, the latest ones: some megabytes


class InSession(Protocol):
    """A request, as far as its session goes."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Hashes of its prompt's blocks."""
        ...

    @property
    def marks(self) -> bytes:
        """The names of its prompt's marks."""
        ...

    @property
    def session(self) -> str:
        """Its session's name, empty if it has none."""
        ...

    @property
    def attempt(self) -> str:
        """What it is called at its worker."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Of its prompt."""
        ...


class Last(NamedTuple):
    """Of a session's last request: its worker, its last block and their number, and its tokens.

    `marks` is how long its marks' names are, `attempt` what it was called there.
    """

    worker: Hashable
    block: int
    blocks: int
    marks: int
    tokens: int
    attempt: str


class Sessions:
    """See the module."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, Last] = OrderedDict()

    def answered(self, request: InSession, worker: Hashable, tokens: int) -> None:
        """It has ended; prompt and answer have so many tokens."""
        if not request.session or not request.blocks:
            return
        blocks = request.blocks
        self._last[request.session] = Last(
            worker, blocks[-1], len(blocks), len(request.marks), tokens, request.attempt
        )
        self._last.move_to_end(request.session)
        if len(self._last) > MOST:
            self._last.popitem(last=False)

    def last(self, request: InSession) -> Last | None:
        """The request that this one goes on from, if it begins with all blocks of that."""
        last = self._last.get(request.session) if request.session else None
        if last is None or len(request.blocks) < last.blocks:
            return None
        return last if request.blocks[last.blocks - 1] == last.block else None

    def add(
        self,
        request: InSession,
        workers: Sequence[Hashable],
        held: Sequence[int],
        cached: FloatArray,
    ) -> None:
        """Add it to a request's `cached` tokens (m,); `held` are its blocks at each worker."""
        last = self.last(request)
        if last is None or last.worker not in workers:
            return
        j = workers.index(last.worker)
        if held[j] >= last.blocks:  # the prompt's last token always is prefilled
            cached[j] = max(cached[j], min(last.tokens, request.prompt_tokens - 1))
