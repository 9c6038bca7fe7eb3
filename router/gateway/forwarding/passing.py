"""A request that passes as it is, without a plan, and what of its answer has gone out.

What its answer says of tokens is read from what passes by, a bounded part of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from router.gateway.accounting.keys import Grant, Reservation
from router.http.apis import form_of
from router.http.asgi import Responder, Scope, Send, respond, responder
from router.http.errors import Headers, RouterError
from router.http.usage import MOST, JsonMeter, StreamMeter, Usage, read_any_usage
from router.http.worker_reply import Reply
from router.wire import MODEL, WORKER
from solver.cost.estimators import BYTES_PER_TOKEN

log = logging.getLogger(__name__)

# Of one of many inputs, as in `["a","b"]`; each may fill a context.
LEAST_INPUT_BYTES = 4


class Passing:
    """One request as it passes, and what of its answer has gone out."""

    def __init__(self, scope: Scope, send: Send, name: str) -> None:
        self.send, self.name, self.begun = send, name, False
        self.model = ""  # that an alias stands for
        self.expected_tokens = 0.0  # of its prompt, as far as that can be told
        self.more: Callable[[], Headers] = list  # what its answer's head says of the client's key
        self.out: Responder = responder(send)
        path = scope.get("raw_path") or scope["path"].encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        self.target = (path + query).decode("latin-1")
        self._reservation: Reservation | None = None  # of that key's tokens
        self._most = MOST  # tokens that there can be
        self._api = form_of(scope["path"])
        self._meter: StreamMeter | JsonMeter | None = None

    def expect(self, size: int, context: int | None, grant: Grant | None, *, json: bool) -> None:
        """Tokens that there may be of a body of so many bytes, of its key, too, if that pays.

        Raises:
            OverLimitError: if the key has to wait.
        """
        if context is not None:
            most = context * (1 + size // LEAST_INPUT_BYTES)
            self._most = Usage(most, most)
        text = size / BYTES_PER_TOKEN if json else 0.0
        self.expected_tokens = text if context is None else min(text, context)
        if grant is not None:
            self._reservation = grant.reserve(self.expected_tokens)

    def settle(self, usage: Usage | None, *, left: bool) -> None:
        """It has ended; `left`: its client has, while a worker had it."""
        if self._reservation is not None:
            used = None if left else 0.0
            self._reservation.settle(used if usage is None else usage.tokens)

    async def relay(self, reply: Reply, worker: str) -> None:
        """The answer, as it comes."""
        meter = (StreamMeter if reply.is_stream else JsonMeter)(read_any_usage)
        self._meter = meter

        def pass_on(chunk: bytes) -> None:
            if not self.begun:
                self._start(reply, worker)
            meter.feed(chunk)
            self.out.write(chunk)

        await reply.relay(pass_on, self.out)
        if not self.begun:
            self._start(reply, worker)
        self.out.end()

    def usage(self) -> Usage | None:
        """Tokens that it has taken, if its answer has told."""
        usage = None if self._meter is None else self._meter.usage()
        return usage and usage.within(self._most)

    def _start(self, reply: Reply, worker: str) -> None:
        own: Headers = [*self._api.named(self.name), (WORKER, worker.encode())]
        if self.model:
            own.append((MODEL, self.model.encode("utf-8", "replace")))
        self.begun = True
        self.out.start(reply.status, reply.with_own([*own, *self.more()]))

    async def send_error(self, error: RouterError) -> None:
        """The error as a response; one that has begun ends with its connection."""
        if self.begun:
            log.warning("answer cut short", extra={"request": self.name})
            raise error
        headers = [*error.headers(), *self._api.named(self.name), *self.more()]
        await respond(self.send, error.status, headers, self._api.error(error, self.name))
