"""Raw ASGI: the few lines that the hot paths of gateway and agent need instead of a framework."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, Self

from router.http.errors import Headers, RequestError, RouterError

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


# In a scope, its headers by their names: a dozen are asked for; its body, if that came with it; and
# what an endpoint has found out of a head that may come again.
FIELDS, BODY, SAID = "makespan.fields", "makespan.body", "makespan.said"


class Responder:
    """Where a response goes, as plain calls: nothing waits unless the client is slow.

    Attributes:
        paused: the client does not keep up: `drain` before more is written.
    """

    paused: bool = False

    def start(self, status: int, headers: Headers) -> None:
        """The head."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """More of the body."""
        raise NotImplementedError

    def end(self) -> None:
        """That was all."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until the client has taken enough of it."""
        raise NotImplementedError


class Direct(Responder):
    """One that is the client's connection itself, and an ASGI ``send`` besides."""

    async def __call__(self, message: Message) -> None:
        """As ASGI has it."""
        raise NotImplementedError

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Call it once if the client leaves before its response has ended; at once if it has."""
        raise NotImplementedError

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call it once the client has taken enough of it, or has left."""
        raise NotImplementedError

    def watch(self, left: Callable[[], None], stopped: Callable[[], None]) -> None:
        """For who answers without a task: call one if the client leaves, or the server stops.

        Until `finish` or `run`.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """It is answered, or its client has left."""
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        """Go on in a task."""
        raise NotImplementedError


class AsgiResponder(Responder):
    """Any ASGI server's client: what is written waits for the next `drain`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._messages: list[Message] = []
        self._draining = asyncio.Lock()

    @property
    def paused(self) -> bool:  # type: ignore[override]
        """Whether anything waits."""
        return bool(self._messages)

    def start(self, status: int, headers: Headers) -> None:
        """Part of `Responder`."""
        start = {"type": "http.response.start", "status": status, "headers": headers}
        self._messages.append(start)

    def write(self, data: bytes) -> None:
        """Part of `Responder`."""
        self._messages.append({"type": "http.response.body", "body": data, "more_body": True})

    def end(self) -> None:
        """Part of `Responder`."""
        self._messages.append({"type": "http.response.body", "body": b""})

    async def drain(self) -> None:
        """Part of `Responder`."""
        async with self._draining:  # what comes first goes first, whoever waits for it
            while self._messages:
                await self._send(self._messages.pop(0))


def responder(send: Send) -> Responder:
    """Where `send` sends to."""
    return send if isinstance(send, Direct) else AsgiResponder(send)


class ClientDisconnected(Exception):
    """The client has closed its connection before its request was answered."""


async def read_body(
    scope: Scope, receive: Receive, limit: int, take: Callable[[int], None] = lambda _: None
) -> bytes:
    """The request's body; `take` hears of the bytes of each part that has come, and may refuse it.

    Raises:
        RequestError: 413 if it is over `limit` bytes.
        ClientDisconnected: if the client does not wait to the end of its own body.
    """
    whole: bytes | None = scope.get(BODY)
    if whole is not None:
        if len(whole) > limit:
            raise too_large(limit)
        take(len(whole))
        return whole
    length = header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        raise too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        if len(body) > limit:
            raise too_large(limit)
        take(len(body))
        return body
    take(len(body))
    parts, size = [body], len(body)
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
        take(len(parts[-1]))
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return b"".join(parts)


def too_large(limit: int) -> RequestError:
    """A body has more than `limit` bytes."""
    return RequestError(
        f"The request's body is over the limit of {limit} bytes.",
        code="request_too_large",
        status=413,
    )


def fields(scope: Scope) -> Mapping[bytes, bytes]:
    """Headers by their names (lower case); of several, the first."""
    found: dict[bytes, bytes] | None = scope.get(FIELDS)
    if found is None:
        found = scope[FIELDS] = dict(reversed(scope["headers"]))
    return found


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header called `name` (lower case)."""
    found: dict[bytes, bytes] | None = scope.get(FIELDS)
    return (fields(scope) if found is None else found).get(name)


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: RouterError, extra: Headers) -> None:
    """The error's response, with `extra` headers."""
    await respond(send, error.status, [*error.headers(), *extra], error.body())


class DisconnectWatch:
    """Cancels the task that answers a request when its client leaves.

    Use as a context manager once the body has been read; inside it, work is cancelled and
    `ClientDisconnected` raised in its place. Cancellation from elsewhere stays what it is.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._left = receive, False
        self._direct = send if isinstance(send, Direct) else None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        if self._direct is not None:
            self._direct.when_gone(self._leave)
        else:
            self._watcher = asyncio.create_task(self._watch())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._direct is not None:
            self._direct.when_gone(None)
        else:
            self._watcher.cancel()
            del self._watcher  # it knows who watches: a circle is garbage
        if self._left and kind is asyncio.CancelledError:
            self._task.uncancel()
            raise ClientDisconnected

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self._left = True
        self._task.cancel()
