"""Clients that do not read what they have asked for: whom they hold up, and what they cost."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from router.http.slow_readers import MOST_BYTES
from tests import http
from tests.faulty_server import MODEL, STREAM_HEAD, Call, FaultyServer, chunk, good
from tests.helpers import Process, scrape
from tests.waiting import PATIENCE_S, eventually

BODY: dict[str, Any] = {"model": MODEL, "prompt": "How many clips?", "max_tokens": 8}
EVENT_WORDS = 16_000
EVENT = {"choices": [{"index": 0, "text": "w" * EVENT_WORDS, "finish_reason": None}]}
PART = chunk(b"data: " + json.dumps(EVENT).encode() + b"\n\n")
LAST = chunk(
    b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
# Beside what waits for one client: what sockets hold, and what is copied on the way.
MOST_GROWTH_BYTES = 8 * MOST_BYTES


class Talker(FaultyServer):
    """Streams `parts` to whoever asks for more than a few tokens, as fast as they are taken."""

    def __init__(self, parts: int) -> None:
        super().__init__(self._talk)
        self._parts, self.sent = parts, 0

    async def _talk(self, call: Call) -> None:
        if json.loads(call.body)["max_tokens"] == BODY["max_tokens"]:
            return await good(call)
        await call.send(STREAM_HEAD)
        for _ in range(self._parts):
            await call.send(PART)
            self.sent += len(PART)
        return await call.send(LAST, chunk(b""))


@contextmanager
def gateway(worker: FaultyServer) -> Iterator[tuple[str, Process]]:
    """Before one worker, which it takes to run one request at once."""
    flags = ("--port", "0", "--worker", worker.url, "--plain-slots", "1")
    with Process("gateway", *flags) as process:
        url = process.wait_for(r"listening url=(\S+)")
        process.wait_for(r"(worker is up)")
        yield url, process


@contextmanager
def unread(url: str) -> Iterator[socket.socket]:
    """A client that has asked for a long stream, and whose system keeps next to nothing for it."""
    address = urlsplit(url)
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(PATIENCE_S)
        raw.connect((address.hostname, address.port))
        body = json.dumps({**BODY, "max_tokens": 100_000, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {address.netloc}\r\nconnection: close\r\n"
        raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        yield raw


def in_flight(url: str) -> int:
    found: int = http.get(url + "/makespan/v1/workers").json()["workers"][0]["in_flight"]
    return found


def completed(url: str) -> float:
    name = f'makespan_requests_total{{model="{MODEL}",outcome="completed"}}'
    return scrape(url).values.get(name, 0.0)


@pytest.mark.parametrize("parts", [MOST_BYTES // len(PART) // 2, MOST_BYTES // len(PART) + 8])
def test_a_slot_is_free_once_the_engine_is_done_though_nobody_reads(parts: int) -> None:
    with Talker(parts) as worker, gateway(worker) as (url, _), unread(url) as client:
        eventually(lambda: worker.calls == 1 and in_flight(url) == 0)
        assert http.post(url + "/v1/completions", json=BODY).status_code == 200
        answer = b"".join(iter(lambda: client.recv(1 << 16), b"")).partition(b"\r\n\r\n")[2]
        assert answer.count(b"w") == parts * EVENT_WORDS
        assert answer.count(b"[DONE]") == 1
        eventually(lambda: completed(url) == 2)


def test_a_stream_without_end_that_nobody_reads_costs_bounded_memory_and_nobody_else() -> None:
    with Talker(1 << 30) as worker, gateway(worker) as (url, process):
        assert http.post(url + "/v1/completions", json=BODY).status_code == 200
        before = rss_bytes(process)
        with unread(url):
            sent = -1
            while worker.sent > sent:  # until it is held up
                sent = worker.sent
                time.sleep(0.5)
            assert MOST_BYTES < sent < MOST_GROWTH_BYTES
            for stream in (False, True):
                other = http.post(url + "/v1/completions", json={**BODY, "stream": stream})
                assert other.status_code == 200
            assert rss_bytes(process) - before < MOST_GROWTH_BYTES
        eventually(lambda: worker.waiting == 0 and in_flight(url) == 0)


def rss_bytes(process: Process) -> int:
    pages = Path(f"/proc/{process.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096
