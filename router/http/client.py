"""The client of the hot path: POSTs to workers over kept connections, answers passed on as bytes.

A request goes over the connection that was used last, if one is idle, and over a new one if that
was closed meanwhile. What a connection does is `router.http.worker_connection`'s.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from urllib.parse import urlsplit

from router.http.known_head import KnownAnswers
from router.http.timeouts import limited
from router.http.worker_connection import Connection, Idle, Reader
from router.http.worker_reply import Reply


class NotConnected(OSError):
    """No connection could be made: nobody listens there, or nobody knows the name."""


# What a machine says that has no room for one more connection: files, memory, ports.
_FULL = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))


def is_own_lack(error: OSError) -> bool:
    """Whether no connection was made for lack of room here, which says nothing of the worker."""
    return error.errno in _FULL


class ConnectTimeout(TimeoutError):
    """Nor was one refused, in all the time that there was."""


MOST_TARGETS = 1024  # that are remembered: as clients ask, a few at each worker
# By host and port, whose certificate is to be there, if that is not the host's.
TlsNames = dict[tuple[str, int], str]


class Awaited:
    """Reads for a task, which waits for the answer's beginning."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def answered(self, reply: Reply) -> None:
        """Part of `Reader`."""
        if not self.begun.done():
            self.begun.set_result(reply)

    def failed(self, error: Exception) -> None:
        """Part of `Reader`."""
        if not self.begun.done():
            self.begun.set_exception(error)


class _Origin:
    """Where a worker is, and connections to it that wait for a request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.secure else 80)
        self.host_line = b"host: " + parts.netloc.encode("latin-1") + b"\r\n"
        self.idle = Idle()
        self.answers = KnownAnswers()


def _request(method: bytes, target: bytes, origin: _Origin, head: bytes, body: bytes) -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n%b" % (
        method, target, origin.host_line, head, len(body), body,
    )  # fmt: skip


def _split(url: str) -> tuple[str, str]:
    """Where it leads, and what is asked for there."""
    slash = url.find("/", url.find("://") + 3)
    return url[:slash], url[slash:]


class Client:
    """Kept connections to all workers: as many as there are requests."""

    def __init__(
        self,
        keep_alive_s: float,
        tls: ssl.SSLContext | None = None,
        tls_names: TlsNames | None = None,
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self._origins: dict[str, _Origin] = {}
        self._targets: dict[str, tuple[_Origin, bytes]] = {}
        self._tls, self._tls_names = tls, {} if tls_names is None else tls_names

    async def post(
        self,
        url: str,
        head: bytes,
        body: bytes,
        *,
        connect_s: float,
        silence_s: float,
        method: bytes = b"POST",
        fresh: bool = False,
    ) -> Reply:
        """POST `body`, or what `method` says; `head` are header lines, but host and length.

        `fresh`: over a new connection.

        Raises:
            NotConnected, ConnectTimeout: if nobody is reached, or not within `connect_s`.
            OSError, TimeoutError: if no answer begins, or nothing comes for `silence_s`.
        """
        origin, target = self._at(url)
        request = _request(method, target, origin, head, body)
        kept = None if fresh else self._kept(origin)
        while True:
            connection = kept or await self._connect(origin, connect_s)
            asked = Awaited()
            connection.ask(request, silence_s, asked)
            try:
                return await asked.begun
            except asyncio.CancelledError:
                connection.leave(asked)
                raise
            except OSError:
                # Closed while it was idle, which says nothing of the worker: once more, on a new
                # one. A worker that has said anything, or taken its time, is not asked twice.
                if kept is None or not kept.closed_unheard:
                    raise
                kept = None
            finally:
                del asked  # it holds its error, whose frames hold it: a circle is garbage

    def post_at_once(
        self, url: str, head: bytes, body: bytes, *, silence_s: float, reader: Reader
    ) -> Connection | None:
        """POST over a kept connection, if one is idle; the reader is told what becomes of it."""
        origin, target = self._at(url)
        connection = self._kept(origin)
        if connection is not None:
            connection.ask(_request(b"POST", target, origin, head, body), silence_s, reader)
        return connection

    def _at(self, url: str) -> tuple[_Origin, bytes]:
        """Where it leads, and what is asked for there."""
        found = self._targets.get(url)
        if found is None:
            where, target = _split(url)
            origin = self._origins.get(where)
            if origin is None:
                origin = self._origins[where] = _Origin(where)
            if len(self._targets) >= MOST_TARGETS:
                self._targets.clear()
            found = self._targets[url] = origin, target.encode("latin-1")
        return found

    @staticmethod
    def _kept(origin: _Origin) -> Connection | None:
        while origin.idle:
            connection = origin.idle.pop()  # the one used last: others may go unused, and close
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: _Origin, limit_s: float) -> Connection:
        if origin.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        name = self._tls_names.get((origin.host, origin.port)) if origin.secure else None
        try:
            async with limited(limit_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(origin.idle, self._keep_alive_s, origin.answers),
                    origin.host,
                    origin.port,
                    ssl=self._tls if origin.secure else None,
                    server_hostname=name,
                )
        except TimeoutError as error:
            raise ConnectTimeout from error
        except OSError as error:
            raise NotConnected(error.errno, error.strerror or str(error)) from error
        return connection

    def forget(self, url: str) -> None:
        """Close those to this worker that wait, and keep nothing of it."""
        origin = self._origins.pop(_split(url + "/")[0], None)
        if origin is not None:
            origin.idle.close()
            self._targets.clear()  # the others' are soon found again

    def close(self) -> None:
        """Close those that wait; others close as their requests end."""
        self._keep_alive_s = 0.0
        for origin in self._origins.values():
            origin.idle.close()
