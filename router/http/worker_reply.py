"""An answer that has begun, from its connection to whoever reads it.

What arrives in one read is passed on in one piece, without a task being woken: only the end and a
reader that cannot keep up wake whoever waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from router.http.asgi import Responder
from router.http.errors import Headers, WorkerFailed
from router.http.reply import ReplyHead

# Of an answer that nobody has begun to read, more than this is not taken from the network.
MOST_UNREAD_BYTES = 262_144


class Source(Protocol):
    """Where it comes from."""

    def resume(self) -> None:
        """More of it may come."""
        ...

    def abort(self) -> None:
        """Nobody wants it any more."""
        ...


class Reply(ReplyHead):
    """An answer that has begun. Close it, or relay it to its end."""

    def __init__(self, connection: Source, status: int, headers: Headers) -> None:
        super().__init__(status, headers)
        self._connection: Source | None = connection
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._feed: Callable[[bytes], None] | None = None
        self._out: Responder | None = None
        self._wake: asyncio.Future[None] | None = None
        self._ended = False
        self._failure: Exception | None = None

    async def relay(self, feed: Callable[[bytes], None], out: Responder) -> None:
        """Give `feed` the body as it arrives, as fast as `out` takes what comes of it.

        Raises:
            WorkerFailed: if it ends before its end.
        """
        self._feed, self._out = feed, out
        try:
            await self._pass_on(feed, out)
        finally:
            self._feed = self._out = None  # who feeds knows the reply: a circle is garbage
        if isinstance(self._failure, OSError):
            raise WorkerFailed("The worker broke off its answer.") from self._failure
        if self._failure is not None:
            raise self._failure

    async def _pass_on(self, feed: Callable[[bytes], None], out: Responder) -> None:
        if self._unread:
            unread, self._unread = b"".join(self._unread), []
            feed(unread)
        while not self._ended:
            if out.paused:
                await out.drain()
                continue  # its end may have come meanwhile
            if self._connection is not None:
                self._connection.resume()
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake

    def take(self, data: bytes) -> bool:
        """More of the body has come; whether more may come now."""
        if self._feed is None or self._out is None:
            self._unread.append(data)
            self._unread_bytes += len(data)
            return self._unread_bytes < MOST_UNREAD_BYTES
        try:
            self._feed(data)
        except Exception as error:  # a defect of the reader's is the reader's
            self.end(error)
            self.close()
            return True
        if self._out.paused:
            self._rouse()
            return False
        return True

    def end(self, failure: Exception | None = None) -> None:
        """That was all, or all that there will be."""
        if not self._ended:
            self._ended, self._failure = True, failure
            if failure is None:
                self._connection = None
            self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def close(self) -> None:
        """Let go of it; if it has not ended, the worker sees its client leave."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
