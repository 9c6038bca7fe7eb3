"""Requests at a worker that has fallen silent are taken from it, rather than kept waiting.

Rules:
- an agent promises to tell its state twice a second, so a silence is a sign; a request is given up
  if its agent has told nothing for so long, and then for `STALL_TIMEOUT_S` nothing came for the
  request either. If the agent comes back in time, nothing happens;
- any worker is to send something within the patience of a request that waits for its first byte, to
  it or to another one; a worker that works off a queue does. Who has waited for longer is overdue,
  and leaves if another worker can serve it;
- what its client has had some bytes of stays: only the gateway's `silence_timeout_s` ends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf

# Beyond the silence after which an agent is suspect: long enough for a busy machine to go on, and
# for the state stream to be opened again after a mere loss of that connection.
STALL_TIMEOUT_S = 5.0


class WorkerStalled(Exception):
    """A request was given up, as its worker sends nothing."""


@dataclass(eq=False, slots=True)
class Watched:
    """A request at a worker.

    Attributes:
        least_s, patience: seconds of the worker's silence that it waits for its first byte at
            least, and in fact: what only those want to know who have waited for that long.
        may_leave: whether another worker can serve it.
        trial: it shows whether the worker is well again.
        told: it has counted as overdue.
    """

    limit: asyncio.Timeout
    least_s: float
    patience: Callable[[], float]
    may_leave: Callable[[], bool]
    trial: bool = False
    sent_s: float = field(default_factory=time.monotonic)
    begun: bool = False
    told: bool = False

    def give_up(self) -> None:
        """It is taken from its worker."""
        if not self.limit.expired():
            self.limit.reschedule(asyncio.get_running_loop().time())


class StallGuard:
    """Watches the requests at one worker; armed while its agent is silent, it times them out.

    Attributes:
        heard_s: when the worker sent its last byte for any request, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.heard_s = -inf
        self._watched: set[Watched] = set()
        self._armed = False

    def arm(self) -> None:
        """The agent is silent: each request has `STALL_TIMEOUT_S` from now, or its last byte."""
        if not self._armed:
            self._armed = True
            self._set_all()

    def disarm(self) -> None:
        """It is back."""
        if self._armed:
            self._armed = False
            self._set_all()

    def overdue(self, now: float) -> Iterator[tuple[Watched, float]]:
        """Those that wait for their first byte beyond their patience, and for how long."""
        for one in tuple(self._watched):
            silent_s = now - max(one.sent_s, self.heard_s)
            if not one.begun and silent_s > one.least_s and silent_s > one.patience():
                yield one, silent_s

    def stalled_s(self, now: float) -> float:
        """For how long nothing has come, though some answer has begun and not ended."""
        return now - self.heard_s if any(one.begun for one in self._watched) else 0.0

    @asynccontextmanager
    async def watch(
        self,
        least_s: float = inf,
        patience: Callable[[], float] = lambda: inf,
        may_leave: Callable[[], bool] = lambda: False,
        *,
        trial: bool = False,
    ) -> AsyncIterator[Callable[[], None]]:
        """For as long as one request is at the worker; to be called at each of its bytes.

        Raises:
            WorkerStalled: in place of what is inside, if the request is given up.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                one = Watched(limit, least_s, patience, may_leave, trial)
                self._watched.add(one)
                self._set(limit)

                def heard() -> None:
                    one.begun, self.heard_s = True, time.monotonic()
                    if self._armed:
                        self._set(limit)

                try:
                    yield heard
                finally:
                    self._watched.discard(one)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise WorkerStalled from error

    def _set_all(self) -> None:
        for one in self._watched:
            self._set(one.limit)

    def _set(self, limit: asyncio.Timeout) -> None:
        if not limit.expired():
            now = asyncio.get_running_loop().time()
            limit.reschedule(now + STALL_TIMEOUT_S if self._armed else None)
