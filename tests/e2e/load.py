"""Many requests at once, read event by event in a thread of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests import http

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


async def _send(client: httpx.AsyncClient, url: str, ask: Ask) -> None:
    headers = {"x-request-id": ask.name, **ask.headers}
    async with client.stream("POST", url, json=ask.body, headers=headers) as answer:
        ask.status, ask.worker = answer.status_code, answer.headers["x-makespan-worker"]
        if not ask.body.get("stream"):
            ask.whole = (await answer.aread()).decode()
            return
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                ask.events.append(line[6:])


async def _send_all(url: str, asks: Sequence[Ask]) -> None:
    limits = httpx.Limits(max_connections=None)
    async with http.AsyncClient(limits=limits) as client:
        await asyncio.gather(*(_send(client, url, ask) for ask in asks))


@contextmanager
def sending(gateway: str, asks: Sequence[Ask]) -> Iterator[None]:
    """Send them all; at the end, wait for all answers."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(asyncio.run, _send_all(gateway + "/v1/completions", asks))
        yield
        sent.result()
