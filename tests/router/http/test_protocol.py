"""Heads and bodies as no client should send them, and what becomes of their connections."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
import uvicorn

from router.http.asgi import (
    ClientDisconnected,
    DisconnectWatch,
    Receive,
    Scope,
    Send,
    read_body,
    respond,
)
from router.http.hosts import Hosts, hosts_of
from router.http.protocol import MOST_AHEAD, OWN_FILES, SLICE, bounded_protocol
from router.http.refusals import HEAD_BYTES, MOST_FIELDS
from tests.waiting import until

NEVER_S = 600.0
ANY = Hosts()
BODY = b'{"model":"m"}'
MUCH = b"x" * (3 << 20)  # less than a connection keeps, more than sockets do


@dataclass
class Echo:
    """Answers with the size of a body, ``/stream`` in parts, ``/wait`` once it is told to.

    ``/fields`` with the names of the fields that it has by then.
    ``/much`` answers with `MUCH`, ``/endless`` with that again and again until nobody is there.
    """

    seen: int = 0
    ended: int = 0
    left: int = 0
    connections: set[Any] = field(default_factory=set)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.seen += 1
        try:
            body = await read_body(scope, receive, 1 << 20)
        except ClientDisconnected:
            self.left += 1
            return None
        if scope["path"] == "/wait":
            await self.go.wait()
        if scope["path"] == "/fields":
            return await respond(send, 200, [], b" ".join(name for name, _ in scope["headers"]))
        if scope["path"] in ("/much", "/endless"):
            return await self._talk(receive, send, endless=scope["path"] == "/endless")
        if scope["path"] != "/stream":
            return await respond(send, 200, [], b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"first ", b"second"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return None

    async def _talk(self, receive: Receive, send: Send, *, endless: bool) -> None:
        try:
            with DisconnectWatch(receive, send):
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": MUCH, "more_body": True})
                while endless:
                    await send({"type": "http.response.body", "body": MUCH, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except ClientDisconnected:
            pass
        finally:
            self.ended += 1


@asynccontextmanager
async def server(
    client_timeout_s: float = NEVER_S, hosts: Hosts = ANY, keep_alive_s: int = 75
) -> AsyncIterator[tuple[Echo, int]]:
    echo = Echo()
    config = uvicorn.Config(
        echo,
        http=bounded_protocol(client_timeout_s, hosts),
        ws="none",
        lifespan="off",
        log_config=None,
        port=0,
        timeout_keep_alive=keep_alive_s,
    )
    served = uvicorn.Server(config)
    task = asyncio.create_task(served._serve())
    await until(lambda: served.started)
    echo.connections = served.server_state.connections
    try:
        yield echo, served.servers[0].sockets[0].getsockname()[1]
    finally:
        served.should_exit = served.force_exit = True
        await task


async def talk(port: int, *parts: bytes) -> bytes:
    """Everything that comes back until the connection ends; the client ends its own half last."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    answer = await reader.read()
    writer.close()
    return answer


def post(path: str = "/", body: bytes = BODY, *fields: bytes, version: bytes = b"1.1") -> bytes:
    first = b"POST %s HTTP/%s" % (path.encode(), version)
    length = b"content-length: %d" % len(body)
    return b"\r\n".join((first, b"host: x", length, *fields, b"", body))


def coded(by: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """A body in one chunk, of which its head says that."""
    head = b"POST / %s\r\nhost: x\r\ntransfer-encoding: %s\r\n%s\r\n\r\n" % (version, by, CLOSE)
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


CLOSE = b"connection: close"

# What each is answered with, by its first line and its last.
HEADS = {
    "just small enough": (post("/", BODY, b"x: " + b"a" * (HEAD_BYTES - 200), CLOSE), 200),
    "one large field": (post("/", BODY, b"x: " + b"a" * HEAD_BYTES, CLOSE), 431),
    "a field of megabytes": (b"GET / HTTP/1.1\r\nx: " + b"a" * (4 << 20), 431),
    "a long name": (b"GET / HTTP/1.1\r\n" + b"a" * (1 << 20), 431),
    "a long target": (b"GET /" + b"a" * (1 << 20), 431),
    "many fields": (post("/", BODY, *[b"a: b"] * (MOST_FIELDS + 1)), 431),
    "small fields without end": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000, 431),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a tunnel": (b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n", 400),
    "two lengths": (post("/", BODY, b"content-length: 5"), 400),
    "length and chunks": (post("/", BODY, b"transfer-encoding: chunked"), 400),
    "chunks": (coded(b"CHUNKED"), 200),
    "compressed, and chunks": (coded(b"gzip, chunked"), 400),
    "chunks twice": (coded(b"chunked, chunked"), 400),
    "chunks of an old client": (coded(b"chunked", b"HTTP/1.0"), 400),
    "a negative length": (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
    "a length of words": (b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n", 400),
    "a target beyond ASCII": (b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a zero byte": (b"GET / HTTP/1.1\r\nx: \x00\r\n\r\n", 400),
}


async def test_heads_are_bounded_and_refused_in_the_form_of_all_errors() -> None:
    async with server() as (_, port):
        for kind, (sent, status) in HEADS.items():
            answer = await talk(port, sent)
            assert answer.startswith(b"HTTP/1.1 %d " % status), (kind, answer[:200])
            if status != 200:
                head, _, body = answer.partition(b"\r\n\r\n")
                assert b"connection: close" in head, kind
                assert json.loads(body)["error"]["type"] == "invalid_request_error", kind


async def test_what_comes_after_a_request_takes_nothing_from_its_answer() -> None:
    """A body that is longer than it is said to be, for one: the rest is refused as what it is."""
    head, bodies = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n", b"x" * 10
    rests = (b"m" * 20, b"\x16\x03", b"GET / HTTP/1.1\r\nx: " + b"a" * HEAD_BYTES)
    async with server() as (echo, port):
        for path, times, rest in product((b"/", b"/stream", b"/wait"), (1, 3), rests):
            sent = [head % path + bodies] * times + [rest]
            for parts in (sent, [b"".join(sent)]):
                echo.go.clear()
                asyncio.get_running_loop().call_later(0.01, echo.go.set)
                answers = (await talk(port, *parts)).split(b"HTTP/1.1 ")[1:]
                assert [one[:3] for one in answers[:-1]] == [b"200"] * times
                assert answers[-1][:3] in (b"400", b"431")


CHUNKED = b"POST /fields HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nx-a: b\r\n"
LAST_CHUNK = b"\r\n1\r\na\r\n0\r\n"


async def test_what_comes_after_a_body_is_none_of_its_head() -> None:
    """A key or a tenant there would pass whoever looks at heads on the way."""
    late = b"authorization: Bearer k\r\nx-makespan-tenant: t\r\n\r\n"
    async with server() as (_, port):
        head, body = CHUNKED + CLOSE + b"\r\n", LAST_CHUNK + late
        for parts in ((head + body,), (head, body), (head, LAST_CHUNK, late)):
            answer = await talk(port, *parts)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert answer.endswith(b"\r\n\r\nhost transfer-encoding x-a connection"), answer


ASIDE = {
    "one large field": (LAST_CHUNK + b"x: " + b"a" * (4 << 20), 431),
    "small fields without end": (LAST_CHUNK + b"a: b\r\n" * 100_000, 431),
    "an extension of megabytes": (b"\r\n1;" + b"a" * (4 << 20), 431),
    "little of each": (
        b"\r\n" + b"1;%b\r\na\r\n" % (b"e" * 30_000) * 9 + b"0\r\na: b\r\n\r\n",
        200,
    ),
}


async def test_what_is_neither_head_nor_body_is_bounded() -> None:
    async with server() as (_, port):
        for kind, (sent, status) in ASIDE.items():
            answer = await talk(port, CHUNKED + CLOSE + b"\r\n" + sent)
            assert answer.startswith(b"HTTP/1.1 %d " % status), (kind, answer[:200])


async def test_whatever_is_half_sent_ends_in_time_and_reaches_nobody() -> None:
    whole = post()
    cuts = {"nothing at all": b"\r\n", **{f"{n} bytes": whole[:n] for n in (1, 9, 30)}}
    bodies = {
        "no body": whole[: -len(BODY)],
        "half a body": whole[:-3],
        "half a chunk": b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc",
    }
    async with server(client_timeout_s=0.2) as (echo, port):
        answers = await asyncio.gather(*(talk(port, cut) for cut in (cuts | bodies).values()))
        for kind, answer in zip(cuts | bodies, answers, strict=True):
            assert answer.startswith(b"HTTP/1.1 408 "), (kind, answer)
        await until(lambda: echo.left == len(bodies))
        assert echo.seen == len(bodies)


UPGRADES = {
    "h2c": (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAA"),
    "websocket": (b"connection: upgrade", b"upgrade: websocket"),
    "something else": (b"Connection: keep-alive, Upgrade", b"UPGRADE: TLS/1.0"),
}


async def test_an_upgrade_is_ignored_and_the_body_read() -> None:
    async with server() as (_, port):
        for kind, fields in UPGRADES.items():
            for body in (BODY, b"", b"x" * 100_000):
                asked = post("/", body, *fields)
                chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
                framed = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n"
                framed += b"\r\n".join((*fields, b"", chunked))
                get = b"\r\n".join((b"GET / HTTP/1.1", *fields, b"", b""))
                last = post("/", b"abc", CLOSE)
                for sent in ((asked + framed + get + last,), (asked[:-1], asked[-1:], last)):
                    answer = await talk(port, *sent)
                    found = [
                        int(part)
                        for part in answer.split(b"\r\n\r\n")[1:]
                        for part in [part.partition(b"HTTP/")[0]]
                        if part
                    ]
                    wanted = [len(body), len(body), 0, 3] if len(sent) == 1 else [len(body), 3]
                    assert found == wanted, (kind, len(body), answer[-300:])


async def test_http_1_0_gets_the_bytes_and_then_the_end() -> None:
    async with server() as (_, port):
        answer = await talk(port, post("/stream", BODY, version=b"1.0"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body == b"first second"
        known = await talk(port, post("/", BODY, b"connection: keep-alive", version=b"1.0"))
        assert b"content-length: 2" in known
        assert known.endswith(b"\r\n\r\n13")


async def test_what_is_sent_ahead_waits_for_its_answers_and_gets_them() -> None:
    """Thousands of requests at once, and no answer read: few of them are taken in."""
    many = 1500
    async with server() as (echo, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post("/wait"))
        await until(lambda: echo.seen == 1)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * (many - 1))
        writer.write(post("/", b"", CLOSE))
        (connection,) = echo.connections
        await until(lambda: len(connection.pipeline) > 0)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert echo.seen == 1
        assert len(connection.pipeline) <= MOST_AHEAD + SLICE // 18
        echo.go.set()
        answer = await reader.read()
        writer.close()
        assert answer.count(b"HTTP/1.1 200 ") == many + 1
        assert many > SLICE // 18 + MOST_AHEAD


HOSTS = {
    b"127.0.0.1": True, b"127.0.0.1:8000": True, b"[::1]:8000": True, b"[::1]": True, b"": True,
    b"localhost": True, b"LocalHost:8000": True, b"localhost.": True, b"10.0.0.5:80": True,
    b"workers": True, b"mine.example:8000": True, b"MINE.example": True,
    b"evil.example": False, b"evil.example:8000": False, b"localhost.evil.example": False,
    b"127.0.0.1.evil.example": False, b"mine.example.evil": False, b"\xff": False,
}  # fmt: skip


async def test_only_this_machine_and_allowed_names_are_served() -> None:
    async with server(hosts=Hosts(["mine.example"], restricted=True)) as (_, port):
        for host, let_in in HOSTS.items():
            for _ in range(2):
                asked = b"GET / HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % host
                answer = await talk(port, asked)
                assert answer.startswith(b"HTTP/1.1 200 " if let_in else b"HTTP/1.1 403 "), host
        answer = await talk(port, b"GET / HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_request_has_one_host() -> None:
    for restricted, version in product((True, False), (b"1.0", b"1.1")):
        async with server(hosts=Hosts(restricted=restricted)) as (_, port):
            for hosts in ((b"a", b"a"), (b"127.0.0.1", b"evil.example"), (b"", b"a")):
                asked = b"GET / HTTP/%s\r\nhost: %s\r\nHost: %s\r\n\r\n" % (version, *hosts)
                assert (await talk(port, asked)).startswith(b"HTTP/1.1 400 ")


def test_where_other_machines_connect_any_name_will_do_unless_some_are_named() -> None:
    evil = [(b"host", b"evil.example")]
    for address, allowed, let_in in (
        ("127.0.0.1", [], False),
        ("127.0.0.1", ["*"], True),
        ("0.0.0.0", [], True),
        ("0.0.0.0", ["mine.example"], False),
    ):
        with socket.socket() as sock:
            sock.bind((address, 0))
            assert hosts_of(sock, allowed).allows(evil) is let_in


async def test_clients_leave_files_for_workers_and_who_is_idle_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (OWN_FILES + 8,) * 2)
    async with server() as (echo, port):
        first = await asyncio.open_connection("127.0.0.1", port)
        first[1].write(post("/wait", BODY))
        await until(lambda: any(one.cycle is not None for one in echo.connections))
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        await until(lambda: len(echo.connections) == 6)
        assert (await talk(port, post("/", BODY, CLOSE))).startswith(b"HTTP/1.1 200 ")
        assert len(echo.connections) <= 6
        echo.go.set()
        assert (await first[0].readline()).startswith(b"HTTP/1.1 200 ")
        for _, writer in (first, *idle):
            writer.transport.abort()


async def test_where_nobody_is_idle_who_comes_is_not_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (OWN_FILES + 4,) * 2)
    async with server() as (echo, port):
        busy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in busy:
            writer.write(post("/wait", BODY))
        await until(lambda: sum(one.cycle is not None for one in echo.connections) == 3)
        assert await talk(port) == b""
        echo.go.set()
        for reader, writer in busy:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.transport.abort()


async def test_what_was_sent_before_the_server_goes_is_answered() -> None:
    for before in (False, True):
        async with server() as (echo, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if before:  # an idle connection, as clients keep them
                writer.write(post())
                await reader.readuntil(b"\r\n\r\n%d" % len(BODY))
            await until(lambda: len(echo.connections) == 1)
            writer.write(post())
            for one in list(echo.connections):
                one.shutdown()
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            assert echo.seen == 1 + before
            writer.close()


async def test_who_is_idle_is_let_go_when_the_server_goes() -> None:
    async with server() as (echo, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: len(echo.connections) == 1)
        next(iter(echo.connections)).shutdown()
        assert await reader.read() == b""
        writer.close()
