"""Waiting for what comes about: the one way in which tests wait, and how long at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# What is waited for comes about in moments, but not on a busy machine: this is only a guard, in
# seconds, against what never does.
PATIENCE_S = 120.0


def eventually(probe: Callable[[], bool], what: str = "it") -> None:
    """Wait until it is so.

    Raises:
        AssertionError: if it does not come about.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not probe():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)


async def until(probe: Callable[[], bool]) -> None:
    """Let the event loop turn until it is so.

    Raises:
        TimeoutError: if it does not come about.
    """
    async with asyncio.timeout(PATIENCE_S):
        while not probe():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
