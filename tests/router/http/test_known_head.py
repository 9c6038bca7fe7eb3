"""A head that comes again is not parsed again, and nobody can tell, whatever else comes."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from router.http.asgi import Receive, Scope, Send, read_body, respond
from router.http.hosts import Hosts
from router.http.known_head import MOST_NEW, NEW_EVERY, KnownAnswers
from router.http.protocol import BoundedProtocol, bounded_protocol
from router.http.worker_connection import Connection, Idle
from router.http.worker_reply import Reply

ORDERS = 1500


class Echo:
    """Answers a hot route with what it was asked, but for the length of the body."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(hot={b"/hot": self})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, 1 << 20)
        said = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        told = repr((scope["path"], scope["query_string"], said, body)).encode()
        await respond(send, 200, [], told)


class Written(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.closed = b"", False

    def write(self, data: Any) -> None:  # noqa: ANN401
        self.text += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def connected(kind: Any = None) -> tuple[BoundedProtocol, Written]:  # noqa: ANN401
    """A connection to a server of this kind, or to one of its own."""
    http = kind or bounded_protocol(60.0, Hosts())
    config = uvicorn.Config(Echo(), http=http, log_config=None)
    config.load()
    made: Any = config.http_protocol_class
    protocol = made(config=config, server_state=ServerState(), app_state={})
    transport = Written()
    protocol.connection_made(transport)
    return protocol, transport


async def ask(protocol: BoundedProtocol, transport: Written, *parts: bytes) -> tuple[bytes, bool]:
    """What is answered, and whether the connection has ended."""
    transport.text = b""
    for part in parts:
        if not transport.closed:
            protocol.data_received(part)
    for _ in range(12):
        await asyncio.sleep(0)
    return transport.text, transport.closed


def end(protocol: BoundedProtocol) -> None:
    protocol.connection_lost(None)


def post(body: bytes, *fields: bytes, path: bytes = b"/hot") -> bytes:
    lines = (b"POST %b HTTP/1.1" % path, b"Host: x", *fields, b"Content-Length: %d" % len(body))
    return b"\r\n".join((*lines, b"X-Last: one", b"", body))


class Parsed:
    """Counts what goes to the parser."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self.bytes, self._parser = 0, protocol.parser

    def feed_data(self, data: bytes) -> None:
        self.bytes += len(data)
        self._parser.feed_data(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._parser, name)


async def test_the_same_head_with_any_body_is_parsed_no_more() -> None:
    protocol, transport = connected()
    for body in (b"one", b"another"):
        await ask(protocol, transport, post(body, b"Connection: keep-alive"))
    counted = Parsed(protocol)
    protocol.parser = counted  # type: ignore[assignment]
    for body in (b"{}", b"x" * 12, b"y" * 200_000, b""):
        answer, _ = await ask(protocol, transport, post(body, b"Connection: keep-alive"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert repr(body).encode() in answer
    assert not counted.bytes
    end(protocol)


async def test_a_head_is_known_on_new_connections_too() -> None:
    first, transport = connected()
    for _ in range(2):
        await ask(first, transport, post(b"{}"))
    another, transport = connected(type(first))
    counted = Parsed(another)
    another.parser = counted  # type: ignore[assignment]
    known, _ = await ask(another, transport, post(b"[1]"))
    parsed = counted.bytes
    answer, _ = await ask(another, transport, post(b"[2]", b"x-other: 1"))
    assert b"[1]" in known
    assert b"[2]" in answer
    assert (parsed, counted.bytes) == (0, len(post(b"[2]", b"x-other: 1")))
    for one in (first, another):
        end(one)


async def test_whoever_sends_another_head_each_time_is_not_looked_at_for_long() -> None:
    protocol, transport = connected()
    for i in range(2 * MOST_NEW):
        answer, _ = await ask(protocol, transport, post(b"{}", b"x-request-id: %d" % i))
        assert b"b'%d'" % i in answer
    known = protocol._known
    await ask(protocol, transport, post(b"{}", b"x-request-id: again"))
    assert protocol._known is known
    end(protocol)


def spoilt(text: bytes, dice: random.Random) -> list[bytes]:
    """A request with something changed, cut, doubled or put in, in one part or in two."""
    at, upto = sorted(dice.sample(range(len(text) + 1), 2))
    bits = (b"\r\n", b"\n", b" ", b"0", b"1", b":", b"\r\n\r\n", b"content-length: 3\r\n", b"\x00")
    kind = dice.randrange(6)
    if kind == 0:
        text = text[:at] + text[upto:]
    elif kind == 1:
        text = text[:at] + dice.choice(bits) + text[at:]
    elif kind == 2:
        text = text[:at] + bytes((dice.randrange(256),)) + text[at + 1 :]
    elif kind == 3:
        text += text[at:]
    elif kind == 4:
        return [text[:at], text[at:]]
    return [text]


async def test_whatever_comes_is_taken_as_by_who_knows_no_head() -> None:
    """Seeded: each on a connection that has had its like, and on one that parses everything."""
    dice, answered = random.Random(7), 0
    for _ in range(ORDERS):
        fields = dice.choice(((), (b"X: y",), (b"Transfer-Encoding: chunked",), (b"Expect: no",)))
        like = post(b"z" * dice.choice((1, 3, 12)), *fields, path=dice.choice((b"/hot", b"/hot?a")))
        asked = spoilt(post(b"0123456789"[: dice.randrange(11)], *fields), dice)
        found, fresh = [], dice.random() < 0.5
        for knows in (True, False):
            protocol, transport = connected()
            for _ in range(3):
                await ask(protocol, transport, like)
            if fresh:  # another connection, to the same server
                end(protocol)
                protocol, transport = connected(type(protocol))
            if not knows:
                protocol._known = None
            found.append(await ask(protocol, transport, *asked, post(b"after")))
            end(protocol)
        assert found[0] == found[1], (like, asked)
        answered += found[0][0].count(b"HTTP/1.1 200 ")
    assert answered > ORDERS / 2  # and not all was refused


class Heard:
    """All that a worker's connection tells of one answer."""

    paused = False

    def __init__(self) -> None:
        self.told: list[object] = []

    def answered(self, reply: Reply) -> None:
        self.told += [reply.status, reply.headers, reply.is_stream]
        self.reply = reply
        reply.attach(self.told.append, self, self.end)  # type: ignore[arg-type]

    def failed(self, error: Exception) -> None:
        self.told.append(repr(error))

    def end(self) -> None:
        self.told += ["over", repr(self.reply._failure)]


class ToWorker:
    """Connections to one worker, one after the other as they end."""

    def __init__(self) -> None:
        self.idle = Idle()
        self.answers = KnownAnswers()

    def hear(self, *parts: bytes) -> list[object]:
        """What is told of an answer that comes in such parts."""
        if not self.idle:
            fresh = Connection(self.idle, 60.0, self.answers)
            fresh.connection_made(Written())
            self.idle.append(fresh)
        connection, heard = self.idle.pop(), Heard()
        connection.ask(b"?", 60.0, heard)
        for part in parts:
            connection.data_received(part)
        told = [*heard.told, connection in self.idle]
        if connection not in self.idle:
            connection.abort()
        return told


def good(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    lines = (b"HTTP/1.1 " + status, *fields, b"Content-Length: %d" % len(body))
    return b"\r\n".join((*lines, b"Server: one", b"", body))


async def test_a_worker_that_answers_alike_is_parsed_no_more() -> None:
    worker, dated = ToWorker(), good(b"{}", b"Date: now")
    for text in (good(b"{}"), good(b"[1]"), dated, dated.replace(b"now", b"one second later")):
        worker.hear(text)
        before = worker.hear(text)
        with_none = ToWorker().hear(text)
        connection = worker.idle[-1]
        del connection._parser  # nobody asks it
        assert worker.hear(text) == before == with_none
        worker.idle.clear()


async def test_answers_of_other_heads_each_are_kept_no_longer() -> None:
    worker = ToWorker()
    kept = set()
    for i in range(4 * NEW_EVERY):
        worker.hear(good(b"{}", b"x-request-id: %d" % i))
        kept.add(id(worker.answers._known))
    assert len(kept) <= 4


async def test_a_worker_is_heard_as_by_who_knows_no_head() -> None:
    """Seeded, likewise: the same is told, and the connection is as good as then."""
    dice, whole = random.Random(11), 0
    for _ in range(ORDERS):
        fields = dice.choice(((), (b"X: y",), (b"Connection: close",), (b"Retry-After: 1",)))
        status = dice.choice((b"200 OK", b"503 Full", b"204 None"))
        like = good(b"z" * dice.choice((0, 1, 3, 12)), *fields, status=status)
        said = spoilt(good(b"0123456789"[: dice.randrange(11)], *fields, status=status), dice)
        worker = ToWorker()
        for _ in range(3):
            worker.hear(like)
        worker.idle.trusted = True  # a body behind a 204 has been the end of that
        told = worker.hear(*said)
        assert told == ToWorker().hear(*said), (like, said)
        whole += told[-1] is True
    assert whole > ORDERS / 5
