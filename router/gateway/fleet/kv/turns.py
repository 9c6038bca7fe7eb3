"""Who may ask a publisher for what was missed, and for how long: replays take turns.

Rules:
- so many go on at once in a process, and of one worker's ranks one at a time;
- who has had its turn of `TURN_S` makes way if somebody waits, of its own worker or of another,
  and goes on from where it was when it is its turn again: nobody who is slow, or never comes to an
  end, keeps others from theirs;
- who comes first is served first.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

REPLAYS = 8  # at once in a process
TURN_S = 2.0


class Turns:
    """Of a process, or of a worker `among` all; a context while a turn lasts."""

    def __init__(self, most: int = REPLAYS, among: Turns | None = None) -> None:
        self._free, self._among, self._waiting = asyncio.Semaphore(most), among, 0

    def of_worker(self) -> Turns:
        """Those of one worker's ranks."""
        return Turns(1, self)

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for whoever has a turn now."""
        return self._waiting > 0 or (self._among is not None and self._among.waited_for)

    async def __aenter__(self) -> None:
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        if self._among is not None:
            try:
                await self._among.__aenter__()
            except BaseException:
                self._free.release()
                raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._among is not None:
            await self._among.__aexit__(kind, error, trace)
        self._free.release()
