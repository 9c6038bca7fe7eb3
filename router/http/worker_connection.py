"""One connection to a worker: a request at a time, and its answer as it arrives.

Rules:
- it goes back for reuse only when its answer has ended, said nothing against it, and left nothing
  behind it;
- a second answer that is late enough is taken for that to the next request, and nobody can tell: a
  worker that has sent what nobody asked for is asked over one connection a request, until `PROOF`
  of these, listened to one after the other for as long as they would have been kept, have brought
  nothing more. A 408 is no such answer: some servers close so what is idle;
- an answer whose framing is not known for sure is none: of transfer codings it knows ``chunked``;
- who takes nothing of a request for `UNREAD_S` is no longer waited for;
- a reader that cannot keep up stops the worker's sending (TCP's own flow control), so that a slow
  client costs no memory;
- who lets go of an answer before its end closes the connection, so that the worker sees it.

HTTP is parsed by `httptools`, as by the server; heads that come again are known.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import NoReturn, Protocol, cast

import httptools

from router.http.errors import Headers, WorkerFailed
from router.http.known_head import KnownAnswers
from router.http.reply import HeadKind
from router.http.worker_reply import Reply

log = logging.getLogger(__name__)

# A head beyond this is none: answers of engines have a few hundred bytes. Nor is as much that says
# nothing, in the extensions of chunks or in trailers.
MOST_HEAD_BYTES = 65_536
LEAST_STATUS, LARGEST_STATUS = 100, 599
# A server that is busy with others' prompts reads on within seconds; what it has not read yet is
# in its kernel's buffers and ours.
UNREAD_S = 15.0
# A minute of silence and more, with keep-alive of four seconds; and who errs again after as many
# requests as can be sent meanwhile, begins anew.
PROOF = 16
_IDLED = (b"HTTP/1.1 408", b"HTTP/1.0 408")


class _LargeHead(WorkerFailed):
    """It has answered, with a head that nobody could pass on."""

    def __init__(self) -> None:
        super().__init__(f"The head of the worker's answer is over {MOST_HEAD_BYTES} bytes.")


class BadAnswer(OSError):
    """What came is no answer to the request, or not all of one."""


class Idle(deque["Connection"]):
    """Connections to one worker that wait for a request.

    Attributes:
        trusted: they may carry another.
        heard: the one that is listened to while it is not.
    """

    trusted = True
    heard: Connection | None = None
    _silent = 0

    def distrust(self) -> None:
        """It has sent what nobody asked for, and may do so again."""
        if self.trusted:
            log.warning("a worker answers without being asked: no connection to it is kept")
        self.trusted, self._silent = False, 0
        self.close()

    def close(self) -> None:
        """Those that wait, and the one that is listened to."""
        while self:
            self.pop().abort()
        if self.heard is not None:
            self.heard.abort()

    def was_silent(self) -> None:
        """Nothing came over the one that was listened to, in all its time."""
        self._silent += 1
        if self._silent >= PROOF and not self.trusted:
            log.info("a worker answers only when asked: connections to it are kept again")
            self.trusted = True


class Reader(Protocol):
    """Whoever has sent a request."""

    def answered(self, reply: Reply) -> None:
        """Its answer has begun."""
        ...

    def failed(self, error: Exception) -> None:
        """None begins."""
        ...


class Connection(asyncio.Protocol):
    """One connection to a worker; `idle` is where it waits for its next request.

    `answers` is what is known of that worker's.
    """

    def __init__(self, idle: Idle, keep_alive_s: float, answers: KnownAnswers) -> None:
        self._idle, self._keep_alive_s, self._answers = idle, keep_alive_s, answers
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None  # until the answer's beginning
        self._asked: Reader | None = None  # and to its end
        self._reply: Reply | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = self._limit_s = self._heard_s = self._asked_s = 0.0
        self._paused = self._reusable = False
        self._new_head()

    def _new_head(self) -> None:
        self._headers: Headers = []
        self._length: bytes | None = None
        self._body: list[bytes] = []
        self._bare_bytes, self._in_head, self._complete, self._framed = 0, True, False, False

    @property
    def usable(self) -> bool:
        """Whether it may carry another request: who closes second meets a reset."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        return self._loop.time() - self._heard_s < self._keep_alive_s

    @property
    def closed_unheard(self) -> bool:
        """Whether it was closed with nothing said since its last request."""
        return self._transport is None and self._heard_s <= self._asked_s

    def ask(self, data: bytes, silence_s: float, reader: Reader) -> None:
        """Send a request; the reader is told of its answer, or what went wrong before it."""
        assert self._transport is not None
        self._reader = self._asked = reader
        self._watch(silence_s)
        self._asked_s = self._heard_s
        self._transport.write(data)
        if (left := self._transport.get_write_buffer_size()) > 0:
            self._loop.call_later(UNREAD_S, self._check_taken, reader, left)

    def _check_taken(self, reader: Reader, left: int) -> None:
        """Whether the worker has taken some of a request of which there were `left` bytes left."""
        if self._reader is not reader or self._transport is None:
            return
        now_left = self._transport.get_write_buffer_size()
        if now_left >= left:
            self._heard_s = self._loop.time()  # a fresh connection would do no better
            self._fail(BadAnswer(f"it has taken nothing of its request for {UNREAD_S:g} s"))
        elif now_left:
            self._loop.call_later(UNREAD_S, self._check_taken, reader, now_left)

    def leave(self, reader: Reader) -> None:
        """Who asked wants no answer; the connection may have gone on to the next request."""
        if self._asked is reader:
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
        elif self._reader is not None or self._reply is not None:
            self._fail(TimeoutError(f"nothing came for {self._limit_s:g} s"))
        else:
            if self is self._idle.heard:
                self._idle.was_silent()
            self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not say that it is one
        self._heard_s = self._loop.time()

    def connection_lost(self, error: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = None
        del self._parser  # it knows its connection: a circle is garbage
        if self._reply is not None and not self._framed and error is None:
            self._end()  # an answer of unknown length ends with its connection
        else:
            self._fail(error or BadAnswer("it closed the connection without an answer"))

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        self._heard_s = self._loop.time()
        begins = self._reader is not None and not self._bare_bytes
        found = self._answers.find(data) if begins else None
        if found is not None:
            self._take_known(*found)
            return
        self._bare_bytes += len(data)
        try:
            if self._reader is None and self._reply is None:
                self._refuse(data)
            self._parser.feed_data(data)
            if begins and self._complete:
                self._know(data)
            if self._body:
                self._bare_bytes = 0
            elif self._bare_bytes > MOST_HEAD_BYTES:
                raise _LargeHead if self._in_head else BadAnswer("its answer has endless framing")
        except _LargeHead as error:
            self._fail(error)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, OSError) as error:
            self._reusable = False
            self._pass_on()  # what came before it
            if not isinstance(error, OSError):
                own = error.__context__  # raised by one of the parser's callbacks
                why = own if isinstance(own, BadAnswer) else error
                error = BadAnswer(f"what it answers is no HTTP: {why}")
            self._fail(error)
        else:
            self._pass_on()

    def _refuse(self, data: bytes) -> NoReturn:
        """Nobody has asked for it."""
        if data.strip() and not data.startswith(_IDLED):
            self._idle.distrust()
        raise BadAnswer("it sent what nobody asked for")

    def _take_known(self, kind: HeadKind, body: bytes) -> None:
        """All of an answer, whose head has come before."""
        self._in_head, self._reusable, self._framed, self._complete = False, True, True, True
        self._reply = Reply(self, kind, b"%d" % len(body))
        self._body = [body] if body else []
        self._pass_on()

    def _know(self, data: bytes) -> None:
        """All of an answer has come in one read: what its head says is to be known."""
        kind = self._answers.kind
        by_length = self._reusable and self._length is not None
        if by_length and kind is not None and not kind.ends_itself:
            self._answers.note(data, sum(map(len, self._body)), self._headers, kind)

    def _pass_on(self) -> None:
        reply, reader = self._reply, self._reader
        if reply is not None and reader is not None:
            self._reader = None
            reader.answered(reply)
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
            self._idle.distrust()
            raise BadAnswer("it sent more than its answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Part of `httptools`; trailers, which come after the body, are of no use to anybody."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"content-length":
            self._length = value
        elif name != b"date":  # no two heads would be of one kind, and nobody hears of it
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Part of `httptools`."""
        status = self._parser.get_status_code()
        if not LEAST_STATUS <= status <= LARGEST_STATUS:
            raise BadAnswer(f"the answer's status is {status}")
        if status < 200:  # says that the answer is yet to come
            self._headers, self._length = [], None
            return
        self._in_head, self._reusable = False, self._parser.should_keep_alive()
        kind = self._answers.kind
        if kind is None or not kind.is_of(status, self._headers):
            codings = [value for name, value in self._headers if name == b"transfer-encoding"]
            if codings and [value.strip().lower() for value in codings] != [b"chunked"]:
                raise BadAnswer("it is coded by something else than 'chunked'")
            kind = self._answers.kind = HeadKind(status, self._headers)
        self._framed = self._length is not None or kind.ends_itself
        self._reply = Reply(self, kind, self._length)

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
        if self._paused:
            self.resume()
        idle = self._idle
        kept = good and (idle.trusted or idle.heard is None)
        if kept and transport is not None and not transport.is_closing():
            self._watch(self._keep_alive_s)
            if idle.trusted:
                idle.append(self)
            else:
                idle.heard = self
        else:
            self.abort()
        reply.end()

    def _fail(self, error: Exception) -> None:
        reader, self._reader = self._reader, None
        reply, self._reply = self._reply, None
        self.abort()
        if reader is not None:
            reader.failed(error)
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

    def drop(self) -> None:
        """Nobody wants its answer; one that has come whole is none that would have to end."""
        if not self._complete:
            self.abort()

    def abort(self) -> None:
        """Close it, whatever it is doing."""
        self._stop()
        self._reply = self._reader = self._asked = None
        if self._transport is not None:
            self._transport.abort()

    def _stop(self) -> None:
        """It is of no more use to anybody."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self is self._idle.heard:
            self._idle.heard = None
        elif self in self._idle:
            self._idle.remove(self)
