"""A client that reads nothing of what waits for it is let go, and what it asked for ends."""

from __future__ import annotations

import asyncio
import socket

import pytest

from router.http import slow_readers
from tests.router.http.test_protocol import post, server
from tests.waiting import until


async def test_who_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its answer has been made, or is held up."""
    monkeypatch.setattr(slow_readers, "STUCK_S", 0.05)
    for path in ("/much", "/endless"):
        await let_go(path)


async def let_go(path: str) -> None:
    loop = asyncio.get_running_loop()
    async with server(keep_alive_s=0) as (echo, port):
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setblocking(False)
            await loop.sock_connect(raw, ("127.0.0.1", port))
            await loop.sock_sendall(raw, post(path))
            await until(lambda: echo.seen == 1)
            await until(lambda: not echo.connections)
            await until(lambda: echo.ended == 1)
