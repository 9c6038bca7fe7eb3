"""Thousands of requests that no client should send, seeded: none does a gateway any harm."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import http
from tests.helpers import Process
from tests.waiting import PATIENCE_S, eventually

BODIES, HEADS, CLIENTS = 3000, 500, 10
# What may come of a request: an answer, or a word on what is wrong with it.
FINE = {200, 204, 400, 403, 404, 405, 408, 413, 415, 431, 503, 504}
MOST_GROWTH_BYTES = 64 << 20
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
ANSWER = b'{"choices":[{"index":0,"text":"a"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
JSON = {"content-type": "application/json"}
GOOD = {"model": "m", "prompt": "hi", "max_tokens": 4}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that answers anything at once; it reads no further than a length."""
    with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"content-length: *(\d+)", head.lower())
            await reader.readexactly(int(length[1]) if length else 0)
            body, status = (ANSWER, b"200 OK") if head.startswith(b"POST") else (b"", b"404 Not")
            if head.startswith(b"GET /v1/models "):
                body, status = MODELS, b"200 OK"
            first = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n" % status
            writer.write(first + b"content-length: %d\r\n\r\n" % len(body) + body)


@contextmanager
def worker() -> Iterator[str]:
    made, urls = threading.Event(), list[str]()
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        made.set()
        await over.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert made.wait(PATIENCE_S)
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(PATIENCE_S)
        loop.close()


class Gateway(Process):
    """A gateway before one worker."""

    def __init__(self, worker_url: str, *flags: str) -> None:
        super().__init__("gateway", "--port", "0", "--worker", worker_url, *flags)
        self.url = self.wait_for(r"listening url=(\S+)")
        self.wait_for(r"(worker is up)")

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def rss_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    def is_well(self) -> None:
        """It serves, and has complained of nothing that is its own."""
        assert http.post(self.url + "/v1/completions", json=GOOD).status_code == 200
        workers = http.get(self.url + "/makespan/v1/workers").json()["workers"]
        assert [one["in_flight"] for one in workers] == [0]
        wrong = [line for line in self.lines if re.search("Traceback|CRITICAL|ERROR", line)]
        assert not wrong, "\n".join(self.lines[-60:])


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with worker() as url:
        running = Gateway(url)
        with running:
            yield running
        assert running.process.returncode == 0


NUMBERS = (0, -1, 1, 1e308, -1e308, 1.5, 1 << 31, (1 << 31) + 1, 1 << 62, 1 << 64, 1 << 200)
FIELDS = ("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "n", "stream",
          "stream_options", "ignore_eos", "stop", "stop_token_ids", "temperature", "echo",
          "logprobs", "best_of", "tools", "user", "seed")  # fmt: skip
HEADERS = ("x-request-id", "x-makespan-expected-tokens", "x-makespan-priority", "traceparent",
           "x-makespan-deadline-ms", "x-makespan-ttft-ms", "x-makespan-tpot-ms", "x-slo-ttft-ms",
           "x-makespan-tenant", "x-makespan-attempt", "x-makespan-waited-ms", "connection",
           "content-type", "content-encoding", "origin", "accept-encoding")  # fmt: skip
VALUES = ("", "0", "-1", "1e400", "nan", "inf", "1_000", "9" * 500, "x" * 3000, "a b\tc", "José",
          "*", "interactive", "bulk", "0.001", "application/json", "gzip", "x-hop, close",
          "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "\xff\xfe")  # fmt: skip


def odd(rng: random.Random, depth: int = 0) -> Any:  # noqa: ANN401
    """Any JSON at all."""
    kind = rng.randrange(9 if depth < 3 else 4)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice([None, True, False, "m", "user", "", "\x00", "\ud800", "é中😀"])
    if kind == 2:
        return "x" * rng.choice((1, 300, 20_000))
    if kind == 3:
        return [rng.choice(NUMBERS)] * rng.choice((1, 50, 2000))
    if kind in (4, 5):
        return [odd(rng, depth + 3)] * rng.choice((0, 1, 20))
    if kind == 6:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {"role": odd(rng, 3), "content": odd(rng, depth + 1)}
    return {rng.choice(("text", "type", "url", "", "é")): odd(rng, depth + 1) for _ in range(3)}


def body(rng: random.Random) -> bytes:
    """A request that is wrong here and there, as JSON or nearly."""
    told: dict[str, Any] = dict(GOOD)
    for _ in range(rng.randrange(4)):
        told[rng.choice(FIELDS)] = odd(rng)
    if rng.random() < 0.1:
        del told[rng.choice(list(told))]
    text = json.dumps(told, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    kind = rng.randrange(10)
    if kind == 0:
        return damaged(rng, text)
    if kind == 1:
        return rng.choice((b"[", b'{"a":', b"[{", b'"')) * rng.choice((1, 2000, 100_000)) + text
    return text


def damaged(rng: random.Random, text: bytes) -> bytes:
    """Cut, doubled, or with some bytes changed."""
    kind, at = rng.randrange(4), rng.randrange(len(text) + 1)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + text[rng.randrange(len(text)) :]
    if kind == 2:
        return text[:at] + rng.randbytes(rng.choice((1, 5, 300))) + text[at:]
    changed = bytearray(text)
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(len(changed))] = rng.choice(b'\x00\r\n\t "{}[]:,\xff\\')
    return bytes(changed)


def ask(connection: HTTPConnection, rng: random.Random) -> int:
    path = rng.choice(("/v1/completions", "/v1/chat/completions", "/v1/completions?a=%ff"))
    headers = dict(JSON)
    if rng.random() < 0.2:
        value = rng.choice(VALUES).encode("utf-8" if rng.random() < 0.5 else "latin-1", "replace")
        headers[rng.choice(HEADERS)] = value.decode("latin-1")
    connection.request("POST", path, body(rng), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def ask_many(gateway: Gateway, count: int, seed: int) -> set[int]:
    """One client's requests, one after the other."""
    rng = random.Random(seed)
    with closing(HTTPConnection(*gateway.address, timeout=PATIENCE_S)) as connection:
        return {ask(connection, rng) for _ in range(count)}


def test_no_body_does_harm(gateway: Gateway) -> None:
    seen, before = set[int](), 0
    with ThreadPoolExecutor(CLIENTS) as pool:
        for turn in range(3):
            seeds = range(turn * CLIENTS, (turn + 1) * CLIENTS)
            found = pool.map(partial(ask_many, gateway, BODIES // 3 // CLIENTS), seeds)
            seen |= set().union(*found)
            before = before or gateway.rss_bytes()
    assert seen <= FINE
    assert {200, 400, 404, 415} <= seen
    assert gateway.rss_bytes() < before + MOST_GROWTH_BYTES
    gateway.is_well()


LINES = (b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"Transfer-Encoding: chunked\r\n",
         b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Expect: 100-continue\r\n",
         b"Host: evil.example\r\n", b"Connection: close, x-a\r\n", b"X-A: \xff\xfe\r\n",
         b"X-B: " + b"b" * 70_000 + b"\r\n", b"x: y\r\n" * 400, b" folded\r\n", b": empty\r\n",
         b"Cookie: " + b"c" * 9000 + b"\r\n")  # fmt: skip
FIRST = (b"POST /v1/completions HTTP/1.1\r\n", b"POST /v1/chat/completions HTTP/1.0\r\n",
         b"GET /v1/models HTTP/1.1\r\n", b"GET //%00/../ HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n",
         b"CONNECT a:1 HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n",
         b"GET /metrics HTTP/1.0\r\n", b"POST /v1/completions\r\n", b"BREW / HTTP/1.1\r\n",
         b"GET http://a/v1/models HTTP/1.1\r\n", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n",
         b"PUT /makespan/v1/workers HTTP/1.1\r\n", b"GET /makespan/v1/requests/%ff HTTP/1.1\r\n",
         b"GET /v1/models/..%2f HTTP/1.1\r\n", b"GET /dashboard/..%2fpage.py HTTP/1.1\r\n",
         b"\r\n\r\n")  # fmt: skip


def head(rng: random.Random) -> bytes:
    """One or some requests in one piece, as HTTP or nearly."""
    content = json.dumps(GOOD).encode()
    lines = rng.sample(LINES, rng.randrange(4))
    if rng.random() < 0.7:
        lines.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(content))
    sent = rng.choice(FIRST) + b"host: localhost\r\n" + b"".join(lines) + b"\r\n" + content
    sent *= rng.choice((1, 1, 1, 2, 50))
    return damaged(rng, sent) if rng.random() < 0.5 else sent


def statuses(address: tuple[str, int], sent: bytes) -> list[int]:
    """Of all answers; the client says that it has no more to say."""
    answer = bytearray()
    with socket.create_connection(address, timeout=PATIENCE_S) as raw, suppress(OSError):
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        while part := raw.recv(1 << 16):
            answer += part
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d+) ", answer, re.MULTILINE)]


def test_no_head_does_harm(gateway: Gateway) -> None:
    rng = random.Random(2)
    cases = [head(rng) for _ in range(HEADS)]
    before = gateway.rss_bytes()
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(lambda sent: statuses(gateway.address, sent), cases))
    for sent, answers in zip(cases, found, strict=True):
        assert set(answers) <= FINE | {100}, (sent[:300], answers)
    assert {200, 400, 431} <= {status for answers in found for status in answers}
    assert gateway.rss_bytes() < before + MOST_GROWTH_BYTES
    eventually(lambda: http.get(gateway.url + "/metrics").status_code == 200)
    gateway.is_well()


def test_large_bodies_leave_others_served(gateway: Gateway) -> None:
    """Whatever is in them; that their turns are short is `tests.router.http.test_outline`'s."""
    size = 32 << 20
    for part in (b"[1],", b"1,", b'{"a":1},', b'"",', b"\\n", "中".encode()):
        opened = b'"' if part in (b"\\n", "中".encode()) else b"["
        content = (b'{"model":"m","prompt":' + opened + part * (size // len(part)))[:size]
        with (
            closing(HTTPConnection(*gateway.address, timeout=PATIENCE_S)) as connection,
            suppress(HTTPException, ConnectionError),
        ):
            connection.request("POST", "/v1/completions", content, JSON)
            assert connection.getresponse().status in (400, 413)
    gateway.is_well()


def test_bodies_are_bounded_all_together() -> None:
    """Half-sent ones count; whoever leaves or is answered holds nothing any more."""
    content = json.dumps({**GOOD, "prompt": "x" * 400_000}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    begun = head + b"content-length: %d\r\n\r\n" % len(content) + content[:-1]
    with (
        worker() as url,
        Gateway(url, "--max-bodies-bytes", "1000000") as gateway,
        ExitStack() as raws,
    ):
        ask = partial(http.post, gateway.url + "/v1/completions", content=content, headers=JSON)
        for _ in range(10):
            assert ask().status_code == 200
        for _ in range(2):
            raw = raws.enter_context(socket.create_connection(gateway.address, PATIENCE_S))
            raw.sendall(begun)
        eventually(lambda: ask().status_code == 503)
        refused = ask()
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "server_is_overloaded"
        assert http.post(gateway.url + "/v1/completions", json=GOOD).status_code == 200
        raws.close()
        eventually(lambda: ask().status_code == 200)
