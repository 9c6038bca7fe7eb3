"""Everything that is neither a completion nor the agent's own goes to the server and back as is."""

from __future__ import annotations

import logging

import orjson

from router.agent.endpoint import MOST_BODY_BYTES
from router.agent.sidecar.upstream import Upstream
from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
    respond_error,
)
from router.http.errors import RouterError

log = logging.getLogger(__name__)


def target_of(scope: Scope) -> str:
    """Path and query string, escaped as they came."""
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    return str((path + b"?" + query if query else path).decode("latin-1"))


class Proxy:
    """Any path, any method."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._serve(scope, receive, send)
        except ClientDisconnected:
            return
        except RouterError as error:
            await respond_error(send, error, [])

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._upstream.check()
        body = await read_body(scope, receive, MOST_BODY_BYTES)
        with DisconnectWatch(receive, send):
            with self._upstream.pending() as pending:
                method, target = scope["method"], target_of(scope)
                reply = await self._upstream.send(pending, method, target, scope["headers"], body)
                self._upstream.answered(pending)
                start = {"type": "http.response.start", "status": reply.status}
                await send({**start, "headers": reply.headers})
                try:
                    async for chunk in reply.chunks():
                        self._upstream.saw_bytes()
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except RouterError as error:
                    log.warning("answer cut short")
                    raise ConnectionError(str(error)) from error  # the client's connection ends
                finally:
                    reply.close()
            await send({"type": "http.response.body", "body": b""})


class ModelEndpoint:
    """``/v1/models/NAME`` from the server's list, as some servers have only that; else its own."""

    def __init__(self, upstream: Upstream, proxy: Proxy) -> None:
        self._upstream, self._proxy = upstream, proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        entry = self._upstream.models.get(scope["path_params"]["model"])
        if not entry or not self._upstream.up:
            await self._proxy(scope, receive, send)
            return
        await respond(send, 200, [(b"content-type", b"application/json")], orjson.dumps(entry))
