"""Hundreds of answers and state lines that no worker should send, seeded: no gateway minds them."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest

from router.wire import STATE_PATH
from tests import http
from tests.e2e.test_hostile import ANSWER, GOOD, JSON, MOST_GROWTH_BYTES, NUMBERS, Gateway, damaged
from tests.router.gateway.fleet import state
from tests.waiting import PATIENCE_S, eventually

SERVERS, ANSWERS = 20, 20  # each server has a model of its own
AGENTS, LINES = 20, 12
STATUSES = (200, 200, 200, 200, 201, 204, 206, 302, 304, 400, 404, 418, 422, 501, 502, 507, 599)
# What may come of a request: an answer, an error of the worker's, or the gateway's word on it.
FINE = {*STATUSES, 503}
EVENT = b'data: {"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n'
TEXTS = ("", "x", "é" * 50, "\x00\x1b[2J", "a\r\nb: c", "x" * 4000, "�", "ERROR")


def odd(rng: random.Random) -> Any:  # noqa: ANN401
    return rng.choice([*NUMBERS, *TEXTS, None, True, [], {}, [[]] * 500, {"message": "x" * 9000}])


def content(rng: random.Random) -> bytes:
    """A completion that is wrong here and there, as JSON."""
    told: dict[str, Any] = json.loads(ANSWER) | {"id": "cmpl-1", "model": "m"}
    for where in rng.sample((told, told["usage"], told["choices"][0]), 2):
        where[rng.choice((*where, "error", "prompt_tokens_details", "finish_reason"))] = odd(rng)
    return json.dumps(told).encode()


def events(rng: random.Random) -> bytes:
    """A stream, or nearly."""
    parts = [EVENT, b": ping\n\n", b"data: [DONE]\n\n", b"\n", b"data:" * 500,
             b"event: x\ndata:\n\n", b'data: {"error": {"message": "a\\nERROR b"}}\n\n',
             b"data: " + b"[" * 20_000 + b"\n\n", b"data: " + content(rng) + b"\n\n",
             b"x" * 70_000, b"data: \xff\xfe\n\n"]  # fmt: skip
    return b"".join(rng.choices(parts, k=rng.randrange(1, 8))) + rng.choice((b"", parts[2]))


def fields(rng: random.Random) -> list[bytes]:
    """Header lines; what no client should get with its answer, too."""
    some = [b"x-a: " + rng.choice(TEXTS).encode("utf-8", "replace"), b"x-b: " + b"b" * 20_000,
            b"x-c: " + b"c" * 70_000, b"connection: close", b"connection: x-a, close",
            b"x: y\r\n z", b"set-cookie: a=b", b": empty", b"trailer: x", b"upgrade: h2c",
            b"x-makespan-worker: z",
            b"x-request-id: stolen", b"retry-after: 1", b"content-length: 3", b"no colon",
            b"content-encoding: gzip", b"location: http://10.0.0.1/" + b"l" * 900]  # fmt: skip
    return rng.sample(some, rng.randrange(4))


def answer(rng: random.Random) -> bytes:
    """An answer to a completion, as HTTP or nearly."""
    body = events(rng) if rng.random() < 0.5 else content(rng)
    kind = rng.choice((b"application/json", b"text/event-stream", b"text/html", b"\xff", b""))
    status = rng.choice(STATUSES) if rng.random() < 0.9 else rng.choice((0, 99, 101, 600, 99999))
    lines = [b"HTTP/1.1 %d %s" % (status, rng.choice((b"X", b"", b"\xff" * 9, b"y" * 5000)))]
    lines += [b"content-type: " + kind, *fields(rng)]
    framing = rng.randrange(5)
    if framing == 0:
        lines.append(b"content-length: %d" % (len(body) + rng.choice((0, 0, 5, -1))))
    elif framing == 1:
        lines.append(b"transfer-encoding: chunked")
        size = rng.choice((7, 1000, 100_000))
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        body = b"".join(b"%x;ext=%s\r\n%s\r\n" % (len(p), b"e" * 9, p) for p in pieces)
        body += rng.choice((b"0\r\n\r\n", b"0\r\nx-t: 1\r\n\r\n", b"", b"zz\r\n"))
    elif framing == 2:
        lines.append(b"content-length: " + rng.choice((b"-1", b"9" * 30, b"x", b"1, 1", b"")))
    early = rng.choice((b"", b"", b"100 Continue\r\n\r\n", b"103 E\r\na: b\r\n\r\n"))
    early = early and b"HTTP/1.1 " + early
    whole = early + b"\r\n".join(lines) + b"\r\n\r\n" + body
    kind_of_harm = rng.randrange(6)
    if kind_of_harm == 0:
        return damaged(rng, whole)
    return whole + (b"HTTP/1.1 200 OK\r\n\r\n" if kind_of_harm == 1 else b"")


def line(rng: random.Random, name: str) -> bytes:
    """An agent's word on itself that is wrong here and there."""
    told: dict[str, Any] = state(name).to_json() | {"model": name}
    for _ in range(rng.randrange(3)):
        told[rng.choice((*told, "new", "é" * 200))] = odd(rng)
    if rng.random() < 0.4:
        cost = told["cost_ms"] = dict(state(name).cost_ms)
        cost[rng.choice((*cost, "zeta", "x" * 3000))] = rng.choice(NUMBERS)
    text = json.dumps(told).encode()
    if rng.random() < 0.1:
        text = rng.choice(
            (b"[" * 50_000, b'{"a":' * 9000, b"x" * 200_000, b" ", b"null", text * 50)
        )
    return (damaged(rng, text) if rng.random() < 0.2 else text) + b"\n"


class Servers:
    """Plain servers that answer looks well and completions hostilely, and agents that never do."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.answered = self.told = 0
        self.open_ones: list[asyncio.Server] = []

    async def open(self) -> None:
        for k in range(SERVERS):
            await self._listen(partial(self._plain, random.Random(k), f"m{k}"))
        for k in range(AGENTS):
            await self._listen(partial(self._agent, random.Random(1000 + k), f"a{k}"))

    async def _listen(self, serve: Callable[..., Any]) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
                while await serve(reader, writer):
                    pass

        self.open_ones.append(await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 20))
        port = self.open_ones[-1].sockets[0].getsockname()[1]
        self.urls.append(f"http://127.0.0.1:{port}")

    async def _plain(
        self,
        rng: random.Random,
        model: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head.lower())
        await reader.readexactly(int(length[1]) if length else 0)
        if head.startswith(b"POST"):
            self.answered += 1
            writer.write(answer(rng))
            await writer.drain()
            return False
        body = json.dumps({"data": [{"id": model}]}).encode() if b"/v1/models" in head else b""
        status = b"200 OK" if body else b"404 No"
        first = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n" % status
        writer.write(first + b"content-length: %d\r\n\r\n" % len(body) + body)
        return True

    async def _agent(
        self,
        rng: random.Random,
        name: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"GET " + STATE_PATH.encode()):
            writer.write(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n")
        for _ in range(LINES):
            self.told += 1
            writer.write(line(rng, name))
            await writer.drain()
            await asyncio.sleep(0.01)
        return False


@contextmanager
def serving(servers: Servers) -> Iterator[None]:
    loop, made, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def run() -> None:
        await servers.open()
        made.set()
        await over.wait()
        for server in servers.open_ones:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert made.wait(PATIENCE_S)
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(PATIENCE_S)
        loop.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    made = Servers()
    with serving(made):
        yield made


def ask(gateway: Gateway, k: int, number: int) -> int:
    """What comes of one request to server k; 0: the answer broke off, as the worker's did."""
    body = {**GOOD, "model": f"m{k}", "stream": number % 2 == 0}
    with closing(HTTPConnection(*gateway.address, timeout=PATIENCE_S)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), JSON)
        try:
            answer = connection.getresponse()
            answer.read()
        except (HTTPException, ConnectionError):
            return 0
        name = answer.getheader("x-makespan-worker", "")
        assert name == "" or name.startswith("127.0.0.1:")
        return answer.status


def test_no_answer_and_no_state_does_harm(servers: Servers) -> None:
    flags = ("--retries", "0", "--wait-for-worker-s", "0")
    with Gateway(",".join(servers.urls), *flags) as gateway:

        def listed() -> bool:
            data = http.get(gateway.url + "/v1/models").json()["data"]
            return {f"m{k}" for k in range(SERVERS)} <= {one["id"] for one in data}

        eventually(listed)
        seen, before = set[int](), 0
        for turn in range(ANSWERS):
            with ThreadPoolExecutor(5) as pool:
                seen |= set(pool.map(partial(ask, gateway, number=turn), range(SERVERS)))
            before = before or gateway.rss_bytes()
        eventually(lambda: servers.told >= AGENTS * LINES)
        assert seen <= FINE | {0}, seen
        assert {200, 502, 422} <= seen
        assert servers.answered > 0.7 * SERVERS * ANSWERS
        assert gateway.rss_bytes() < before + MOST_GROWTH_BYTES
        for path in ("/metrics", "/makespan/v1/workers", "/v1/models", "/health"):
            assert http.get(gateway.url + path).status_code == 200
        wrong = [one for one in gateway.lines if re.search("Traceback|CRITICAL|^.{12} ERROR", one)]
        assert not wrong, "\n".join(gateway.lines[-60:])
        forged = [one for one in gateway.lines if not re.match(r"\d\d:\d\d:\d\d\.\d{3} ", one)]
        assert not forged, forged[:30]
        assert max(map(len, gateway.lines)) < 5000
