"""The forwarding path: one request to one worker, and its answer back, unchanged.

This is the one seam behind which bytes move. Everything else of the gateway sees a `Reply`.
"""

from __future__ import annotations

from router.gateway.fleet.reports import complaint
from router.http.client import ConnectTimeout, NotConnected, Reply
from router.http.connections import Connections
from router.http.errors import Headers, WorkerRefused, WorkerUnconnected, WorkerUnreachable
from router.http.reply import HOP_BY_HOP, hop_by_hop
from router.http.secret import SECRET
from router.settings.gateway import GatewayTuning
from router.wire import (
    ATTEMPT,
    DEADLINE_MS,
    EXPECTED_TOKENS,
    PRIORITY,
    REQUEST_ID,
    TPOT_MS,
    TTFT_MS,
    WAITED_MS,
)

_SET_ANEW = {
    REQUEST_ID,
    EXPECTED_TOKENS,
    ATTEMPT,
    WAITED_MS,
    PRIORITY,
    DEADLINE_MS,
    TTFT_MS,
    TPOT_MS,
}
_NOT_SENT = frozenset((*_SET_ANEW, b"accept-encoding", b"content-type", SECRET))
_LEFT_OUT = _NOT_SENT | HOP_BY_HOP
_NOT_RELAYED = frozenset((*_SET_ANEW, SECRET))


class Forwarder:
    """Sends requests to workers over kept connections; `gateway` is who agents take it for."""

    def __init__(self, tuning: GatewayTuning, connections: Connections) -> None:
        self._client = connections.client
        self.gateway = connections.gateway
        own = connections.to_agent()
        self._to_agent = "".join(f"{name}: {value}\r\n" for name, value in own.items())
        self._connect_s, self._silence_s = tuning.connect_timeout_s, tuning.silence_timeout_s

    async def send(
        self,
        url: str,
        headers: Headers,
        extra: str,
        body: bytes,
        *,
        agent: bool = False,
    ) -> Reply:
        """POST `body` with the client's `headers` and lines of `extra`, until the answer begins.

        `agent`: it is an agent's, which may want the fleet's secret.

        Raises:
            WorkerRefused: if nobody listens there.
            WorkerUnconnected: if no connection comes about in time.
            WorkerUnreachable: if none begins.
            WorkerFailed: if it begins with a head that is too large: the work is done.
        """
        if agent:
            extra += self._to_agent
        hops = hop_by_hop(headers)
        left_out = _LEFT_OUT if hops is HOP_BY_HOP else _NOT_SENT | hops
        return await self._send("POST", url, headers, left_out, extra, body)

    async def relay(
        self, method: str, url: str, headers: Headers, name: str, body: bytes, *, agent: bool
    ) -> Reply:
        """Send what is not planned, called `name`, as it is.

        Raises:
            WorkerUnreachable, WorkerFailed: as `send`.
        """
        extra = f"{REQUEST_ID.decode()}: {name}\r\n" + (self._to_agent if agent else "")
        left_out = _NOT_RELAYED | hop_by_hop(headers)
        return await self._send(method, url, headers, left_out, extra, body)

    async def _send(
        self,
        method: str,
        url: str,
        headers: Headers,
        left_out: frozenset[bytes],
        extra: str,
        body: bytes,
    ) -> Reply:
        kept = [b"%b: %b\r\n" % (name, value) for name, value in headers if name not in left_out]
        try:
            return await self._client.post(
                url,
                b"".join((*kept, extra.encode("latin-1"))),
                body,
                connect_s=self._connect_s,
                silence_s=self._silence_s,
                method=method.encode(),
            )
        except NotConnected as error:
            raise WorkerRefused(complaint(error)) from error
        except ConnectTimeout as error:
            raise WorkerUnconnected(complaint(error, self._connect_s)) from error
        except (TimeoutError, OSError) as error:
            raise WorkerUnreachable(complaint(error, self._silence_s)) from error
