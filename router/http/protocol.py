"""HTTP/1 as clients may send it, whoever they are: uvicorn's protocol, and its bounds.

- A head has at most `HEAD_BYTES` and `MOST_FIELDS`: else 431, and the connection ends.
- What comes after a head is none of it: the fields of a trailer (RFC 9110 section 6.5) are dropped,
  as whoever stands before this server has looked at heads alone; and what is neither head nor body
  has at most `HEAD_BYTES`, too.
- A head must be in within the client's time limit, a body too, or come at `LEAST_RATE`: else 408.
- An upgrade to what nobody here speaks is ignored, and the body read (RFC 9110 section 7.8); Java's
  client asks for h2c by default.
- What is no request is refused, and the connection ends, once those before it have their answers.
- Who sends requests ahead of their answers is read on as these are taken: `MOST_AHEAD` wait, and
  what comes in one read from the socket.
- Clients have `CLIENTS_SHARE` of the files that the process may open beside its own; beyond that
  who connects takes the place of one that waits for no answer.
- Where the server is about to go, a request that has been sent by then gets its answer.
- HTTP/1.0 knows no chunks: an answer of unknown length ends with its connection.
- A request has one host (RFC 9112 section 3.2): else 400.
- Where only this machine can connect, a request names this machine as its host, or one that is
  allowed: else 403. A web page may make any name lead here, and would be let in as of that origin.
"""

from __future__ import annotations

import asyncio
import resource
from asyncio import TimerHandle
from itertools import islice
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from router.http.hosts import Hosts
from router.http.hot import HotProtocol
from router.http.refusals import HEAD_BYTES, MOST_FIELDS, refusal
from router.http.timeouts import MOMENT_S

# Bytes a second below which a body has to be in within the time limit: a slow mobile line's.
LEAST_RATE = 16 << 10
# Bytes parsed in one go: some hundred requests begin in them at most.
SLICE = 8 << 10
MOST_AHEAD = 16
# After a refusal so long what still comes is read and dropped: closing at once would reset the
# connection, and the client might never see why.
LINGER_S = 2.0
# Of the files that it may open those of clients, so that workers can always be reached, beside its
# own (some twenty: sockets, pipes, logs); and how many of them are looked at for one that is idle.
CLIENTS_SHARE, OWN_FILES, MOST_LOOKED_AT = 0.75, 32, 100
_FRAMING = (b"content-length", b"transfer-encoding")


class _Flow(FlowControl):
    """Reading stays paused while `held`: there is enough to do."""

    held = False

    def resume_reading(self) -> None:
        """Unless held."""
        if not self.held:
            super().resume_reading()


class _Unframed(RequestResponseCycle):
    """An answer to HTTP/1.0: as long as it says, or until the connection ends."""

    async def send(self, message: Any) -> None:  # noqa: ANN401
        """As uvicorn's, without chunks and without a count of what is left."""
        self.chunked_encoding = False
        self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class _Refused(Exception):
    """Raised while a head is parsed, with the status that says why."""


class BoundedProtocol(HotProtocol):
    """One connection; see the module."""

    flow: _Flow
    most_connections = 1 << 30

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        client_timeout_s: float,
        hosts: Hosts,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limit_s, self._hosts = client_timeout_s, hosts
        self._in_head = self._in_body = False
        self._head_bytes = self._body_bytes = self._aside_bytes = 0
        self._began_s = 0.0
        self._timer: TimerHandle | None = None
        self._late = False  # its time is over, and it is looked at once more
        self._running: RequestResponseCycle | None = None
        self._ahead = b""  # what came while too many requests wait for their answers
        self._resumed = self._refused = False
        self._status = 400  # of what is wrong with a head
        self._last_word = 0  # what is said once all requests before it are answered
        self._idle_since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Who connects and says nothing has as long as who says nothing more."""
        super().connection_made(transport)
        self._idle_since_s = self.loop.time()
        self._await_request(self.timeout_keep_alive)
        if len(self.connections) > self.most_connections:
            self._make_room()

    def _make_room(self) -> None:
        """Close one that waits for no answer, as it may be at any time; if there is none, this."""
        for one in islice(cast("set[BoundedProtocol]", self.connections), MOST_LOOKED_AT):
            idle = one.cycle is None or one.cycle.response_complete
            if idle and one is not self and not one.transport.is_closing():
                one.transport.close()
                return
        self.transport.close()

    def make_flow(self, transport: asyncio.Transport) -> _Flow:
        """One that can be held."""
        return _Flow(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives it."""
        self._unset_keepalive_if_required()
        self._stop_timer()
        self._ahead = b""
        self._let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse it, as far as there is room for what is in it."""
        if self._refused:
            return
        if self._ahead:
            self._ahead += data
            return
        between = not (self._in_head or self._in_body)
        if between and self._timer is None and self.take_known(data):
            return
        for start in range(0, len(data), SLICE):
            if len(self.pipeline) >= MOST_AHEAD:
                self._ahead = data[start:]
                self.flow.pause_reading()
                self.flow.held = True
                break
            if not self._feed(data if len(data) <= SLICE else data[start : start + SLICE]):
                return
        self._watch()

    def on_response_complete(self) -> None:
        """Go on with what came ahead; else it is idle from now on."""
        if self._last_word and not self.pipeline:
            self._end_with(self._last_word)
        elif self.pipeline:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            if self.transport.is_closing():
                return
            if self.flow.read_paused:
                self.flow.resume_reading()
            self._idle_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._await_request(self.timeout_keep_alive)
        if self._ahead:
            self.loop.call_soon(self._go_on)

    def _await_request(self, after_s: float) -> None:
        """One timer, looked at when it is due, rather than one for each request."""
        self.timeout_keep_alive_task = self.loop.call_later(
            after_s, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """It may have been busy meanwhile, or be so now."""
        self.timeout_keep_alive_task = None
        if self._in_head or self._in_body or (self.cycle and not self.cycle.response_complete):
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._await_request(left_s)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """The server is about to go: in two moments, for what has come by then is read first."""
        stop = super().shutdown
        self.loop.call_later(MOMENT_S, self.loop.call_later, MOMENT_S, stop)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401
        """The requests before it have been answered."""
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _let_go(self) -> None:
        """Whoever answers has nobody to answer to: `cycle` is the last request, not always that."""
        self.pipeline.clear()
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _go_on(self) -> None:
        ahead, self._ahead, self.flow.held = self._ahead, b"", False
        if ahead and not self.transport.is_closing():
            self.data_received(ahead)
            self.flow.resume_reading()

    def _feed(self, data: bytes) -> bool:
        """Parse a slice; whether anything may follow it."""
        before, between = self._body_bytes, not (self._in_head or self._in_body)
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._ignore_upgrade():
                    continue
            except httptools.HttpParserError:
                self._refuse(self._status)
            break
        if between:
            self.know(data)
        self.begin()
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431)
        elif self._in_body:
            none = self._body_bytes == before
            self._aside_bytes = self._aside_bytes + len(data) if none else 0
            if self._aside_bytes > HEAD_BYTES:
                self._refuse(431)
        return not self._refused

    def _ignore_upgrade(self) -> bool:
        """Go on in HTTP/1.1: a new parser is told how the body is framed; whether it can be."""
        framing = [name + b": " + value for name, value in self.headers if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if not framing:
            super().on_message_complete()
            self._in_body = False
            return True
        self._resumed = True
        try:
            self.parser.feed_data(b"\r\n".join((b"POST / HTTP/1.1", *framing, b"", b"")))
        except httptools.HttpParserError:
            self._refuse(400)
            return False
        return True

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._resumed:
            self._in_head, self._head_bytes = True, 0
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        if not self._resumed:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field, of a head or of what comes after its body."""
        if not self._in_head or self._resumed:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Its head is there."""
        if self._resumed:
            self._resumed = False
            return
        self._in_head = False
        if len(self.headers) > MOST_FIELDS or self._head_size() > HEAD_BYTES:
            self._status = 431
            raise _Refused
        names = [name for name, _ in self.headers]
        if names.count(b"host") > 1:
            raise _Refused  # those who read it next may take either
        if b"transfer-encoding" in names and not self._is_chunked():
            raise _Refused  # nobody would undo what else it says
        if not self._hosts.allows(self.headers):
            self._status = 403
            raise _Refused
        super().on_headers_complete()
        self._in_body, self._body_bytes, self._aside_bytes = True, 0, 0
        if "http_version" in self.scope and self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _Unframed

    def _is_chunked(self) -> bool:
        """Whether that is all that was done to its body on the way, by who may do it."""
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        return codings == [b"chunked"] and self.parser.get_http_version() == "1.1"

    def _head_size(self) -> int:
        """Bytes of the head; counted only where it may be too large."""
        if self._head_bytes <= HEAD_BYTES - 2 * SLICE:
            return 0
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there; of one that asks for an upgrade, only its head."""
        if not self.parser.should_upgrade():
            self._in_body = False
            super().on_message_complete()

    def _watch(self) -> None:
        """What has begun has to end in time."""
        idle = self.cycle is None or self.cycle.response_complete
        if not (self._in_head or self._in_body or idle):
            if self._timer is not None:
                self._stop_timer()
        elif self._timer is None and not self._ahead:
            self._began_s, self._late = self.loop.time(), False
            self._timer = self.loop.call_later(self._limit_s, self._check_time)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_time(self) -> None:
        more_s = self._body_bytes / LEAST_RATE if self._in_body else 0.0
        left_s = self._began_s + self._limit_s + more_s - self.loop.time()
        if self.flow.read_paused:  # we keep it waiting, not it us
            self._began_s, left_s = self.loop.time(), self._limit_s
        if left_s > 0 or not self._late:
            self._late = left_s <= 0
            after_s = MOMENT_S if self._late else left_s
            self._timer = self.loop.call_later(after_s, self._check_time)
        else:
            self._timer = None
            self._refuse(408)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """In the form of all errors."""
        self._refuse(400)

    def _refuse(self, status: int) -> None:
        """Nothing more is read of this connection; say why, if it is its turn."""
        if self._refused:
            return
        self._refused = True
        self._stop_timer()
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        in_turn = not answering or (
            self._in_body and not self.pipeline and not cycle.response_started
        )
        if not in_turn and not self._in_body:
            self._last_word = status  # those before it are answered first
            return
        self._let_go()
        if in_turn:
            self._end_with(status)
        else:
            self.transport.close()

    def _end_with(self, status: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(refusal(status))
        if self.transport.can_write_eof():  # TLS cannot end one half alone
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def bounded_protocol(client_timeout_s: float, hosts: Hosts) -> type[asyncio.Protocol]:
    """What uvicorn is to make for each connection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    class _Protocol(BoundedProtocol):
        most_connections = max(1, int((soft - OWN_FILES) * CLIENTS_SHARE))

        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            super().__init__(*args, client_timeout_s=client_timeout_s, hosts=hosts, **kwargs)

    return cast("type[asyncio.Protocol]", _Protocol)
