"""Limits on the time of others, of which the time in which this process stood still is no part.

An event loop looks at the clock first, and only then at what has come while the process did not
run: an alarm that is late would tell of a silence that was none. So what is due looks once more,
`MOMENT_S` later, when all that had come has been read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MOMENT_S = 0.05


@asynccontextmanager
async def limited(limit_s: float) -> AsyncIterator[None]:
    """Of so many seconds, and the moment more.

    Raises:
        TimeoutError: when they are over.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        alarm = loop.call_later(limit_s, lambda: limit.reschedule(loop.time() + MOMENT_S))
        try:
            yield
        finally:
            alarm.cancel()
