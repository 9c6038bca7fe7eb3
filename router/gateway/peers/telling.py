"""``POST /makespan/v1/sends``: what this gateway sends, for others, and processes of this one.

Rules:
- where gateways have a secret, only who knows it is told anything; processes of this gateway come
  in by their own socket, and need none;
- who takes nothing for `STUCK_S` is let go, and comes back;
- a gateway that shuts down tells on until what it has sent has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router.gateway.peers.sends import Listener, Sends
from router.gateway.siblings.together import ALONE
from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Responder,
    Scope,
    Send,
    respond,
    responder,
)
from router.http.drain import Drain
from router.http.errors import error_body
from router.http.secret import GatewaysOnly

STUCK_S = 10.0
MOST_LISTENERS = 128  # gateways, and processes of each
HEAD = [(b"content-type", b"application/jsonl"), (b"cache-control", b"no-store")]
REFUSAL = (
    "Gateways alone are told what this one sends: give them all the same --secret-file, or ask "
    "this one."
)


class Telling:
    """The endpoint, as raw ASGI."""

    def __init__(self, sends: Sends, secrets: Sequence[bytes], drain: Drain) -> None:
        self._sends, self._drain = sends, drain
        self._guarded = GatewaysOnly(self._tell, secrets, REFUSAL) if secrets else self._tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell one listener until it leaves, or there is nothing more to tell."""
        await (self._tell if scope.get(ALONE) else self._guarded)(scope, receive, send)

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._over or self._sends.listeners >= MOST_LISTENERS:
            why = "is shutting down" if self._over else "is listened to by too many"
            body = error_body(f"The gateway {why}.", "service_unavailable")
            await respond(send, 503, [(b"content-type", b"application/json")], body)
            return
        out = responder(send)
        listener = Listener(self._sends, out, elsewhere=not scope.get(ALONE))
        try:
            with DisconnectWatch(receive, send):
                await self._feed(listener, out)
        except (ClientDisconnected, TimeoutError):
            pass
        finally:
            self._sends.leave(listener)

    async def _feed(self, listener: Listener, out: Responder) -> None:
        out.start(200, HEAD)
        listener.flush()
        self._sends.join(listener)
        while not self._over:
            async with asyncio.timeout(STUCK_S):
                await listener.keep_up()
        out.end()
        await out.drain()

    @property
    def _over(self) -> bool:
        return self._drain.begun and self._sends.idle
