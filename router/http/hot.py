"""Hot routes straight from the server's protocol, before any framework.

Rules:
- a POST whose path is that of a hot route goes to its endpoint, with the connection itself to
  answer on (`router.http.asgi.Direct`): in a task, or by the endpoint's ``begin``, if it has one
  and the body has come;
- everything else is uvicorn's and the application's: other routes, and what only few clients do
  (HTTP/1.0, escaped paths, requests sent before the answer to the one before). The application has
  the same endpoints, so that nothing depends on the way here.

An application names its hot routes in ``app.state.hot``, by path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    RequestResponseCycle,
)
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from router.http.asgi import BODY, FIELDS, Direct, Message, Receive, Scope, Send, respond
from router.http.errors import Headers, error_body
from router.http.known_head import MOST_NEW, KnownHead
from router.http.slow_readers import SlowReaders

Endpoint = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

_NO_BODY = frozenset((204, 304))
_LINE = b"%b: %b\r\n"
# Of all answers of a server that is about to go, see `router.http.serving`.
CLOSE = (b"connection", b"close")


def _nothing() -> None:
    """Its response is no longer waited for."""


class Cycle(RequestResponseCycle, Direct):
    """One request on a hot route and its response, on the connection that they came on.

    Attributes:
        endpoint: what answers it.
    """

    logger = logging.getLogger("uvicorn.error")
    waiting_for_100_continue = False
    access_log = disconnected = response_started = response_complete = False
    chunked_encoding: bool | None = None
    more_body, expected_content_length = True, 0
    _callback: Callable[[], None] | None = None
    _stopped: Callable[[], None] | None = None
    _drained: Callable[[], None] | None = None
    _head = b""
    _task: asyncio.Task[None]

    def __init__(self, protocol: HotProtocol, endpoint: Endpoint, *, keep_alive: bool) -> None:
        # In place of uvicorn's, which is told one by one what the connection knows.
        self._tasks: set[Any] = protocol.tasks
        self.endpoint, self._begin = endpoint, getattr(endpoint, "begin", None)
        self.scope, self.transport, self.flow = protocol.scope, protocol.transport, protocol.flow
        self.default_headers = protocol.server_state.default_headers
        self.message_event, self.on_response = protocol.event, protocol.on_response_complete
        if protocol.expect_100_continue:
            self.waiting_for_100_continue = True
        self.keep_alive = keep_alive and CLOSE not in self.default_headers
        self.body = bytearray()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer it; a body that is all there is at hand."""
        scope: Any = self.scope
        receive: Any = self.receive
        self._loop = loop
        if not self.more_body:
            if BODY not in scope:
                scope[BODY] = bytes(self.body)
            if self._begin is not None:
                self._begin(scope, receive, self)
                return
        self.run(self.endpoint(scope, receive, self))

    def run(self, work: Coroutine[Any, Any, object]) -> None:
        """Part of `Direct`."""
        self._unwatch()
        scope: Any = self.scope
        if not self.body:  # for whoever reads it as ASGI has it
            self.body += scope.get(BODY, b"")
        if self.body or not self.more_body:
            self.message_event.set()
        self._task = self._loop.create_task(self._answer(work))
        self._tasks.add(self._task)

    async def _answer(self, work: Coroutine[Any, Any, object]) -> None:
        """As uvicorn's `run_asgi`; a callback for its end would be one more turn of the loop."""
        try:
            await work
            if not (self.response_complete or self.disconnected):
                raise RuntimeError("the endpoint has ended without a whole response")
        except BaseException as error:
            self.logger.error("Exception in ASGI application\n", exc_info=error)
            if self.response_started:
                self.transport.close()
            else:
                await self.send_500_response()
        finally:
            self.on_response = _nothing  # what it belongs to knows it: a circle is garbage
            self._tasks.discard(self._task)

    def watch(self, left: Callable[[], None], stopped: Callable[[], None]) -> None:
        """Part of `Direct`."""
        self._stopped = stopped
        self._tasks.add(self)
        self.when_gone(left)

    def finish(self) -> None:
        """Part of `Direct`."""
        self._unwatch()
        self.on_response = _nothing  # as after a task

    def _unwatch(self) -> None:
        if self._stopped is not None:
            self._callback = self._stopped = self._drained = None
            self._tasks.discard(self)

    def cancel(self, msg: object = None) -> None:  # noqa: ARG002
        """What uvicorn does to tasks once the time to drain is over, one after the other.

        In a moment: a task that came into their set now might be cancelled before it begins.
        """
        self._loop.call_soon(self._stop)

    def _stop(self) -> None:
        if self._stopped is not None:
            self._stopped()

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Part of `Direct`."""
        self._drained = callback

    def drained(self) -> None:
        """The client has taken enough of it, or has left."""
        callback, self._drained = self._drained, None
        if callback is not None:
            callback()

    async def __call__(self, message: Message) -> None:
        """Part of `Direct`."""
        await super().send(message)  # type: ignore[arg-type]

    @property
    def send(self) -> Send:  # type: ignore[override]
        """What uvicorn hands to endpoints."""
        return self

    @property
    def paused(self) -> bool:  # type: ignore[override]
        """Whether the client does not keep up."""
        return self.flow.write_paused and not self.disconnected

    async def drain(self) -> None:
        """Part of `Responder`."""
        if self.flow.write_paused:
            await self.flow.drain()

    def start(self, status: int, headers: Headers) -> None:
        """Part of `Responder`; the head goes with what comes first after it."""
        assert not self.response_started
        self.response_started = True
        lines = list(map(_LINE.__mod__, headers))
        self.chunked_encoding = status not in _NO_BODY and b"content-length" not in dict(headers)
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        self._head = b"%b%b\r\n" % (STATUS_LINE[status], b"".join(lines))
        if self._head.count(b"\n") != len(lines) + 2:
            raise ValueError(f"a response's header breaks its line: {headers}")

    def write(self, data: bytes) -> None:
        """Part of `Responder`."""
        if self.disconnected or not data:
            return
        head, self._head = self._head, b""
        if self.chunked_encoding:
            data = b"%b%x\r\n%b\r\n" % (head, len(data), data)
        elif head:
            data = head + data
        self.transport.write(data)

    def end(self) -> None:
        """Part of `Responder`."""
        if not self.disconnected:
            rest = self._head + b"0\r\n\r\n" if self.chunked_encoding else self._head
            if rest:
                self.transport.write(rest)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Part of `Direct`."""
        self._callback = callback
        if self.disconnected:
            self.gone()

    def gone(self) -> None:
        """The connection is lost."""
        if self.response_complete:
            return
        self.disconnected = True
        self.message_event.set()
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    async def send_500_response(self) -> None:
        """A defect of ours, in OpenAI's form."""
        message = f"{self.scope['path']}: internal error; see the log."
        content = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await respond(self, 500, content, error_body(message, "server_error"))


class HotProtocol(SlowReaders):
    """See the module.

    Attributes:
        latest: the head that was known last on any connection of this server: a new one's client
            is mostly of the same kind.
    """

    latest: KnownHead | None = None

    def __init__(self, *args: Any, **parts: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **parts)
        self._hot: Mapping[bytes, Endpoint] = getattr(
            getattr(self.config.app, "state", None), "hot", {}
        )
        self._hot_cycle: Cycle | None = None
        self._new: Cycle | None = None  # and not begun
        self._known = self.latest
        self._new_heads = 0
        self.event = asyncio.Event()  # of one request after the other

    def on_message_begin(self) -> None:
        """A request begins; which scope it needs is not known yet."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """A request's head has come."""
        path, _, query = self.url.partition(b"?")
        endpoint = self._hot.get(path)
        busy = self.cycle is not None and not self.cycle.response_complete
        version = self.parser.get_http_version()
        unusual = busy or version != "1.1" or b"#" in query
        if endpoint is None or unusual or self.parser.get_method() != b"POST":
            self._take_usual_scope()
            super().on_headers_complete()
            return
        scope: Any = {
            "type": "http",
            "method": "POST",
            "http_version": version,
            "path": path.decode(),
            "raw_path": path,
            "query_string": query,
            "headers": self.headers,
            FIELDS: dict(reversed(self.headers)),
        }
        self.scope = scope
        self.event.clear()
        kept = self.parser.should_keep_alive()
        self.cycle = self._hot_cycle = self._new = Cycle(self, endpoint, keep_alive=kept)

    def take_known(self, data: bytes) -> bool:
        """Begin with a request whose head has come before; whether it is one."""
        known, cycle = self._known, self.cycle
        if known is None or not (cycle is None or cycle.response_complete):
            return False
        body = known.body_of(data)
        if body is None:
            return False
        self._new_heads, self.expect_100_continue = 0, False
        scope: Any = known.scope.copy()
        scope[BODY] = body
        self.scope = scope
        self.event.clear()
        self.cycle = self._hot_cycle = cycle = Cycle(self, known.endpoint, keep_alive=True)
        cycle.more_body = False
        cycle.begin(self.loop)
        return True

    def know(self, data: bytes) -> None:
        """Its head is to be known, if all that came in one read is one request of a hot route."""
        cycle = self._new
        if cycle is None or cycle is not self.cycle or cycle.more_body or not cycle.keep_alive:
            return
        self._new_heads += 1
        if 1 < self._new_heads <= MOST_NEW:  # not for who asks but once
            self._known = KnownHead.of(data, len(cycle.body), cycle.endpoint, cycle.scope)
            type(self).latest = self._known

    def _take_usual_scope(self) -> None:
        """That which frameworks ask for."""
        if self.scheme is None:
            self.server, self.client = (
                get_local_addr(self.transport),
                get_remote_addr(self.transport),
            )
            self.scheme = "https" if is_ssl(self.transport) else "http"
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.headers.extend(headers)
        self.url, self.expect_100_continue = url, expects

    def on_body(self, body: bytes) -> None:
        """As uvicorn's; of a request that has not begun nobody waits for it."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        if cycle is not self._new:
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """As uvicorn's, likewise."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.more_body = False
        if cycle is not self._new:
            cycle.message_event.set()

    def begin(self) -> None:
        """What has come in one read is parsed: begin with a request that was in it."""
        cycle, self._new = self._new, None
        if cycle is not None:
            cycle.begin(self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or its connection has ended."""
        super().connection_lost(exc)
        if self._hot_cycle is not None:
            self._hot_cycle.gone()
            self._hot_cycle.drained()

    def resume_writing(self) -> None:
        """The client has read much of its answer."""
        super().resume_writing()
        if self._hot_cycle is not None:
            self._hot_cycle.drained()
