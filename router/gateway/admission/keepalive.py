"""Comments for streams that wait for their first token: proxies on the way close what is silent.

They come only while nothing of a worker's has: from then on an event may be half there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from router.gateway.forwarding.exchange import Exchange


class Comments:
    """Those of one stream, each `every_s` seconds until its answer begins."""

    def __init__(self, exchange: Exchange, every_s: float) -> None:
        self._exchange, self._every_s = exchange, every_s
        self._loop = asyncio.get_running_loop()
        self._waiting = set[asyncio.Future[Any]]()
        self._alarm = self._loop.call_later(every_s, self._tell)

    def _tell(self) -> None:
        if self._exchange.first_byte is not None:
            return
        left = self._exchange.keep_alive()
        if left is not None:
            task = asyncio.ensure_future(_sent(left))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        self._alarm = self._loop.call_later(self._every_s, self._tell)

    def end(self) -> None:
        """No more."""
        self._alarm.cancel()


async def _sent(left: Any) -> None:  # noqa: ANN401 - an awaitable
    """Whether the client is still there shows elsewhere."""
    with suppress(OSError):
        await left
