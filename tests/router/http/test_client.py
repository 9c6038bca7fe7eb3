"""The forwarding client against workers that answer in all ways of HTTP, and in some others."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import uvloop

from router.http import worker_connection
from router.http.asgi import Responder
from router.http.client import Awaited, Client, ConnectTimeout, NotConnected
from router.http.errors import Headers, WorkerFailed
from router.http.reply import HeadKind, ReplyHead, hop_by_hop
from router.http.worker_connection import MOST_HEAD_BYTES, Connection
from router.http.worker_reply import MOST_UNREAD_BYTES, Reply
from tests.waiting import PATIENCE_S, until

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
WHOLE = OK + b"content-length: 5\r\n\r\nhello"
CHUNKS = b"5\r\nhello\r\n1\r\n!\r\n0\r\n"
NEVER_S = 1e6
BIG = b"x" * (4 * MOST_UNREAD_BYTES)


class Out(Responder):
    """A client that takes what it gets; it does not keep up while `paused`."""

    def __init__(self) -> None:
        self.taken = bytearray()
        self.ready = asyncio.Event()

    def start(self, status: int, headers: Headers) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        self.taken += data

    def end(self) -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        await self.ready.wait()
        self.paused = False


@dataclass
class Worker:
    """A server that follows a script on each connection."""

    client: Client
    url: str = ""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def request(self, reader: asyncio.StreamReader) -> bool:
        """Read one; whether there was one."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
            return False
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        return True


@asynccontextmanager
async def serving(
    answer: bytes | list[bytes],
    *,
    close: bool = False,
    keep_alive_s: float = 30.0,
    requests: int = 10**6,
) -> AsyncIterator[Worker]:
    """Every request is answered so, in pieces that arrive one by one.

    After so many `requests` the next one finds its connection closed, without having been told.
    """
    worker, pieces = Worker(Client(keep_alive_s)), [answer] if isinstance(answer, bytes) else answer
    handlers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker.connections += 1
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            for k in range(10**6):
                if not await worker.request(reader) or k == requests:
                    break
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                if close:
                    break
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    worker.url = f"http://{host}:{port}"
    try:
        yield worker
    finally:
        worker.client.close()
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        for _ in range(5):  # transports are closed in turns of the loop
            await asyncio.sleep(0)


async def post(worker: Worker, silence_s: float = PATIENCE_S) -> tuple[int, bytes]:
    """One request, and all of its answer."""
    url, head = worker.url + "/v1/completions?a=b", b"x-a: b\r\n"
    reply = await worker.client.post(url, head, b"{}", connect_s=PATIENCE_S, silence_s=silence_s)
    out = Out()
    await reply.relay(out.write, out)
    return reply.status, bytes(out.taken)


ANSWERS: dict[str, tuple[bytes, bool, int, bytes]] = {
    # what is sent, whether the server closes then; status and body
    "a length": (WHOLE, False, 200, b"hello"),
    "chunks": (CHUNKED + CHUNKS + b"\r\n", False, 200, b"hello!"),
    "trailers": (
        CHUNKED + CHUNKS + b"x-content-length: 9\r\n\r\n",
        False, 200, b"hello!",
    ),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", False, 204, b""),
    "empty": (OK + b"content-length: 0\r\n\r\n", False, 200, b""),
    "early hints": (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + WHOLE, False, 200, b"hello"),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, False, 200, b"hello"),
    "until it closes": (OK + b"connection: close\r\n\r\nhello", True, 200, b"hello"),
    "a length, closing": (OK + b"connection: close\r\n" + WHOLE[len(OK) :], True, 200, b"hello"),
    "an old server": (b"HTTP/1.0 200 OK\r\n\r\nhello", True, 200, b"hello"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_an_answer_is_read_however_it_comes(name: str, size: int) -> None:
    async def play() -> None:
        answer, close, status, body = ANSWERS[name]
        pieces = [answer[k : k + size] for k in range(0, len(answer), size)]
        async with serving(pieces, close=close) as worker:
            for _ in range(3):
                assert await asyncio.wait_for(post(worker), PATIENCE_S) == (status, body)
            assert worker.connections == (3 if close else 1), "it is kept unless it is closed"
            head = b"POST /v1/completions?a=b HTTP/1.1\r\nhost: %b\r\nx-a: b\r\n"
            request = head % worker.url[7:].encode() + b"content-length: 2\r\n\r\n{}"
            assert worker.requests == [request] * 3

    asyncio.run(play())


@asynccontextmanager
async def reading(read: Callable[[asyncio.StreamReader], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that answers what `read` has read, until that is cancelled; its URL."""
    tasks = set[asyncio.Task[None] | None]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            while True:
                await read(reader)
                writer.write(WHOLE)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}/"
    finally:
        server.close()
        for task in filter(None, tasks):
            task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.mark.parametrize("kept", [False, True])
def test_who_takes_nothing_of_a_request_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr(worker_connection, "UNREAD_S", 0.05)
    asked = 0

    async def stuck(reader: asyncio.StreamReader) -> None:
        nonlocal asked
        asked += 1
        if asked > kept:
            await asyncio.sleep(NEVER_S)
        await reader.readuntil(b"{}")

    async def play() -> None:
        async with reading(stuck) as url:
            client = Client(NEVER_S)
            if kept:
                reply = await client.post(
                    url, b"", b"{}", connect_s=PATIENCE_S, silence_s=PATIENCE_S
                )
                await reply.relay(lambda _: None, Out())
            with pytest.raises(OSError, match="has taken nothing"):
                await client.post(
                    url, b"", b"x" * (32 << 20), connect_s=PATIENCE_S, silence_s=PATIENCE_S
                )
            assert asked == 1 + kept, "nor is it asked again"
            client.close()

    asyncio.run(play())


def test_who_takes_a_request_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_connection, "UNREAD_S", 0.5)

    async def slow(reader: asyncio.StreamReader) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(16):
            await reader.readexactly(1 << 20)
            await asyncio.sleep(0.05)

    async def play() -> None:
        async with reading(slow) as url:
            client = Client(NEVER_S)
            reply = await client.post(
                url, b"", b"x" * (16 << 20), connect_s=PATIENCE_S, silence_s=PATIENCE_S
            )
            assert reply.status == 200
            reply.close()
            client.close()

    asyncio.run(play())


LARGE = "a head without end"
BROKEN: dict[str, tuple[bytes, bool]] = {
    "closes at once": (b"", True),
    "a status of its own": (b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", False),
    "none of any status": (b"HTTP/1.1 000 \r\ncontent-length: 0\r\n\r\n", False),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", False),
    "closes within its head": (OK + b"content-le", True),
    LARGE: (OK + b"x-a: " + b"a" * 2 * MOST_HEAD_BYTES, False),
    "another protocol": (b"HTTP/1.1 101 No\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", True),
    "compressed on its way": (OK + b"transfer-encoding: gzip, chunked\r\n\r\n" + CHUNKS, False),
    "coded by two": (CHUNKED[:-2] + b"transfer-encoding: gzip\r\n\r\n" + CHUNKS + b"\r\n", False),
    "coded by nobody knows what": (OK + b"transfer-encoding: foo\r\n\r\nhello", True),
    "two lengths": (OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", False),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_answer_is_an_error_and_its_connection_is_not_kept(name: str) -> None:
    async def play() -> None:
        answer, close = BROKEN[name]
        async with serving(answer, close=close) as worker:
            for k in (1, 2):
                # Whoever has sent a large head has done the work, and is not to do it again.
                with pytest.raises(WorkerFailed if name == LARGE else OSError):
                    await asyncio.wait_for(post(worker), PATIENCE_S)
                assert worker.connections == k

    asyncio.run(play())


CUT: dict[str, bytes] = {
    "short of its length": OK + b"content-length: 50\r\n\r\nhello",
    "without a last chunk": CHUNKED + b"5\r\nhello\r\n",
    "a bad chunk": CHUNKED + b"5\r\nhello\r\nzzz\r\n",
}


@pytest.mark.parametrize("name", CUT)
def test_half_an_answer_is_passed_on_and_then_told(name: str) -> None:
    async def play() -> None:
        out = Out()
        async with serving(CUT[name], close=True) as worker:
            reply = await worker.client.post(
                worker.url + "/", b"", b"", connect_s=9.0, silence_s=9.0
            )
            with pytest.raises(WorkerFailed):
                await asyncio.wait_for(reply.relay(out.write, out), PATIENCE_S)
            assert out.taken == b"hello"

    asyncio.run(play())


ENDLESS: dict[str, bytes] = {
    "a trailer": CHUNKED + b"5\r\nhello\r\n0\r\nx: " + b"y" * 16 * MOST_HEAD_BYTES,
    "trailers": CHUNKED + b"5\r\nhello\r\n0\r\n" + b"x: y\r\n" * 3 * MOST_HEAD_BYTES,
    "the extension of a chunk": CHUNKED + b"5\r\nhello\r\n5;" + b"e" * 16 * MOST_HEAD_BYTES,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_framing_without_end_is_no_answer(name: str) -> None:
    async def play() -> None:
        out = Out()
        async with serving(ENDLESS[name]) as worker, asyncio.timeout(PATIENCE_S):
            with suppress(OSError):  # all of it may have come in one read
                reply = await worker.client.post(
                    worker.url + "/", b"", b"", connect_s=9.0, silence_s=NEVER_S
                )
                with pytest.raises(WorkerFailed):
                    await reply.relay(out.write, out)
            assert bytes(out.taken) in (b"", b"hello")
            await worker.gone.wait()

    asyncio.run(play())


async def test_more_than_was_asked_for_ends_the_connection() -> None:
    async with serving(WHOLE + WHOLE) as worker, asyncio.timeout(PATIENCE_S):
        with suppress(WorkerFailed):  # both may have come in one read
            await post(worker)
        await worker.gone.wait()


async def test_who_has_answered_unasked_is_asked_over_one_connection_a_request() -> None:
    """Its next late answer would be taken for that to the next request."""
    idled = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"
    for unasked, kept in ((WHOLE, False), (b"HTTP", False), (idled, True), (b"\r\n", True)):
        pieces = [WHOLE, b"", b"", unasked]
        async with serving(pieces) as worker, asyncio.timeout(PATIENCE_S):
            with suppress(WorkerFailed):
                await post(worker)
            await worker.gone.wait()
            pieces[:] = [WHOLE]
            for _ in range(3):
                assert await post(worker) == (200, b"hello")
            assert worker.connections == (2 if kept else 4), unasked


async def test_who_answers_only_when_asked_for_long_enough_is_trusted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_connection, "PROOF", 3)
    pieces = [WHOLE, b"", b"", WHOLE]
    async with serving(pieces, keep_alive_s=0.05) as worker, asyncio.timeout(PATIENCE_S):
        idle = worker.client._at(worker.url + "/")[0].idle

        async def prove(times: int) -> None:
            for _ in range(times):
                await post(worker)
                await until(lambda: idle.heard is None)

        async def err() -> None:
            pieces[:] = [WHOLE, b"", b"", WHOLE]
            with suppress(WorkerFailed):
                await post(worker)
            await until(lambda: idle.heard is None and not idle)
            pieces[:] = [WHOLE]

        await err()
        await prove(2)
        found = [idle.trusted]
        await err()  # all begins anew
        for times in (2, 1):
            await prove(times)
            found.append(idle.trusted)
        assert found == [False, False, True]
        before = worker.connections
        assert (await post(worker), len(idle), idle.heard) == ((200, b"hello"), 1, None)
        await err()
        assert (idle.trusted, worker.connections - before) == (False, 1)


async def test_one_connection_at_a_time_shows_whether_a_worker_answers_unasked() -> None:
    async with serving(WHOLE) as worker, asyncio.timeout(PATIENCE_S):
        idle = worker.client._at(worker.url + "/")[0].idle
        idle.distrust()
        heard = set[Connection | None]()
        for k in range(1, 4):
            assert await post(worker) == (200, b"hello")
            assert (worker.connections, len(idle)) == (k, 0)
            heard.add(idle.heard)
        assert len(heard - {None}) == len(heard) == 1
        worker.client.close()
        assert idle.heard is None


async def test_silence_ends_a_request_before_and_within_its_answer() -> None:
    async with serving(b"") as worker:
        with pytest.raises(TimeoutError):
            await post(worker, silence_s=0.05)
    async with serving(OK + b"content-length: 50\r\n\r\nhello") as worker:
        with pytest.raises(WorkerFailed):
            await post(worker, silence_s=0.05)
        await asyncio.wait_for(worker.gone.wait(), PATIENCE_S)


async def test_who_cannot_be_reached_is_an_error() -> None:
    async with serving(WHOLE) as worker:
        worker.url = "http://127.0.0.1:1"  # where nobody listens
        with pytest.raises(NotConnected):
            await post(worker)


async def test_an_idle_connection_is_closed_in_time_and_not_used_again() -> None:
    async with serving(WHOLE, keep_alive_s=0.05) as worker:
        await post(worker)
        await asyncio.wait_for(worker.gone.wait(), PATIENCE_S)
        await post(worker)
        assert worker.connections == 2


async def test_a_connection_that_was_closed_while_idle_is_replaced_without_a_word() -> None:
    async with serving(WHOLE, requests=1) as worker:
        for _ in range(3):
            await post(worker)
        assert worker.connections == 3
    async with serving(b"", close=True) as worker:  # who hangs up at once is not asked again
        with pytest.raises(OSError):  # noqa: PT011
            await post(worker)
        assert worker.connections == 1


async def test_who_lets_go_is_seen_by_the_worker() -> None:
    async with serving(OK + b"content-length: 50\r\n\r\nhello") as worker:
        reply = await worker.client.post(worker.url + "/", b"", b"", connect_s=9.0, silence_s=99.0)
        reply.close()
        await asyncio.wait_for(worker.gone.wait(), PATIENCE_S)
    async with serving(b"") as worker:
        asking = asyncio.create_task(post(worker))
        await until(lambda: bool(worker.requests))
        asking.cancel()
        await asyncio.wait_for(worker.gone.wait(), PATIENCE_S)


async def test_who_lets_go_as_its_answer_ends_leaves_the_connection_to_the_next() -> None:
    """Between the end of an answer and its reader's turn, somebody else may have been served."""
    async with serving(WHOLE) as worker:
        next_one: list[Awaited] = []

        class Idle(worker_connection.Idle):
            def append(self, connection: Connection) -> None:
                if next_one:
                    return super().append(connection)
                request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
                next_one.append(Awaited())
                connection.ask(request, PATIENCE_S, next_one[0])
                first.cancel()
                return None

        worker.client._at(worker.url + "/")[0].idle = Idle()
        first = asyncio.create_task(post(worker))
        with pytest.raises(asyncio.CancelledError):
            await first
        reply, out = await asyncio.wait_for(next_one[0].begun, PATIENCE_S), Out()
        await reply.relay(out.write, out)
        assert (bytes(out.taken), worker.connections) == (b"hello", 1)


class Refuser:
    """Wants no answer, whatever it is."""

    def __init__(self) -> None:
        self.told = 0

    def answered(self, reply: Reply) -> None:
        self.told += 1
        reply.close()

    def failed(self, error: Exception) -> None:
        raise AssertionError from error


async def test_an_answer_that_has_come_whole_costs_no_connection_though_nobody_wants_it() -> None:
    """One of which more would come does: its worker is to see it."""
    for answer, connections in ((WHOLE, 1), (WHOLE[:-1], 2)):
        await refuse(answer, connections)


async def refuse(answer: bytes, connections: int) -> None:
    now = [WHOLE]
    async with serving(now) as worker:
        await post(worker)
        now[0], refuser = answer, Refuser()
        url = worker.url + "/"
        assert worker.client.post_at_once(url, b"", b"", silence_s=PATIENCE_S, reader=refuser)
        await until(lambda: bool(refuser.told))
        now[0] = WHOLE
        assert await post(worker) == (200, b"hello")
        assert (refuser.told, worker.connections) == (1, connections)


async def test_a_slow_client_holds_the_worker_up_and_gets_it_all() -> None:
    head = OK + b"content-length: %d\r\n\r\n" % len(BIG)
    out = Out()
    async with serving([head, BIG]) as worker:
        reply = await worker.client.post(worker.url + "/", b"", b"", connect_s=9.0, silence_s=99.0)
        out.paused = True
        relaying = asyncio.create_task(reply.relay(out.write, out))
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert len(out.taken) < len(BIG), "it stopped taking from the network"
        out.ready.set()
        await asyncio.wait_for(relaying, PATIENCE_S)
        assert out.taken == BIG


async def test_a_defect_of_the_reader_is_its_own() -> None:
    def broken(_: bytes) -> None:
        raise ZeroDivisionError

    out = Out()
    async with serving([CHUNKED, CHUNKS + b"\r\n"]) as worker:
        reply = await worker.client.post(worker.url + "/", b"", b"", connect_s=9.0, silence_s=9.0)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(reply.relay(broken, out), PATIENCE_S)


NAMED: list[tuple[Headers, set[bytes]]] = [
    ([(b"connection", b"x-hop, close"), (b"x-hop", b"1"), (b"x-a", b"2")], {b"x-a"}),
    ([(b"connection", b"X-Hop"), (b"connection", b"x-a"), (b"x-hop", b"1"), (b"x-a", b"2")], set()),
    ([(b"connection", b"keep-alive"), (b"keep-alive", b"5"), (b"x-a", b"2")], {b"x-a"}),
    ([(b"upgrade", b"h2c"), (b"te", b"trailers"), (b"x-a", b"\xe9")], {b"x-a"}),
    ([(b"content-length", b"5"), (b"server", b"x")], {b"content-length"}),
]


@pytest.mark.parametrize(("headers", "kept"), NAMED)
def test_headers_that_connection_names_stay_behind(headers: Headers, kept: set[bytes]) -> None:
    assert {name for name, _ in head_of(200, headers).headers} == kept
    assert {name for name, _ in headers} - hop_by_hop(headers) == kept - {b"content-length"} | (
        {b"server"} & {name for name, _ in headers}
    )
    assert b"content-length" not in dict(head_of(304, headers).headers)


def head_of(status: int, headers: Headers) -> ReplyHead:
    return ReplyHead(HeadKind(status, headers), dict(headers).get(b"content-length"))


async def test_each_answer_on_a_connection_has_its_own_head() -> None:
    """Whatever the one before said: another status, other headers, another length, or none."""
    day = b"date: Mon, 30 Nov 2026 00:00:0%d GMT\r\n"
    heads = [
        OK + day % 1 + b"x-a: 1\r\ncontent-length: 2\r\n\r\nab",
        OK + day % 2 + b"x-a: 1\r\ncontent-length: 3\r\n\r\nabc",
        OK + b"x-a: 2\r\ncontent-length: 3\r\n\r\nabc",
        OK.replace(b"200", b"404") + b"x-a: 2\r\ncontent-length: 3\r\n\r\nabc",
        OK + b"x-a: 2\r\ncontent-type: text/event-stream\r\ncontent-length: 3\r\n\r\nabc",
        OK + b"x-a: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"x-a: 2\r\ncontent-length: 0\r\n\r\n",
        OK + b"x-a: 1\r\ncontent-length: 2\r\n\r\nab",
    ]
    now = [b""]
    async with serving(now) as worker:
        for head in heads:
            now[0], out = head, Out()
            reply = await worker.client.post(
                worker.url + "/", b"", b"", connect_s=PATIENCE_S, silence_s=PATIENCE_S
            )
            await reply.relay(out.write, out)
            told = dict(
                line.split(b": ") for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
            )
            assert reply.status == int(head[9:12])
            assert reply.is_stream == (b"event-stream" in head)
            for name in (b"date", b"transfer-encoding", *[b"content-length"] * reply.is_stream):
                told.pop(name, None)
            assert dict(reply.headers) == told
            own = [(b"x-a", b"3"), (b"x-own", b"4")]
            assert dict(reply.with_own(own)) == {**dict(reply.headers), **dict(own)}
        assert worker.connections == 1


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_time_in_which_the_process_stood_still_is_not_the_workers(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A connection that is there by the time one looks has come about, whatever the clock says."""

    async def one() -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(WHOLE)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        client = Client(keep_alive_s=NEVER_S)
        asking = asyncio.create_task(client.post(url, b"", b"", connect_s=0.01, silence_s=NEVER_S))
        await asyncio.sleep(0)  # it connects
        time.sleep(0.1)  # noqa: ASYNC251
        reply = await asking
        reply.close()
        client.close()
        server.close()
        await asyncio.sleep(0.01)  # what is closed has gone
        return reply.status

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(one()) == 200


async def test_a_host_that_takes_no_connection_is_given_up() -> None:
    with socket.socket() as listening, ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(2):  # its queue is full of those that it does not take
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            with suppress(BlockingIOError):
                other.connect(address)
        await asyncio.sleep(0.05)
        url, client = f"http://127.0.0.1:{address[1]}/", Client(keep_alive_s=NEVER_S)
        with pytest.raises(ConnectTimeout):
            await client.post(url, b"", b"", connect_s=0.05, silence_s=NEVER_S)
