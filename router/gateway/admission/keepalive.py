"""Comments for streams that wait for their first token: proxies on the way close what is silent.

They come only while nothing of a worker's has: from then on an event may be half there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from router.gateway.forwarding.exchange import Exchange


@contextmanager
def kept_alive(exchange: Exchange, every_s: float) -> Iterator[None]:
    """A comment each `every_s` seconds until its answer begins."""
    loop = asyncio.get_running_loop()
    waiting = set[asyncio.Future[Any]]()
    alarm: asyncio.TimerHandle | None = None

    def tell() -> None:
        nonlocal alarm
        if exchange.first_byte is not None:
            return
        left = exchange.keep_alive()
        if left is not None:
            task = asyncio.ensure_future(_sent(left))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        alarm = loop.call_later(every_s, tell)

    alarm = loop.call_later(every_s, tell)
    try:
        yield
    finally:
        alarm.cancel()


async def _sent(left: Any) -> None:  # noqa: ANN401 - an awaitable
    """Whether the client is still there shows elsewhere."""
    with suppress(OSError):
        await left
