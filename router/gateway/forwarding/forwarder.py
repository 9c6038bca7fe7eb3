"""The forwarding path: one request to one worker, and its answer back, unchanged.

This is the one seam behind which bytes move. Everything else of the gateway sees a `Reply`.
"""

from __future__ import annotations

from collections.abc import Iterable

import aiohttp
from yarl import URL

from router.gateway.fleet.reports import complaint
from router.http.connections import HOP_BY_HOP, Connections, Reply
from router.http.errors import WorkerRefused, WorkerUnreachable
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
_NOT_SENT = HOP_BY_HOP | _SET_ANEW | {b"accept-encoding", b"content-type"}


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
            WorkerRefused: if nobody listens there.
            WorkerUnreachable: if none begins.
        """
        sent = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in headers
            if name not in _NOT_SENT
        ]
        sent += extra.items()
        try:
            response = await self._connections.request(
                "POST", URL(url, encoded=True), data=body, headers=sent, timeout=self._timeout
            )
        except aiohttp.ClientConnectorError as error:
            raise WorkerRefused(complaint(error)) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise WorkerUnreachable(complaint(error, self._timeout.sock_connect or 0.0)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise WorkerUnreachable(complaint(error, self._timeout.sock_read or 0.0)) from error
        return Reply(response)
