"""Over real sockets: a publisher that comes, goes, restarts, floods and sends garbage."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from router.gateway.fleet.kv.sources import Source
from router.gateway.fleet.kv.stream import EVENT, MESSAGE, SLICE, Knowledge, Stream
from router.gateway.fleet.kv.subscriber import Subscriber, hear_loads
from router.kv_wire import END, MOST_BYTES, Load, write_batch
from tests.router.gateway.kv.publisher import Publisher, known

EXACT, DEGRADED = Knowledge.EXACT, Knowledge.DEGRADED


class Sockets:
    """What a publisher is heard by, on ports of its own that it keeps over a restart."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self._context, self.ports = context, [0, 0]
        self.engine = Publisher()
        self.open()

    def open(self) -> None:
        self._sockets = [self._context.socket(kind) for kind in (zmq.PUB, zmq.ROUTER)]
        for k, socket in enumerate(self._sockets):
            socket.setsockopt(zmq.LINGER, 0)
            if self.ports[k]:
                socket.bind(f"tcp://127.0.0.1:{self.ports[k]}")
            else:
                self.ports[k] = socket.bind_to_random_port("tcp://127.0.0.1")
        self._answers = asyncio.create_task(self._answer())

    @property
    def source(self) -> Source:
        live, replay = (f"tcp://127.0.0.1:{port}" for port in self.ports)
        return Source(0, live, replay)

    async def _answer(self) -> None:
        while True:
            name, _, start = await self._sockets[1].recv_multipart()
            for number, payload in list(self.engine.buffer):
                if number >= int.from_bytes(start):
                    frames = [name, b"", b"", number.to_bytes(8), payload]
                    await self._sockets[1].send_multipart(frames)
            end = END.to_bytes(8)
            await self._sockets[1].send_multipart([name, b"", b"", end, b""])

    async def change(self, document: int) -> None:
        number, payload = self.engine.change(document)
        await self.send(b"", number.to_bytes(8), payload)

    async def send(self, *frames: bytes) -> None:
        await self._sockets[0].send_multipart(frames)

    async def close(self) -> None:
        self._answers.cancel()
        with suppress(asyncio.CancelledError):
            await self._answers
        for socket in self._sockets:
            socket.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - what is waited for is of several
            await asyncio.sleep(0.01)


@asynccontextmanager
async def followed() -> AsyncIterator[tuple[Sockets, Stream]]:
    context = zmq.asyncio.Context()
    sockets, stream = Sockets(context), Stream(10_000, replays=True)
    replays = asyncio.Semaphore(8)
    one = Subscriber(context, replays, sockets.source, stream, lambda: None)
    task = asyncio.create_task(one.run())
    try:
        await until(lambda: stream.knowledge is EXACT)
        yield sockets, stream
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await sockets.close()
        context.destroy(linger=0)


def run(check: Callable[[Sockets, Stream], Any]) -> None:
    async def all_of_it() -> None:
        async with followed() as (sockets, stream):
            await check(sockets, stream)

    asyncio.run(all_of_it())


def test_what_is_published_is_known_and_what_was_lost_is_asked_for() -> None:
    async def check(sockets: Sockets, stream: Stream) -> None:
        await sockets.change(1)
        await until(lambda: known(stream) == {1})
        sockets.engine.change(2)  # lost on its way
        await sockets.change(3)
        await until(lambda: stream.knowledge is EXACT and known(stream) == {1, 2, 3})
        assert stream.gaps == 1

    run(check)


def test_an_engine_that_restarts_at_its_address_is_known_anew() -> None:
    async def check(sockets: Sockets, stream: Stream) -> None:
        await sockets.change(1)
        await until(lambda: known(stream) == {1})
        await sockets.close()
        await until(lambda: stream.knowledge is not EXACT)
        sockets.engine.restart()
        sockets.engine.change(5)
        sockets.open()
        await until(lambda: stream.knowledge is EXACT and known(stream) == {5})

    run(check)


def test_garbage_degrades_for_a_while_and_floods_hold_nobody_up() -> None:
    async def check(sockets: Sockets, stream: Stream) -> None:
        await sockets.change(1)
        await sockets.send(b"", b"no number", b"x")
        await until(lambda: stream.garbage == 1 and stream.knowledge is EXACT)
        blocks = list(range(300_000))  # 1.4 MB of hashes in one event
        event = {"type": "BlockRemoved", "block_hashes": blocks, "medium": "GPU"}
        number, _ = sockets.engine.change(2)
        payload = write_batch(1.0, [event])
        sockets.engine.buffer[-1] = number, payload
        await sockets.send(b"", number.to_bytes(8), payload)
        await until(lambda: stream.blocks >= len(blocks))
        await until(lambda: stream.knowledge is EXACT)
        assert known(stream) == set(), "the first document's are among them"

    run(check)


def test_a_load_that_is_pushed_is_heard_and_what_is_none_passed_over() -> None:
    async def check() -> None:
        context = zmq.asyncio.Context()
        publisher = context.socket(zmq.PUB)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        source = Source(3, "", load=f"tcp://127.0.0.1:{port}")
        heard: list[tuple[int, Load]] = []
        task = asyncio.create_task(
            hear_loads(context, source, lambda rank, load, _: heard.append((rank, load)))
        )
        payload = msgspec.msgpack.encode(["LoadStat", 3, 2, 50, 100, 3, 7, 90, 16, 12, 3_500_000])

        async def push() -> None:
            while True:  # whoever subscribes has missed what was before
                await publisher.send_multipart([b"load", bytes(8), b"nothing"])
                await publisher.send_multipart([b"load", bytes(8), payload])
                await asyncio.sleep(0.05)

        pushes = asyncio.create_task(push())
        await until(lambda: len(heard) > 1)
        for one in (pushes, task):
            one.cancel()
        await asyncio.gather(pushes, task, return_exceptions=True)
        publisher.close(linger=0)
        context.destroy(linger=0)
        assert set(heard) == {(3, Load(3, 2, 50, 100, 16, 12, 3.5))}

    asyncio.run(check())


def test_a_message_beyond_all_bounds_is_never_read() -> None:
    async def check(sockets: Sockets, stream: Stream) -> None:
        await sockets.change(1)
        await until(lambda: known(stream) == {1})
        await sockets.send(b"", (77).to_bytes(8), bytes(MOST_BYTES + 1))
        await until(lambda: stream.knowledge is DEGRADED)
        await until(lambda: stream.knowledge is EXACT)
        assert (known(stream), stream.garbage) == ({1}, 0)

    run(check)


class Backlog:
    """A socket with all of this in it, that never waits before it is empty."""

    def __init__(self, messages: Iterable[list[bytes]]) -> None:
        self.messages = deque(messages)

    async def recv_multipart(self) -> list[bytes]:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.popleft()


def dropped(count: int, *, each: int = 1) -> bytes:
    """A message's events: so many, each of so many blocks that are gone."""
    event = {"type": "BlockRemoved", "block_hashes": list(range(each)), "medium": "GPU"}
    return write_batch(1.0, [event] * count)


BACKLOGS: dict[str, list[bytes]] = {
    "many messages": [dropped(1)] * 500,
    "of nothing": [dropped(0)] * 500,
    "many events": [dropped(5_000)],
    "many blocks": [dropped(1, each=100_000)],
    "some of each": [dropped(30, each=30)] * 20,
    "garbage": [b"garbage"] * 300,
}


@pytest.mark.parametrize("of", [*BACKLOGS, "no messages"])
def test_a_backlog_is_worked_off_in_short_turns(of: str) -> None:
    """Counted in work, not in time."""
    asyncio.run(work_off(of))


async def work_off(of: str) -> None:
    if of == "no messages":
        socket = Backlog([[b"what?"]] * 300)
    else:
        socket = Backlog([b"", k.to_bytes(8), one] for k, one in enumerate(BACKLOGS[of]))
    stream = Stream(10_000, replays=False)
    stream.linked()
    source = Source(0, "tcp://127.0.0.1:1")
    one = Subscriber(None, asyncio.Semaphore(), source, stream, lambda: None)  # type: ignore[arg-type]
    task = asyncio.create_task(one._listen(socket))  # type: ignore[arg-type]
    left, blocks, taken = len(socket.messages), 0, list[int]()
    for _ in range(2_000):
        await asyncio.sleep(0)
        assert left - len(socket.messages) <= SLICE // MESSAGE + 1
        assert stream.blocks - blocks <= SLICE
        taken.append(stream.blocks - blocks)
        left, blocks = len(socket.messages), stream.blocks
    assert not socket.messages
    if of == "many events":
        assert max(taken) <= SLICE // EVENT
    task.cancel()
