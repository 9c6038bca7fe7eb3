"""What pages of other origins may do with an application: nothing, unless their origin is allowed.

A browser asks first (``OPTIONS``) before it sends JSON elsewhere, and keeps an answer from its page
that does not name the page's origin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from urllib.parse import urlsplit

from router.http.asgi import Message, Receive, Scope, Send, header, respond
from router.http.errors import Headers

_METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"
# Seconds for which a browser need not ask again.
_REMEMBER = b"600"


class Browsers:
    """An ASGI application before another one."""

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], origins: Collection[str]
    ) -> None:
        self._app = app
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what browsers ask first, and let the pages of allowed origins see the rest."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = self._headers(scope)
        if scope["method"] == "OPTIONS":
            asked = header(scope, b"access-control-request-headers") or b"content-type"
            if own:
                own += [
                    (b"access-control-allow-methods", _METHODS),
                    (b"access-control-allow-headers", asked),
                    (b"access-control-max-age", _REMEMBER),
                ]
            await respond(send, 204, [(b"allow", _METHODS), *own], b"")
            return

        async def marked(message: Message) -> None:
            if own and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self._app(scope, receive, marked if own else send)

    def _headers(self, scope: Scope) -> Headers:
        origin = header(scope, b"origin") if self._origins else None
        if origin is None or not ({"*", origin.decode("latin-1").lower()} & self._origins):
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"*"),
            (b"vary", b"origin"),
        ]


def is_own(scope: Scope, allowed: Collection[str]) -> bool:
    """Whether no page but one of this origin, or an allowed one, can have made a browser send this.

    For what a browser sends without asking first.
    """
    origin = header(scope, b"origin")
    if origin is None:
        return True
    told = origin.decode("latin-1").rstrip("/").lower()
    host = (header(scope, b"host") or b"").decode("latin-1").lower()
    return bool({"*", told} & {one.rstrip("/").lower() for one in allowed}) or (
        urlsplit(told).netloc == host
    )
