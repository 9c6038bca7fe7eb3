"""One request under way: what came in, and what has gone back to its client so far."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from router.gateway.accounting.keys import Reservation
from router.gateway.accounting.slo import Timing
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.forwarding.attempt import Attempt
from router.gateway.forwarding.continuation import Continuation, Diverged
from router.http.apis import COMPLETIONS, Api
from router.http.asgi import Receive, Send, respond, responder
from router.http.bodies import Held
from router.http.errors import Headers, RequestError, RouterError, WorkerFailed, shortened
from router.http.event_meter import EventMeter
from router.http.said import Beginning, no_answer
from router.http.schemas import CompletionRequest
from router.http.usage import MOST, JsonMeter, ResponseInfo, StreamMeter, Usage, said_in
from router.http.worker_reply import Reply
from router.observe.spans import TraceContext
from router.wire import MODEL, OVERHEAD_MS, PRIORITY, WHY, WORKER

log = logging.getLogger(__name__)

_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
LONGEST_ERROR = 16_384  # of what a worker says of one


class Ends(Protocol):
    """What goes on beside a request until it is ended."""

    def end(self) -> None:
        """No more of it."""
        ...


class Exchange:
    """A request and its response.

    Attributes:
        target: path and query string, for the worker as they came.
        held: what is held of its body.
        received, sent, first_byte, first_token: seconds on the monotonic clock; when it had come,
            when a worker was asked, when the response began, when a stream's first data came.
        why: whether its client wants to know why it went where it went.
        meter: counts its stream.
        kept_alive: its client has the head of a stream, and comments, but nothing of a worker's.
        streaming: server-sent events are coming, so that an error can be one more of them.
        failed: the worker itself has told the client, in its stream, that the request has failed.
        wrong: why what it has answered is none of its good answers, if that is so.
        trace_context: its place in a trace, if it has one; `attempts` and `response_info` are noted
            if it is recorded.
        usage, response_info: what its answer said, of tokens no more than `most`.
        unseen: output tokens that should have been made of an answer that does not stream, and
            whose client has left.
        out: where its response goes.
        continuation: by which another worker may go on with its stream, if one may.
        more: what its answer's head says besides, of the client's key.
        reservation: what it was let in with, of that key's tokens.
        blocks: hashes of its prompt's blocks.
        tell_priority: its client hears which priority its tier of service has become.
        through: that, if the answer that comes now passes through it.
        told: a worker's error, of which the client hears in the stream that it has begun to get.
        comments: its client gets them while it waits.
    """

    # What most have of it; each has its own of what is set at its begin.
    body = b""
    request: CompletionRequest | None = None
    sent: float | None = None
    first_byte: float | None = None
    first_token: float | None = None
    why = False
    meter: StreamMeter | EventMeter | JsonMeter | None = None
    kept_alive = False
    streaming = False
    failed = False
    wrong = ""
    trace_context: TraceContext | None = None
    attempts: tuple[Attempt, ...] = ()
    usage: Usage | None = None
    most = MOST
    unseen: int | None = None
    response_info: ResponseInfo | None = None
    continuation: Continuation | None = None
    more: Callable[[], Headers] | None = None
    reservation: Reservation | None = None
    blocks: Sequence[int] = ()
    tell_priority = False
    through: Continuation | None = None
    told: bytearray | None = None
    comments: Ends | None = None

    def __init__(
        self,
        send: Send,
        receive: Receive,
        record: RequestRecord,
        target: str,
        headers: Headers,
        held: Held,
        api: Api = COMPLETIONS,
    ) -> None:
        self.send, self.receive, self.record, self.target = send, receive, record, target
        self.headers, self.held, self.api = headers, held, api
        self.received, self.out = time.monotonic(), responder(send)

    @property
    def recorded(self) -> bool:
        """Whether its spans are wanted."""
        return self.trace_context is not None and self.trace_context.recorded

    @property
    def between_attempts(self) -> bool:
        """Whether it has left the last worker that it was sent to, for another."""
        return bool(self.attempts) and self.attempts[-1].ended_s is not None

    @property
    def answer_id(self) -> str | None:
        """What its answer calls itself, where it can be asked for by that."""
        if not self.api.kept or self.meter is None or isinstance(self.meter, StreamMeter):
            return None
        return self.meter.answer_id

    def end_attempt(self, why: str, *, failed: bool) -> None:
        """Its worker gives it up, and another is to be found."""
        if self.attempts:
            self.attempts[-1].end(why, failed=failed)

    def outgoing(self) -> str:
        """The header lines of its trace, for the worker that it is sent to now."""
        assert self.trace_context is not None
        last = self.attempts[-1].id if self.attempts else None
        own = self.trace_context.outgoing(last)
        return "".join(f"{name}: {value}\r\n" for name, value in own.items())

    def timing(self) -> Timing:
        """What is timed of it, up to now."""
        now = time.monotonic()
        return Timing(self.received, self.sent, self.first_byte, self.first_token, now)

    def made(self) -> int | None:
        """Output tokens that were made of an answer that broke off, as far as one can tell."""
        if self.record.output_tokens is not None:
            return None
        if not self.streaming or self.meter is None:
            return self.unseen
        return self._output(None)

    def _output(self, usage: Usage | None) -> int | None:
        """Output tokens, as the engine has told or as they came; no more than there can be."""
        assert self.meter is not None
        tokens = self.meter.tokens(usage)
        return tokens and min(tokens, self.most.completion_tokens)

    @property
    def may_go_on(self) -> bool:
        """Whether another worker may answer it: its client has nothing, or what can be said again.

        Not one of the workers' errors, which end a stream.
        """
        if self.first_byte is None:
            return True
        again = self.continuation
        return again is not None and again.possible and self.streaming

    def open(
        self, reply: Reply, worker: str, progress: Callable[[int], None]
    ) -> Callable[[bytes], None]:
        """What takes an answer as it comes, its head with the first bytes that say anything.

        Once all of it is there, and `close` has been called, the worker is free, whatever the
        client has read: `out.drain` waits for that. `progress` hears of its tokens.
        """
        if self.kept_alive and not (reply.status == 200 and reply.is_stream):
            self.told = bytearray()
            return self._take_error
        self.told, self.through = None, self._continued(reply)
        again = self.through
        self.streaming = reply.is_stream
        meter, out = self.api.meter() if reply.is_stream else JsonMeter(), self.out
        self.meter, beginning = meter, Beginning(stream=reply.is_stream)

        def pass_on(chunk: bytes) -> None:
            if self.first_byte is None:
                chunk = self._begin(reply, worker, beginning, chunk)
                if not chunk:
                    return
            events = meter.feed(chunk)
            if events and self.first_token is None:
                self.first_token, self.record.first_token_s = time.monotonic(), time.time()
            progress(events)
            out.write(chunk if again is None else again.feed(chunk))

        return pass_on

    def close(self, reply: Reply, worker: str) -> Usage | None:
        """All of it has come; what it says of tokens.

        Raises:
            WorkerFailed: if it has ended too soon.
        """
        if self.told is not None:
            self._refuse(reply, worker, bytes(self.told))
            return None
        meter, out = self.meter, self.out
        assert meter is not None
        if reply.status == 200:
            self._check_end(meter)
        elif self.first_byte is None:
            self._start(reply, worker)
        if self.through is not None:
            out.write(self.through.flush())
        out.end()
        usage = meter.usage()
        self.usage = usage and usage.within(self.most)
        if reply.status == 200:
            self._note_end(meter, self.usage)
        return self.usage

    def _take_error(self, chunk: bytes) -> None:
        assert self.told is not None
        if len(self.told) < LONGEST_ERROR:
            self.told.extend(chunk)

    def _refuse(self, reply: Reply, worker: str, told: bytes) -> None:
        """A worker's error for a client that has a stream's head already: its last event."""
        self._start(reply, worker)
        error = RequestError(said_in(told), status=reply.status)
        self.out.write(self.api.last_event(error, 0, self.record.id))
        self.out.end()

    def _continued(self, reply: Reply) -> Continuation | None:
        """Through what a stream passes that another worker may continue, or continues."""
        good = reply.status == 200 and reply.is_stream
        if self.first_byte is not None and not good:
            raise Diverged
        if not good or self.continuation is None:
            return None
        self.continuation.restart()
        return self.continuation

    def _begin(self, reply: Reply, worker: str, beginning: Beginning, chunk: bytes) -> bytes:
        """What of its body goes on, after its head; nothing, before that says anything."""
        if reply.status == 200:
            chunk = beginning.take(chunk)
            if not chunk:
                return chunk
            wrong = no_answer(chunk, stream=reply.is_stream)
            if wrong is not None:
                raise WorkerFailed(f"The worker has not answered: {wrong}.", wrong)
        self._start(reply, worker)
        return chunk

    def _note_end(self, meter: StreamMeter | EventMeter | JsonMeter, usage: Usage | None) -> None:
        """What has come of it in all, and whether that is an answer."""
        self.record.output_tokens = self._output(usage)
        self.response_info = meter.response_info() if self.recorded else None
        if self.failed:
            at_fault = not isinstance(meter, JsonMeter) and meter.at_fault
            self.wrong = "" if at_fault else "it ended an answer with an error"
        elif (usage is None or not usage.completion_tokens) and meter.says_nothing(usage):
            self.wrong = "it answered a request with nothing"

    def _check_end(self, meter: StreamMeter | EventMeter | JsonMeter) -> None:
        if self.first_byte is None:
            raise WorkerFailed("The worker ended its answer before it had begun.")
        if isinstance(meter, JsonMeter):
            return
        error = meter.error()
        self.record.error = None if error is None else shortened(error)
        self.failed = self.record.error is not None
        if not self.failed and not meter.finished:
            raise WorkerFailed("The worker ended its stream without saying that it was done.")

    def end_comments(self) -> None:
        """No more comments."""
        comments, self.comments = self.comments, None  # they know it: a circle is garbage
        if comments is not None:
            comments.end()

    def keep_alive(self) -> Awaitable[None] | None:
        """A comment, that nothing on the way takes a stream that waits for a dead connection.

        What is left to be awaited; None where the client is told already.
        """
        if not self.kept_alive:
            self.kept_alive = self.streaming = True
            self.record.status = 200
            more = [] if self.more is None else self.more()
            self.out.start(200, [*_STREAM, *self._meant(), *more])
        self.out.write(b": waiting\n\n")
        return self.out.drain() if self.out.paused else None

    def _start(self, reply: Reply, worker: str) -> None:
        """The response's head, with the gateway's own share of the time."""
        if self.kept_alive:
            self.first_byte, self.record.first_token_s = time.monotonic(), time.time()
            self.record.status = reply.status
            return
        sent = self.received if self.sent is None else self.sent
        own = self._meant()
        own.append((WORKER, worker.encode()))
        own.append((OVERHEAD_MS, b"%.3f" % ((sent - self.received) * 1000)))
        if self.why and self.record.choice is not None:
            own.append((WHY, self.record.choice.line().encode()))
        if self.more is not None:
            own += self.more()
        headers = reply.with_own(own)
        self.first_byte, self.record.first_token_s = time.monotonic(), time.time()
        self.record.status = reply.status
        self.out.start(reply.status, headers)

    def _meant(self) -> Headers:
        """What the request is called, and what it was taken for."""
        found = self.api.named(self.record.id)
        if self.record.alias is not None:
            found.append((MODEL, self.record.model.encode("utf-8", "replace")))
        if self.tell_priority:
            found.append((PRIORITY, self.record.priority.encode()))
        return found

    async def send_error(self, error: RouterError) -> None:
        """The error as a response, or at the end of one that has begun."""
        self.end_comments()
        self.record.error = str(error)
        if self.first_byte is None and not self.kept_alive:
            self.record.status = error.status
            headers = [*error.headers(), *self.api.named(self.record.id)]
            headers += [] if self.more is None else self.more()
            await respond(self.send, error.status, headers, self.api.error(error, self.record.id))
        elif self.streaming:
            number = 0 if self.meter is None else self.meter.sequence + 1
            self.out.write(self.api.last_event(error, number, self.record.id))
            self.out.end()
            await self.out.drain()
        else:
            log.warning("answer cut short", extra={"request": self.record.id})
            raise error  # the server closes the connection: half a JSON body is no answer
