"""Connections to workers and engines, and the answers that come over them.

Two clients keep them: gateways forward requests by `router.http.client`, which does that and no
more; whatever else is asked, and what sidecars ask of engines, goes by aiohttp.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from router.http.client import Client, TlsNames
from router.http.errors import WorkerFailed
from router.http.reply import HeadKind, ReplyHead
from router.http.secret import SECRET
from router.settings.secrets import bearer

log = logging.getLogger(__name__)

# Shorter than common servers keep idle connections (uvicorn and vLLM: 5 s): who closes second meets
# a reset.
KEEP_ALIVE_S = 4.0
MOST_LINES = 4096  # of workers that come and go

# Whether the connection of this task's latest request had been used before.
_reused: ContextVar[bool] = ContextVar("reused", default=False)


class _Connector(aiohttp.TCPConnector):
    """Tells connections that have been used before, and whose certificates to ask for."""

    def __init__(self, tls_names: TlsNames, **options: Any) -> None:  # noqa: ANN401
        super().__init__(limit=0, **options)
        self._tls_names = tls_names

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> Connection:
        where = (req.url.host or "", req.url.port or 0)
        req.server_hostname = self._tls_names.get(where, req.server_hostname)
        connection = await super().connect(req, traces, timeout)
        protocol: Any = connection.protocol
        _reused.set(getattr(protocol, "makespan_used", False))
        protocol.makespan_used = True
        return connection


def _where(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 443


def told_of(error: Exception) -> str:
    """What went wrong, without the request: aiohttp's errors carry its headers, keys and all."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{type(error).__name__}({error.status}, {error.message!r})"
    return repr(error)


class Connections:
    """Pooled connections to all workers: as many as there are requests, kept open for reuse.

    `client` is for what is forwarded. `tls` says whose certificates are good; unless given, those
    that this machine trusts. `keys` are those that workers ask for, by their base URLs, under the
    empty one that of all others. `secret` is told to agents, see `router.http.secret`; `gateway`
    is who asks them, the same for all its processes.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        secret: bytes | None = None,
        gateway: str | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self._tls, self.secret, self._keys = tls, secret, keys or {}
        self._lines: dict[tuple[str, bool], str] = {}
        self.gateway = gateway or secrets.token_hex(6)
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._tls_names: TlsNames = {}
        self.client = Client(KEEP_ALIVE_S, tls, self._tls_names)

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client, while open."""
        assert self._session is not None, "used before open() or after close()"
        return self._session

    def use_keys(self, keys: Mapping[str, str]) -> int:
        """From now on workers are told these; how many they are."""
        self._keys = keys
        self._lines.clear()
        return len(keys)

    def to_agent(self, url: str) -> dict[str, str]:
        """Headers of what only agents are sent: of the one at `url`."""
        return self.secret_line | self.to_worker(url)

    @property
    def secret_line(self) -> dict[str, str]:
        """The header by which agents, and gateways, are told the secret; none if there is none."""
        return {} if self.secret is None else {SECRET.decode(): self.secret.decode()}

    def to_worker(self, url: str) -> dict[str, str]:
        """Headers of whatever the worker at `url` is asked: its key, if it has one."""
        return bearer(self._keys.get(url, self._keys.get("")) if self._keys else None)

    def lines(self, url: str, *, agent: bool) -> str:
        """The same as lines of a head, kept until keys change."""
        lines = self._lines.get((url, agent))
        if lines is None:
            told = self.to_agent(url) if agent else self.to_worker(url)
            lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
            if len(self._lines) >= MOST_LINES:
                self._lines.clear()
            self._lines[url, agent] = lines
        return lines

    def open(self) -> None:
        """To be called inside the event loop that will use it."""
        tls = True if self._tls is None else self._tls
        names = self._tls_names
        self._session = _session(_Connector(names, keepalive_timeout=KEEP_ALIVE_S, ssl=tls))
        self._fresh = _session(_Connector(names, force_close=True, ssl=tls))

    def expect(self, url: str, tls_name: str | None) -> None:
        """Who is at this address has a certificate of that name; None: of the URL's own."""
        where = _where(url)
        if tls_name is None:
            self._tls_names.pop(where, None)
        else:
            self._tls_names[where] = tls_name

    def forget(self, url: str) -> None:
        """Nobody will be asked there any more."""
        self._tls_names.pop(_where(url), None)
        self.client.forget(url)

    async def close(self) -> None:
        """Close them all."""
        self.client.close()
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


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The whole body, or None if it is larger."""
    text = bytearray()
    async for part in response.content.iter_chunked(1 << 16):
        text += part
        if len(text) > most:
            return None
    return bytes(text)


async def paced_lines(response: aiohttp.ClientResponse, least_s: float) -> AsyncIterator[bytes]:
    """Lines as they come, one in `least_s` seconds: who sends more does not get our time."""
    async for line in response.content:
        yield line
        await asyncio.sleep(least_s)


class Reply(ReplyHead):
    """A worker's answer that has begun. Close it, or read it to its end."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        pairs = [(name.lower(), value) for name, value in response.raw_headers]
        length = dict(reversed(pairs)).get(b"content-length")
        super().__init__(HeadKind(response.status, pairs), length)
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
            log.warning("answer broke off", extra={"why": told_of(error)})
            raise WorkerFailed("The worker broke off its answer.") from error

    def close(self) -> None:
        """Let go of it; if it has not ended, the worker sees its client leave."""
        self._response.close()
