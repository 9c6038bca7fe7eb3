"""An answer that has begun, from its connection to whoever reads it.

What arrives in one read is passed on in one piece, without a task being woken: only the end and a
reader that cannot keep up wake whoever waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from router.http.asgi import Responder
from router.http.errors import WorkerFailed
from router.http.reply import HeadKind, ReplyHead

# Of an answer that nobody has begun to read, more than this is not taken from the network.
MOST_UNREAD_BYTES = 262_144


class Source(Protocol):
    """Where it comes from."""

    def resume(self) -> None:
        """More of it may come."""
        ...

    def drop(self) -> None:
        """Nobody wants it any more."""
        ...


class Reply(ReplyHead):
    """An answer that has begun. Close it, or relay it to its end.

    Attributes:
        ended: no more of it comes.
    """

    ended = False
    _unread: bytearray | None = None
    _feed: Callable[[bytes], None] | None = None
    _out: Responder | None = None
    _changed: Callable[[], None] | None = None
    _wake: asyncio.Future[None] | None = None
    _failure: Exception | None = None

    def __init__(self, connection: Source, kind: HeadKind, length: bytes | None = None) -> None:
        super().__init__(kind, length)
        self._connection: Source | None = connection

    async def relay(self, feed: Callable[[bytes], None], out: Responder) -> None:
        """Give `feed` the body as it arrives, as fast as `out` takes what comes of it.

        Raises:
            WorkerFailed: if it ends before its end.
        """
        try:
            self.attach(feed, out, self._rouse)
            while not self.ended:
                if out.paused:
                    await out.drain()
                    continue  # its end may have come meanwhile
                self.resume()
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
        finally:
            self.detach()
        self.check()

    def attach(
        self, feed: Callable[[bytes], None], out: Responder, changed: Callable[[], None]
    ) -> None:
        """Give `feed` the body as it arrives, what has come of it at once, until `detach`.

        `changed` is called when it has ended, and when `out` does not keep up: then no more comes,
        until `resume`.
        """
        self._feed, self._out, self._changed = feed, out, changed
        if self._unread:
            unread, self._unread = bytes(self._unread), None
            feed(unread)

    def detach(self) -> None:
        """Nobody reads it any more; who did knows the reply: a circle is garbage."""
        self._feed = self._out = self._changed = None

    def resume(self) -> None:
        """More of it may come."""
        if self._connection is not None:
            self._connection.resume()

    def check(self) -> None:
        """Whether it has ended well.

        Raises:
            WorkerFailed: if it has ended before its end.
        """
        if isinstance(self._failure, OSError):
            raise WorkerFailed("The worker broke off its answer.") from self._failure
        if self._failure is not None:
            raise self._failure

    def take(self, data: bytes) -> bool:
        """More of the body has come; whether more may come now."""
        if self._feed is None or self._out is None:
            if self._unread is None:
                self._unread = bytearray()
            self._unread += data
            return len(self._unread) < MOST_UNREAD_BYTES
        try:
            self._feed(data)
        except Exception as error:  # a defect of the reader's is the reader's
            self.end(error)
            self.close()
            return True
        if self._out.paused:
            self._tell()
            return False
        return True

    def end(self, failure: Exception | None = None) -> None:
        """That was all, or all that there will be."""
        if not self.ended:
            self.ended, self._failure = True, failure
            if failure is None:
                self._connection = None
            self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def close(self) -> None:
        """Let go of it; if it has not ended, the worker sees its client leave."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
