"""The forwarding path: one request to one worker, and its answer back, unchanged.

This is the one seam behind which bytes move. Everything else of the gateway sees a `Reply`: a
status, headers, and chunks as they come.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable

import aiohttp
from yarl import URL

from router.errors import Headers, WorkerBroke, WorkerUnreachable, retry_after
from router.settings import GatewayTuning
from router.wire import ATTEMPT, DEADLINE_MS, EXPECTED_TOKENS, PRIORITY, REQUEST_ID, WAITED_MS

log = logging.getLogger(__name__)

# Meant for one connection only (RFC 9110 section 7.6.1), or set anew for the next one.
_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect",
    )
)  # fmt: skip
_SET_ANEW = {REQUEST_ID, EXPECTED_TOKENS, ATTEMPT, WAITED_MS, PRIORITY, DEADLINE_MS}
_NOT_SENT = _HOP | _SET_ANEW | {b"accept-encoding", b"content-type"}
_NOT_RETURNED = _HOP - {b"content-length"} | {b"server", b"date"}


# Shorter than agents and common servers keep idle connections: who closes second meets a reset.
KEEP_ALIVE_S = 30.0


class Connections:
    """Pooled connections to all workers: as many as there are requests, kept open for reuse."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client, while open."""
        assert self._session is not None, "used before open() or after close()"
        return self._session

    def open(self) -> None:
        """To be called inside the event loop that will use it."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
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
            WorkerBroke: if it ends before its end.
        """
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("answer broke off", extra={"why": repr(error)})
            raise WorkerBroke("The worker broke off its answer.") from error

    def close(self) -> None:
        """Let go of it; if it has not ended, the worker sees its client leave."""
        self._response.close()


class Forwarder:
    """Sends requests to workers over pooled connections."""

    def __init__(self, tuning: GatewayTuning, connections: Connections) -> None:
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            sock_connect=tuning.connect_timeout_s, sock_read=tuning.silence_timeout_s
        )

    async def send(
        self,
        url: str,
        headers: Iterable[tuple[bytes, bytes]],
        extra: dict[str, str],
        body: bytes,
    ) -> Reply:
        """POST `body` with the client's `headers`, `extra` set; returns once the answer begins.

        Raises:
            WorkerUnreachable: if none begins.
        """
        sent = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in headers
            if name not in _NOT_SENT
        ]
        sent += extra.items()
        try:
            response = await self._connections.session.post(
                URL(url, encoded=True),
                data=body,
                headers=sent,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("worker not reached", extra={"url": url, "why": repr(error)})
            raise WorkerUnreachable("The worker could not be reached.") from error
        return Reply(response)
