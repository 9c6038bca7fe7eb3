"""Connections to workers and engines, and the answers that come over them.

Gateways forward to workers and sidecars to engines: both see a `Reply`, which is a status, headers,
and chunks as they come.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

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

# Shorter than common servers keep idle connections (uvicorn and vLLM: 5 s): who closes second meets
# a reset.
KEEP_ALIVE_S = 4.0

# Whether the connection of this task's latest request had been used before.
_reused: ContextVar[bool] = ContextVar("reused", default=False)


class _Connector(aiohttp.TCPConnector):
    """Tells connections that have been used before."""

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        protocol: Any = connection.protocol
        _reused.set(getattr(protocol, "makespan_used", False))
        protocol.makespan_used = True
        return connection


class Connections:
    """Pooled connections to all workers: as many as there are requests, kept open for reuse."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client, while open."""
        assert self._session is not None, "used before open() or after close()"
        return self._session

    def open(self) -> None:
        """To be called inside the event loop that will use it."""
        self._session = _session(_Connector(limit=0, keepalive_timeout=KEEP_ALIVE_S))
        self._fresh = _session(aiohttp.TCPConnector(limit=0, force_close=True))

    async def close(self) -> None:
        """Close them all."""
        for session in (self._session, self._fresh):
            if session is not None:
                await session.close()

    async def request(
        self,
        method: str,
        url: URL,
        *,
        data: bytes | None,
        headers: list[tuple[str, str]],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
        skip_auto_headers: tuple[str, ...] = (),
    ) -> aiohttp.ClientResponse:
        """Send a request; returns once its answer begins.

        Where an idle connection turns out to have been closed by the server meanwhile, which says
        nothing of the server, the request is sent once more over a fresh one.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: if no answer begins.
        """
        assert self._fresh is not None, "used before open()"
        options: dict[str, Any] = {
            "data": data,
            "headers": headers,
            "timeout": timeout,
            "skip_auto_headers": skip_auto_headers,
            "allow_redirects": False,
        }
        _reused.set(False)
        try:
            return await self.session.request(method, url, **options)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not _reused.get():
                raise
        return await self._fresh.request(method, url, **options)


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


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

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name (lower case)."""
        return next((value for key, value in self.headers if key == name), None)

    def has(self, header: bytes) -> bool:
        """Whether it carries a header of that name."""
        return self.header(header) is not None

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
