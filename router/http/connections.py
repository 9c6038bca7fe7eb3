"""Connections to workers and engines, and the answers that come over them.

Two clients keep them: gateways forward requests by `router.http.client`, which does that and no
more; whatever else is asked, and what sidecars ask of engines, goes by aiohttp.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import aiohttp

from router.http.client import Client
from router.http.errors import WorkerFailed
from router.http.reply import ReplyHead

log = logging.getLogger(__name__)

# Shorter than agents and common servers keep idle connections: who closes second meets a reset.
KEEP_ALIVE_S = 30.0


class Connections:
    """Pooled connections to all workers: as many as there are requests, kept open for reuse.

    `client` is for what is forwarded.
    """

    def __init__(self, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._keep_alive_s = keep_alive_s
        self._session: aiohttp.ClientSession | None = None
        self.client = Client(keep_alive_s)

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client, while open."""
        assert self._session is not None, "used before open() or after close()"
        return self._session

    def open(self) -> None:
        """To be called inside the event loop that will use it."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keep_alive_s),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close them all."""
        self.client.close()
        if self._session is not None:
            await self._session.close()


class Reply(ReplyHead):
    """A worker's answer that has begun. Close it, or read it to its end."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        pairs = [(name.lower(), value) for name, value in response.raw_headers]
        super().__init__(response.status, pairs)
        self._response = response

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            WorkerFailed: if it ends before its end.
        """
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("answer broke off", extra={"why": repr(error)})
            raise WorkerFailed("The worker broke off its answer.") from error

    def close(self) -> None:
        """Let go of it; if it has not ended, the worker sees its client leave."""
        self._response.close()
