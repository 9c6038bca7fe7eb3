"""Many requests at once, read event by event in a thread of their own.

By aiohttp, which takes a fraction of httpx's time for an event: who reads so many streams must not
lag behind what happens to them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.waiting import PATIENCE_S

Body = dict[str, object]


@dataclass
class Ask:
    """A request and, as it comes, its answer: `events` are its server-sent events' data."""

    name: str
    body: Body
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0
    worker: str = ""
    events: list[str] = field(default_factory=list)
    whole: str = ""

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The error objects that it got."""
        texts = self.events if self.body.get("stream") else [self.whole]
        told = [json.loads(text) for text in texts if text != "[DONE]"]
        return [one["error"] for one in told if "error" in one]

    @property
    def completed(self) -> bool:
        """Whether all of it came."""
        if not self.body.get("stream"):
            return self.status == 200
        return bool(self.events) and self.events[-1] == "[DONE]" and not self.errors


async def _send(client: aiohttp.ClientSession, url: str, ask: Ask) -> None:
    headers = {"x-request-id": ask.name, **ask.headers}
    async with client.post(url, json=ask.body, headers=headers) as answer:
        ask.status, ask.worker = answer.status, answer.headers.get("x-makespan-worker", "")
        if not ask.body.get("stream"):
            ask.whole = await answer.text()
            return
        async for line in answer.content:
            if line.startswith(b"data: "):
                ask.events.append(line[6:-1].decode())


async def _send_all(url: str, asks: Sequence[Ask]) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_S, sock_read=PATIENCE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as client:
        await asyncio.gather(*(_send(client, url, ask) for ask in asks))


@contextmanager
def sending(gateway: str, asks: Sequence[Ask]) -> Iterator[None]:
    """Send them all; at the end, wait for all answers."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(asyncio.run, _send_all(gateway + "/v1/completions", asks))
        yield
        sent.result()
