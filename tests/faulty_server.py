"""Servers that misbehave, each in a way of its own, on a thread of the test's process.

They speak HTTP by hand, as most of what they do no web framework lets one do. What an answer is to
be, says a function of the connection; `/v1/models` is answered well unless `models` says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

MODEL = "m"


@dataclass
class Call:
    """One request as it came, and where to answer it; `number` counts completions from 0.

    `head` is in lower case.
    """

    number: int
    path: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    first_on_connection: bool
    method: str = ""
    head: str = ""

    def reset(self) -> None:
        """End the connection as a dead process does."""
        self.writer.transport.abort()

    async def send(self, *parts: bytes) -> None:
        """Raw bytes."""
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer; names of headers with underscores for hyphens."""
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


Answer = Callable[[Call], Awaitable[None]]


async def good(call: Call) -> None:
    """What OpenAI's API answers, as a stream where one is wanted."""
    wanted = json.loads(call.body)
    tokens = wanted.get("max_tokens", 4)
    if not wanted.get("stream"):
        choice = {"index": 0, "text": " w" * tokens, "finish_reason": "length"}
        usage = {"prompt_tokens": 3, "completion_tokens": tokens}
        body = json.dumps({"choices": [choice], "usage": usage}).encode()
        await call.answer(200, body, content_type="application/json")
        return
    await call.send(STREAM_HEAD)
    for k in range(tokens):
        event = {"choices": [{"index": 0, "text": " w", "finish_reason": None}]}
        if k == tokens - 1:
            event["choices"][0]["finish_reason"] = "length"
        await call.send(chunk(b"data: " + json.dumps(event).encode() + b"\n\n"))
    await call.send(chunk(b"data: [DONE]\n\n"), chunk(b""))


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def after(seconds: float, answer: Answer = good) -> Answer:
    """The same, later."""

    async def later(call: Call) -> None:
        await asyncio.sleep(seconds)
        await answer(call)

    return later


def status(code: int, **headers: str) -> Answer:
    """An answer with this status."""

    async def refuse(call: Call) -> None:
        body = json.dumps({"error": {"message": f"as asked: {code}"}}).encode()
        await call.answer(code, body, content_type="application/json", **headers)

    return refuse


async def never(_: Call) -> None:
    """It accepts, and is not heard of again."""
    await asyncio.Event().wait()


async def models(call: Call) -> None:
    """OpenAI's list."""
    body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
    await call.answer(200, body, content_type="application/json")


class FaultyServer:
    """Serves on a free port of the loopback until the end of the block.

    Attributes:
        url: where.
        answer, models: what it does with completions and with a look at its models; may be changed.
        others: what it does at other paths.
        looks, calls: at its models, and completions that it was sent.
        waiting, most_waiting: completions under way, and the most that ever were.
    """

    def __init__(
        self, answer: Answer = good, models: Answer = models, others: Answer | None = None
    ) -> None:
        self.answer, self.models, self.others = answer, models, others or status(404)
        self.looks = 0
        self.calls = self.waiting = self.most_waiting = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def heard(self, head: str) -> None:
        """A request's head has come, in lower case."""

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1 << 20)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._over.wait()
        server.close()
        for _ in range(4):  # who has been let in becomes a connection, which closes
            await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = True
        try:
            while not writer.transport.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                self.heard(head)
                size = 0
                for line in head.split("\r\n"):
                    if line.startswith("content-length:"):
                        size = int(line.split(":")[1])
                body = await reader.readexactly(size)
                method, target, _ = head.split(" ", 2)
                path = target.partition("?")[0]
                call = Call(self.calls, path, body, reader, writer, first, method.upper(), head)
                await self._answer(call)
                first = False
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, call: Call) -> None:
        if call.path == "/v1/models":
            self.looks += 1
            return await self.models(call)
        if not call.path.endswith("completions"):
            return await self.others(call)
        self.calls += 1
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        gone = asyncio.create_task(self._gone(call))
        answering = asyncio.create_task(self._done(call))
        try:
            await asyncio.wait((gone, answering), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.waiting -= 1
            gone.cancel()
            answering.cancel()
            await asyncio.gather(gone, answering, return_exceptions=True)
        return None

    async def _done(self, call: Call) -> None:
        await self.answer(call)

    async def _gone(self, call: Call) -> None:
        """Its client has hung up."""
        while not (call.reader.at_eof() or call.writer.transport.is_closing()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
