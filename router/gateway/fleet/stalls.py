"""Requests at an agent that has fallen silent are taken from it, rather than kept waiting.

Rules:
- an agent promises to tell its state twice a second, so a silence is a sign; a worker without an
  agent promises nothing, and only the gateway's `silence_timeout_s` ends a request there;
- a request is given up if its agent has been down for `STALL_TIMEOUT_S` and sent nothing for it
  either;
- if the agent comes back in time, nothing happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# Beyond the silence after which an agent counts as down: long enough for a busy machine to go on,
# and for the state stream to be opened again after a mere loss of that connection.
STALL_TIMEOUT_S = 5.0


class WorkerStalled(Exception):
    """A request was given up, as its worker is down and sends nothing."""


class StallGuard:
    """Watches the requests at one worker: armed while its agent is down, it times them out."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self._armed = False

    def arm(self) -> None:
        """The agent is down: each request has `STALL_TIMEOUT_S` from now, or from its last byte."""
        if not self._armed:
            self._armed = True
            self._set_all()

    def disarm(self) -> None:
        """It is back."""
        if self._armed:
            self._armed = False
            self._set_all()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Callable[[], None]]:
        """For as long as one request is at the worker; to be called at each of its bytes.

        Raises:
            WorkerStalled: in place of what is inside, if the request is given up.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                self._set(limit)
                yield lambda: self._set(limit) if self._armed else None
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise WorkerStalled from error
        finally:
            self._limits.discard(limit)

    def _set_all(self) -> None:
        for limit in self._limits:
            self._set(limit)

    def _set(self, limit: asyncio.Timeout) -> None:
        if not limit.expired():
            now = asyncio.get_running_loop().time()
            limit.reschedule(now + STALL_TIMEOUT_S if self._armed else None)
