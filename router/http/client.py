"""The client of the hot path: POSTs to workers over kept connections, answers passed on as bytes.

Rules:
- one request at a time on a connection, and a connection goes back for reuse only when its answer
  has ended, said nothing against it, and left nothing behind it;
- what arrives in one read is passed on in one piece, without a task being woken: only the head, the
  end and a reader that cannot keep up wake whoever waits;
- a reader that cannot keep up stops the worker's sending (TCP's own flow control), so that a slow
  client costs no memory;
- who lets go of an answer before its end closes the connection, so that the worker sees it.

HTTP is parsed by `httptools`, as by the server.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

from router.http.asgi import Responder
from router.http.errors import Headers, WorkerFailed
from router.http.reply import ReplyHead
from router.http.timeouts import limited

# A head beyond this is none: answers of engines have a few hundred bytes. Nor is as much that says
# nothing, in the extensions of chunks or in trailers.
MOST_HEAD_BYTES = 65_536
LARGEST_STATUS = 599
# Of an answer that nobody has begun to read, more than this is not taken from the network.
MOST_UNREAD_BYTES = 262_144


class _LargeHead(WorkerFailed):
    """It has answered, with a head that nobody could pass on."""

    def __init__(self) -> None:
        super().__init__(f"The head of the worker's answer is over {MOST_HEAD_BYTES} bytes.")


class BadAnswer(OSError):
    """What came is no answer to the request, or not all of one."""


class NotConnected(OSError):
    """No connection could be made: nobody listens there, or nobody knows the name."""


class ConnectTimeout(TimeoutError):
    """Nor was one refused, in all the time that there was."""


class Reply(ReplyHead):
    """An answer that has begun. Close it, or relay it to its end."""

    def __init__(self, connection: _Connection, status: int, headers: Headers) -> None:
        super().__init__(status, headers)
        self._connection: _Connection | None = connection
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._feed: Callable[[bytes], None] | None = None
        self._out: Responder | None = None
        self._wake: asyncio.Future[None] | None = None
        self._ended = False
        self._failure: Exception | None = None

    async def relay(self, feed: Callable[[bytes], None], out: Responder) -> None:
        """Give `feed` the body as it arrives, as fast as `out` takes what comes of it.

        Raises:
            WorkerFailed: if it ends before its end.
        """
        self._feed, self._out = feed, out
        if self._unread:
            unread, self._unread = b"".join(self._unread), []
            feed(unread)
        while True:
            if self._ended:
                break
            if out.paused:
                await out.drain()
                continue  # its end may have come meanwhile
            if self._connection is not None:
                self._connection.resume()
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        if isinstance(self._failure, OSError):
            raise WorkerFailed("The worker broke off its answer.") from self._failure
        if self._failure is not None:
            raise self._failure

    def take(self, data: bytes) -> bool:
        """More of the body has come; whether more may come now."""
        if self._feed is None or self._out is None:
            self._unread.append(data)
            self._unread_bytes += len(data)
            return self._unread_bytes < MOST_UNREAD_BYTES
        try:
            self._feed(data)
        except Exception as error:  # a defect of the reader's is the reader's
            self.end(error)
            self.close()
            return True
        if self._out.paused:
            self._rouse()
            return False
        return True

    def end(self, failure: Exception | None = None) -> None:
        """That was all, or all that there will be."""
        if not self._ended:
            self._ended, self._failure = True, failure
            if failure is None:
                self._connection = None
            self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def close(self) -> None:
        """Let go of it; if it has not ended, the worker sees its client leave."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection to a worker; `idle` is where it waits for its next request."""

    def __init__(self, idle: deque[_Connection], keep_alive_s: float) -> None:
        self._idle, self._keep_alive_s = idle, keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[Reply] | None = None
        self._asked: asyncio.Future[Reply] | None = None  # by whom, until the answer's end
        self._reply: Reply | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = self._limit_s = self._heard_s = self._asked_s = 0.0
        self._paused = self._reusable = False
        self._new_head()

    def _new_head(self) -> None:
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._bare_bytes, self._in_head, self._complete, self._framed = 0, True, False, False

    @property
    def usable(self) -> bool:
        """Whether it may carry another request: who closes second meets a reset."""
        open_ = self._transport is not None and not self._transport.is_closing()
        return open_ and self._loop.time() - self._heard_s < self._keep_alive_s

    @property
    def closed_unheard(self) -> bool:
        """Whether it was closed with nothing said since its last request."""
        return self._transport is None and self._heard_s <= self._asked_s

    def request(self, data: bytes, silence_s: float) -> asyncio.Future[Reply]:
        """Send a request; the future is its answer's beginning, or what went wrong before it."""
        assert self._transport is not None
        self._answered = self._asked = asked = self._loop.create_future()
        self._watch(silence_s)
        self._asked_s = self._heard_s
        self._transport.write(data)
        return asked

    def leave(self, asked: asyncio.Future[Reply]) -> None:
        """Who asked wants no answer; the connection may have gone on to the next request."""
        if self._asked is asked:
            self.abort()

    def _watch(self, limit_s: float) -> None:
        """Look after `limit_s` of silence; an alarm that is due before then looks and waits on."""
        self._heard_s, self._limit_s = self._loop.time(), limit_s
        if self._alarm is not None and self._alarm_s > self._heard_s + limit_s:
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None:
            self._set_alarm(limit_s)

    def _set_alarm(self, after_s: float) -> None:
        self._alarm_s = self._loop.time() + after_s
        self._alarm = self._loop.call_later(after_s, self._look)

    def _look(self) -> None:
        self._alarm = None
        left_s = self._heard_s + self._limit_s - self._loop.time()
        if left_s > 0 or self._paused:
            self._set_alarm(max(left_s, 0.001) if not self._paused else self._limit_s)
        elif self._busy:
            self._fail(TimeoutError(f"nothing came for {self._limit_s:g} s"))
        else:
            self.abort()

    @property
    def _busy(self) -> bool:
        return self._answered is not None or self._reply is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not say that it is one
        self._heard_s = self._loop.time()

    def connection_lost(self, error: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = None
        if self._reply is not None and not self._framed and error is None:
            self._end()  # an answer of unknown length ends with its connection
        else:
            self._fail(error or BadAnswer("it closed the connection without an answer"))

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        self._heard_s = self._loop.time()
        self._bare_bytes += len(data)
        try:
            if not self._busy:
                raise BadAnswer("it sent what nobody asked for")
            self._parser.feed_data(data)
            if self._body:
                self._bare_bytes = 0
            elif self._bare_bytes > MOST_HEAD_BYTES:
                raise _LargeHead if self._in_head else BadAnswer("its answer has endless framing")
        except _LargeHead as error:
            self._fail(error)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, OSError) as error:
            self._reusable = False
            self._pass_on()  # what came before it
            no_http = BadAnswer(f"what it answers is no HTTP: {error}")
            self._fail(error if isinstance(error, OSError) else no_http)
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        reply = self._reply
        if reply is not None and self._body:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body = []
            if not reply.take(body):
                self.pause()
        if self._complete and self._reply is not None:
            self._end()

    def on_message_begin(self) -> None:
        """Part of `httptools`."""
        if self._complete:
            raise BadAnswer("it sent more than its answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of `httptools`; trailers, which come after the body, are of no use to anybody."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Part of `httptools`."""
        status = self._parser.get_status_code()
        if status < 200:  # says that the answer is yet to come
            self._headers = []
            return
        if status > LARGEST_STATUS:
            raise BadAnswer(f"the answer's status is {status}")
        self._in_head, self._reusable = False, self._parser.should_keep_alive()
        names = {name for name, _ in self._headers}
        self._framed = not names.isdisjoint(
            (b"content-length", b"transfer-encoding")
        ) or status in {204, 304}
        answered, self._answered = self._answered, None
        self._reply = Reply(self, status, self._headers)
        if answered is not None and not answered.done():
            answered.set_result(self._reply)

    def on_body(self, data: bytes) -> None:
        """Part of `httptools`."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Part of `httptools`."""
        if not self._in_head:
            self._complete = True

    def _end(self) -> None:
        """The answer has ended: on to the next request, if the connection is good for one."""
        reply, transport = self._reply, self._transport
        assert reply is not None
        self._reply = self._asked = None
        good = self._framed and self._complete and self._reusable
        self._new_head()
        self.resume()
        if good and transport is not None and not transport.is_closing():
            self._watch(self._keep_alive_s)
            self._idle.append(self)
        else:
            self.abort()
        reply.end()

    def _fail(self, error: Exception) -> None:
        answered, self._answered = self._answered, None
        reply, self._reply = self._reply, None
        self.abort()
        if answered is not None and not answered.done():
            answered.set_exception(error)
        if reply is not None:
            reply.end(error if isinstance(error, OSError) else BadAnswer(repr(error)))

    def pause(self) -> None:
        """Take no more from the network for now."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on."""
        if self._paused and self._transport is not None:
            self._paused, self._heard_s = False, self._loop.time()
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close it, whatever it is doing."""
        self._stop()
        self._reply = self._answered = self._asked = None
        if self._transport is not None:
            self._transport.abort()

    def _stop(self) -> None:
        """It is of no more use to anybody."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self in self._idle:
            self._idle.remove(self)


# By host and port, whose certificate is to be there, if that is not the host's.
TlsNames = dict[tuple[str, int], str]


class _Origin:
    """Where a worker is, and connections to it that wait for a request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.secure else 80)
        self.host_line = b"host: " + parts.netloc.encode("latin-1") + b"\r\n"
        self.idle: deque[_Connection] = deque()


class Client:
    """Kept connections to all workers: as many as there are requests."""

    def __init__(
        self,
        keep_alive_s: float,
        tls: ssl.SSLContext | None = None,
        tls_names: TlsNames | None = None,
    ) -> None:
        self._keep_alive_s = keep_alive_s
        self._origins: dict[str, _Origin] = {}
        self._tls, self._tls_names = tls, {} if tls_names is None else tls_names

    async def post(
        self,
        url: str,
        head: bytes,
        body: bytes,
        *,
        connect_s: float,
        silence_s: float,
        method: bytes = b"POST",
    ) -> Reply:
        """POST `body`, or what `method` says; `head` are header lines, but host and length.

        Raises:
            NotConnected, ConnectTimeout: if nobody is reached, or not within `connect_s`.
            OSError, TimeoutError: if no answer begins, or nothing comes for `silence_s`.
        """
        slash = url.find("/", url.find("://") + 3)
        origin = self._origin(url[:slash])
        request = b"".join(
            (
                method, b" ", url[slash:].encode("latin-1"), b" HTTP/1.1\r\n", origin.host_line,
                head, b"content-length: ", str(len(body)).encode(), b"\r\n\r\n", body,
            )
        )  # fmt: skip
        connection = self._kept(origin)
        if connection is not None:
            try:
                return await self._ask(connection, request, silence_s)
            except OSError:
                # Closed while it was idle, which says nothing of the worker: once more, on a new
                # one. A worker that has said anything, or taken its time, is not asked twice.
                if not connection.closed_unheard:
                    raise
        return await self._ask(await self._connect(origin, connect_s), request, silence_s)

    @staticmethod
    async def _ask(connection: _Connection, request: bytes, silence_s: float) -> Reply:
        asked = connection.request(request, silence_s)
        try:
            return await asked
        except asyncio.CancelledError:
            connection.leave(asked)
            raise

    def _origin(self, url: str) -> _Origin:
        found = self._origins.get(url)
        if found is None:
            found = self._origins[url] = _Origin(url)
        return found

    @staticmethod
    def _kept(origin: _Origin) -> _Connection | None:
        while origin.idle:
            connection = origin.idle.pop()  # the one used last: others may go unused, and close
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: _Origin, limit_s: float) -> _Connection:
        if origin.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        name = self._tls_names.get((origin.host, origin.port)) if origin.secure else None
        try:
            async with limited(limit_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(origin.idle, self._keep_alive_s),
                    origin.host,
                    origin.port,
                    ssl=self._tls if origin.secure else None,
                    server_hostname=name,
                )
        except TimeoutError as error:
            raise ConnectTimeout from error
        except OSError as error:
            raise NotConnected(error.errno, error.strerror or str(error)) from error
        return connection

    def close(self) -> None:
        """Close those that wait; others close as their requests end."""
        self._keep_alive_s = 0.0
        for origin in self._origins.values():
            while origin.idle:
                origin.idle.pop().abort()
