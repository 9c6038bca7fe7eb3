"""The forwarding path: one request to one worker, and its answer back, unchanged.

This is the one seam behind which bytes move. Everything else of the gateway sees a `Reply`. So
here, for all paths, a client's session is kept apart from the names that engines tell requests by.
"""

from __future__ import annotations

from collections.abc import Awaitable

from router.gateway.fleet.address import RANK
from router.gateway.fleet.reports import complaint
from router.gateway.fleet.worker import Worker
from router.gateway.forwarding.remembered import Remembered, remembered
from router.http.client import ConnectTimeout, NotConnected, is_own_lack
from router.http.connections import Connections
from router.http.errors import (
    Cramped,
    Headers,
    WorkerRefused,
    WorkerUnconnected,
    WorkerUnreachable,
)
from router.http.request_headers import AUTHORIZATION, KEY_HEADERS
from router.http.secret import SECRET
from router.http.worker_connection import Connection, Reader
from router.http.worker_reply import Reply
from router.settings.gateway import GatewayTuning
from router.wire import REQUEST_ID, TOLD

_SET_ANEW = TOLD | {REQUEST_ID}
_NOT_SENT = _SET_ANEW | {b"accept-encoding", b"content-type", SECRET}
_AUTHORIZATION = f"{AUTHORIZATION.decode()}: "
# A client's own rank is of no server that has been chosen for it.
_NOT_TO_RANKS = _NOT_SENT | {RANK}
_AT_FAULT = (400, 422)  # with what a server says that a rank is none
# What of an answer is read is read as it is.
_NOT_RELAYED = _SET_ANEW | {b"accept-encoding", SECRET}


class Forwarder:
    """Sends requests to workers over kept connections; `gateway` is who agents take it for."""

    def __init__(self, tuning: GatewayTuning, connections: Connections) -> None:
        self._client = connections.client
        self.gateway = connections.gateway
        self._connections = connections
        self._connect_s, self._silence_s = tuning.connect_timeout_s, tuning.silence_timeout_s

    def send(
        self,
        url: str,
        headers: Headers,
        extra: str,
        body: bytes,
        *,
        worker: Worker,
        fresh: bool = False,
    ) -> Awaitable[Reply]:
        """POST `body` with the client's `headers` and lines of `extra`, until the answer begins.

        A `worker` that has a key gets that in the place of the client's. `fresh`: over a new
        connection.

        Raises:
            WorkerRefused: if nobody listens there.
            Cramped: if this process has no room for a connection.
            WorkerUnconnected: if no connection comes about in time.
            WorkerUnreachable: if none begins.
            WorkerFailed: if it begins with a head that is too large: the work is done.
        """
        headers = remembered(headers)
        if worker.rank is not None and not worker.address.refuses:
            return self._send_to_rank(url, headers, extra, body, worker)
        return self._send("POST", url, headers, _NOT_SENT, extra, body, worker, fresh=fresh)

    def send_at_once(
        self,
        url: str,
        headers: Headers,
        extra: str,
        body: bytes,
        *,
        worker: Worker,
        reader: Reader,
    ) -> Connection | None:
        """As `send`, if a connection is idle: the reader is told what becomes of it."""
        if worker.rank is not None and not worker.address.refuses:
            return None
        head = self._head(remembered(headers), _NOT_SENT, extra, worker)
        return self._client.post_at_once(url, head, body, silence_s=self._silence_s, reader=reader)

    async def _send_to_rank(
        self,
        url: str,
        headers: Remembered,
        extra: str,
        body: bytes,
        worker: Worker,
    ) -> Reply:
        """As `send`; if the server finds fault with it, once more without a rank.

        If it is well then, it was the rank that was at fault, and not the client.
        """
        lines, left_out = extra + worker.rank_line, _NOT_TO_RANKS
        reply = await self._send("POST", url, headers, left_out, lines, body, worker)
        if reply.status not in _AT_FAULT:
            return reply
        reply.close()
        reply = await self._send("POST", url, headers, left_out, extra, body, worker)
        if reply.status < 300:
            worker.address.refuse_ranks()
        return reply

    async def relay(
        self, method: str, url: str, headers: Headers, name: str, body: bytes, worker: Worker
    ) -> Reply:
        """Send what is not planned, called `name`, as it is, for an answer that is not compressed.

        Raises:
            WorkerUnreachable, WorkerFailed: as `send`.
        """
        extra = f"{REQUEST_ID.decode()}: {name}\r\n"
        return await self._send(method, url, remembered(headers), _NOT_RELAYED, extra, body, worker)

    def has_key(self, worker: Worker) -> bool:
        """Whether the worker gets a key of its own, and not the client's."""
        return bool(self._connections.to_worker(worker.url))

    async def _send(
        self,
        method: str,
        url: str,
        headers: Remembered,
        left_out: frozenset[bytes],
        extra: str,
        body: bytes,
        worker: Worker,
        *,
        fresh: bool = False,
    ) -> Reply:
        try:
            return await self._client.post(
                url,
                self._head(headers, left_out, extra, worker),
                body,
                connect_s=self._connect_s,
                silence_s=self._silence_s,
                method=method.encode(),
                fresh=fresh,
            )
        except OSError as error:  # a timeout is one
            raise self.failure(worker, error) from error

    def failure(self, worker: Worker, error: OSError) -> WorkerUnreachable:
        """What it means that no answer has begun."""
        if isinstance(error, NotConnected):
            kind = Cramped if is_own_lack(error) else WorkerRefused
            return kind.of(worker.name, complaint(error))
        if isinstance(error, ConnectTimeout):
            return WorkerUnconnected.of(worker.name, complaint(error, self._connect_s))
        return WorkerUnreachable.of(worker.name, complaint(error, self._silence_s))

    def _head(
        self, headers: Remembered, left_out: frozenset[bytes], extra: str, worker: Worker
    ) -> bytes:
        """Lines of the client's headers, but for those that are left out, and of our own.

        Those are a worker's key if it has one, and, for an agent, the fleet's secret.
        """
        own = self._connections.lines(worker.url, agent=worker.state is not None)
        if own:
            extra += own
            if _AUTHORIZATION in own:
                left_out = left_out | KEY_HEADERS
        return headers.lines(left_out) + extra.encode("latin-1")
