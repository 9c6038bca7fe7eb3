"""Connections to workers and engines, and the answers that come over them.

Gateways forward to workers and sidecars to engines: both see a `Reply`, which is a status, headers,
and chunks as they come.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import aiohttp

from router.http.errors import Headers, WorkerFailed, retry_after

log = logging.getLogger(__name__)

# Meant for one connection only (RFC 9110 section 7.6.1), or set anew for the next one.
HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect",
    )
)  # fmt: skip
_NOT_RETURNED = HOP_BY_HOP - {b"content-length"} | {b"server", b"date"}

# Shorter than agents and common servers keep idle connections: who closes second meets a reset.
KEEP_ALIVE_S = 30.0


class Connections:
    """Pooled connections to all workers: as many as there are requests, kept open for reuse."""

    def __init__(self, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._keep_alive_s = keep_alive_s
        self._session: aiohttp.ClientSession | None = None

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
        if self._session is not None:
            await self._session.close()


class Reply:
    """A worker's answer that has begun. Close it, or read it to its end."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Headers = [
            (name.lower(), value)
            for name, value in response.raw_headers
            if name.lower() not in _NOT_RETURNED
        ]
        if self.is_stream:  # it may get an error event more
            self.headers = [pair for pair in self.headers if pair[0] != b"content-length"]

    @property
    def is_stream(self) -> bool:
        """Whether server-sent events are coming."""
        return self._response.content_type == "text/event-stream"

    def has(self, header: bytes) -> bool:
        """Whether it carries a header of that name."""
        return any(name == header for name, _ in self.headers)

    def retry_after(self, seconds: float) -> None:
        """Tell when to come back, unless the worker did."""
        if not self.has(b"retry-after"):
            self.headers.append(retry_after(seconds))

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
