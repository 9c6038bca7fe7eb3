"""SIGINT and SIGTERM as an event."""

from __future__ import annotations

import asyncio
import signal


def stop_event() -> asyncio.Event:
    """Set at the first SIGINT or SIGTERM; to be called inside the running loop."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, event.set)
    return event
