"""Lines as requests of the gateway's own: by the same code that a client's POST goes through.

So they are admitted, planned, tried again, accounted and explained like all others, at the priority
`bulk`: what clients wait for goes first. Here it is decided what an answer means for its line:

- 408, 429 and 503 say "not now": the line asks again, once `Retry-After` is over, as long as its
  batch lasts;
- 500, 502 and 504, and a 2xx that is no JSON object, are asked again, `TRIES` times in all, as a
  request may be what breaks an engine;
- one that goes on after `MOST_ANSWER` bytes is read no further: it is an error;
- everything else is the line's answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from router.gateway.batches.results import read
from router.http.asgi import BODY, Direct, Message, Receive, Scope, Send
from router.http.errors import Headers, RequestError, RouterError, error_body
from router.wire import PRIORITY, REQUEST_ID, TENANT
from solver.batching.priority import Priority

log = logging.getLogger(__name__)

Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

TRIES = 3
# Databases take a gigabyte, and it is in memory some times over until it is there.
MOST_ANSWER = 128 << 20
NOT_NOW = frozenset((408, 429, 503))
BROKEN = frozenset((500, 502, 504))
# Before the next try, seconds: what nobody has said, and the most that somebody may.
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a line asks, and for whom.

    Attributes:
        name: the request's, by which it can be explained.
        path, body: where it goes, and with what.
        tenant: whose it is, where there are no keys.
        scope: what its request's scope has besides: what a key allows.
    """

    name: str
    path: str
    body: bytes
    tenant: str
    scope: dict[str, Any]


class Answer(Direct):
    """Takes an answer in, in the place of a client's connection.

    Attributes:
        told: what it says, once all of it is there; None: it is no JSON object.
    """

    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, Headers(), bytearray()
        self.told: dict[str, Any] | None = None
        self._callback: Callable[[], None] | None = None
        self._left = self.too_large = False

    def start(self, status: int, headers: Headers) -> None:
        """Part of `Responder`."""
        self.status, self.headers = status, headers

    def write(self, data: bytes) -> None:
        """Part of `Responder`."""
        if self._left:
            return
        self.body += data
        if len(self.body) > MOST_ANSWER:
            self.too_large = True
            self.leave()

    def end(self) -> None:
        """Part of `Responder`."""

    async def drain(self) -> None:
        """Part of `Responder`; nobody is slow here."""

    async def __call__(self, message: Message) -> None:
        """Part of `Direct`."""
        if message["type"] == "http.response.start":
            self.start(message["status"], list(message["headers"]))
        else:
            self.write(message.get("body", b""))

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Part of `Direct`."""
        self._callback = callback
        if self._left and callback is not None:
            callback()

    def leave(self) -> None:
        """Nobody wants it any more."""
        self._left = True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def is_broken(self) -> bool:
        """Whether it says that its engine is, or says nothing."""
        if 200 <= self.status < 300:
            return self.told is None
        return self.status in BROKEN or not self.status

    def pause_s(self) -> float:
        """Until the next try."""
        told = next((value for name, value in self.headers if name == b"retry-after"), b"")
        seconds = float(told) if told.isdigit() else PAUSE_S
        return min(LONGEST_PAUSE_S, max(PAUSE_S, seconds))


async def ask(endpoint: Endpoint, asked: Asked) -> Answer:
    """Ask until it is answered.

    Raises:
        RequestError: if its answer is too large.
    """
    tries = 0
    while True:
        answer = await _ask_once(endpoint, asked)
        if answer.too_large:
            message = f"The answer is over the limit of {MOST_ANSWER >> 20} MiB."
            raise RequestError(message, code="answer_too_large")
        answer.told = read(answer.body)
        broken = answer.is_broken()
        tries += broken
        if not (answer.status in NOT_NOW or (broken and tries < TRIES)):
            return answer
        await asyncio.sleep(answer.pause_s())


async def _ask_once(endpoint: Endpoint, asked: Asked) -> Answer:
    headers: Headers = [
        (b"host", b"batch"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(asked.body)).encode()),
        (REQUEST_ID, asked.name.encode()),
        (PRIORITY, Priority.BULK.value.encode()),
    ]
    if asked.tenant:
        headers.append((TENANT, asked.tenant.encode("latin-1", "replace")))
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": b"",
        "headers": headers,
        BODY: asked.body,
        **asked.scope,
    }
    answer = Answer()
    task = asyncio.ensure_future(endpoint(scope, _nothing, answer))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        answer.leave()
        with suppress(Exception, asyncio.CancelledError):
            await task
        raise
    except (
        RouterError
    ) as error:  # how an answer that broke off is told; what there is of it, is none
        answer.status, answer.body[:] = error.status, error.body()
    except Exception as error:
        log.exception("a defect in answering a line", extra={"request": asked.name})
        answer.status, answer.body[:] = 500, error_body(str(error), "server_error")
    return answer


async def _nothing() -> Message:
    """What a client sends after its request."""
    never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await never
