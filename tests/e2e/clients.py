"""Clients that check each byte that they get, and may leave before it comes.

Raw streams, as a client library's own retries and time would hide what is looked for, and cost
several times as much.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.chaos_worker import texts_of

BROKEN = (asyncio.IncompleteReadError, ConnectionError)


@dataclass
class Ask:
    """A request, and what came of it.

    Attributes:
        leaves_after_s: when its client goes, if it has not been answered by then.
        texts: what each choice has said so far.
        errors: error objects, as the answer or in its stream.
    gateway: who had it last.
        ended: all of the answer has come.
        last: its connection ends with it.
        left, broken: its client has gone; its connection has been closed in the midst.
    """

    id: str
    body: dict[str, Any]
    chat: bool = False
    leaves_after_s: float | None = None
    status: int = 0
    worker: str = ""
    gateway: str = ""
    texts: dict[int, str] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    last: bool = False
    left: bool = False
    broken: bool = False

    @property
    def under_way(self) -> bool:
        """Whether a part of its stream has come, and more is to come."""
        return bool(self.texts) and not (self.ended or self.left or self.broken)

    @property
    def completed(self) -> bool:
        """Whether it has all that it asked for."""
        return self.ended and self.status == 200 and not self.errors

    @property
    def refused(self) -> bool:
        """Whether it was not accepted: nothing came, or word that the gateway shuts down."""
        return self.status in (0, 503) and not self.left

    def anew(self) -> None:
        """It is to be sent once more."""
        self.status, self.broken, self.ended = 0, False, False
        self.errors.clear()

    def check(self) -> None:
        """No token is missing, doubled or out of order, and nothing ended in silence.

        Raises:
            AssertionError: with the request.
        """
        wanted = texts_of(self.body, chat=self.chat)
        if self.completed:
            assert [self.texts[k] for k in range(len(wanted))] == wanted, self
        else:
            assert self.left or self.broken or len(self.errors) == 1, self
            assert all(wanted[k].startswith(text) for k, text in self.texts.items()), self

    def take(self, event: dict[str, Any]) -> None:
        """An event of its stream, or the whole answer."""
        if "error" in event:
            self.errors.append(event["error"])
            return
        for choice in event["choices"]:
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            index = choice["index"]
            self.texts[index] = self.texts.get(index, "") + (said["content"] or "")


class Client:
    """One connection, opened anew when it has ended."""

    def __init__(self, url: Callable[[], str]) -> None:
        self._url, self._to = url, ""
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, ask: Ask) -> None:
        """Send it, and stay for the answer or go before."""
        ask.gateway = self._url()
        if self._to != ask.gateway:
            self.close()
        if self._open is None:
            self._to, parts = ask.gateway, urlsplit(ask.gateway)
            self._open = await asyncio.open_connection(parts.hostname, parts.port)
        reader, writer = self._open
        body = json.dumps(ask.body).encode()
        path = "/v1/chat/completions" if ask.chat else "/v1/completions"
        head = f"POST {path} HTTP/1.1\r\nhost: test\r\nx-request-id: {ask.id}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        try:
            async with asyncio.timeout(ask.leaves_after_s):
                await _read(reader, ask)
        except TimeoutError:
            ask.left = True
        except BROKEN:
            ask.broken = True
        if not ask.ended or ask.last:
            self.close()

    def close(self) -> None:
        """Hang up."""
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None


async def _read(reader: asyncio.StreamReader, ask: Ask) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    ask.status = int(head.split(" ", 2)[1])
    ask.worker = head.partition("x-makespan-worker: ")[2].partition("\r\n")[0]
    ask.last = "\nconnection: close\r\n" in head
    if "transfer-encoding: chunked" not in head:
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        ask.take(json.loads(await reader.readexactly(length)))
        ask.ended = True
        return
    done = False
    async for line in _lines(reader):
        if line == b"data: [DONE]":
            assert not done, "it ends twice"
            done = True
        elif line.startswith(b"data: "):
            assert not done, "there is more after its end"
            ask.take(json.loads(line[6:]))
    assert done or ask.errors, f"{ask.id} ends without a word"
    ask.ended = True


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    while size := int(await reader.readline() or b"0", 16):
        *lines, rest = (rest + await reader.readexactly(size)).split(b"\n")
        await reader.readexactly(2)
        for line in lines:
            yield line
    await reader.readexactly(2)
    assert not rest, "it ends within a line"


async def ask_all(
    url: str | Callable[[], str],
    asks: Iterable[Ask],
    clients: int,
    at_end: Callable[[Ask], None] = lambda _: None,
) -> None:
    """Send them all, so many at a time; `at_end` hears of each.

    `url` may be another one later: who is refused by the one before asks there.
    """
    waiting = iter(asks)

    async def one_after_the_other() -> None:
        where = url if callable(url) else lambda: url
        client = Client(where)
        for ask in waiting:
            await client.ask(ask)
            while ask.refused and where() != ask.gateway:
                ask.anew()
                await client.ask(ask)
            at_end(ask)
        client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one_after_the_other())
