"""Over real sockets: a publisher that comes, goes, restarts, floods and sends garbage."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from router.gateway.fleet.kv import subscriber
from router.gateway.fleet.kv.contents import EVENT, MESSAGE, SLICE
from router.gateway.fleet.kv.frames import DROPPED_AT_ONCE, DROPPED_BYTES, Frames
from router.gateway.fleet.kv.sources import Source
from router.gateway.fleet.kv.stream import Knowledge, Stream
from router.gateway.fleet.kv.subscriber import Subscriber, _Left, hear_loads
from router.gateway.fleet.kv.turns import Turns
from router.kv_wire import END, MOST_BYTES, MOST_FRAMES, Load, WireError, write_batch
from router.observe.repeats import Repeats
from tests.router.gateway.kv.publisher import Publisher, known

EXACT, DEGRADED = Knowledge.EXACT, Knowledge.DEGRADED


log = logging.getLogger(__name__)


class Sockets:
    """What a publisher is heard by, on ports of its own that it keeps over a restart.

    `endless`: whoever asks for a replay is sent messages of nothing for ever; `most`: so many
    messages of each replay come, and of those behind, its end among them, every second one.
    """

    def __init__(
        self, context: zmq.asyncio.Context, *, endless: bool = False, most: int = 1 << 30
    ) -> None:
        self._context, self.ports, self.most, self.asked = context, [0, 0], most, 0
        self.engine, self.endless = Publisher(), endless
        self.open()

    def open(self) -> None:
        self._sockets = [self._context.socket(kind) for kind in (zmq.PUB, zmq.ROUTER)]
        for k, socket in enumerate(self._sockets):
            socket.setsockopt(zmq.LINGER, 0)
            if self.ports[k]:
                socket.bind(f"tcp://127.0.0.1:{self.ports[k]}")
            else:
                self.ports[k] = socket.bind_to_random_port("tcp://127.0.0.1")
        self._begun = [asyncio.create_task(self._answer())]

    @property
    def source(self) -> Source:
        live, replay = (f"tcp://127.0.0.1:{port}" for port in self.ports)
        return Source(0, live, replay)

    async def _answer(self) -> None:
        while True:
            name, _, start = await self._sockets[1].recv_multipart()
            if self.endless:
                begun = asyncio.create_task(self._go_on(name, int.from_bytes(start)))
                self._begun.append(begun)
                continue
            self.asked += 1
            first = int.from_bytes(start)
            messages = [one for one in self.engine.buffer if one[0] >= first] + [(END, b"")]
            for k, (number, payload) in enumerate(messages):
                if k < self.most or (self.most and (k - self.most) % 2):
                    frames = [name, b"", b"", number.to_bytes(8), payload]
                    await self._sockets[1].send_multipart(frames)

    async def _go_on(self, name: bytes, number: int) -> None:
        while True:
            frames = [name, b"", b"", number.to_bytes(8), write_batch(float(number), [])]
            await self._sockets[1].send_multipart(frames)
            number += 1
            await asyncio.sleep(0.02)

    async def change(self, document: int) -> None:
        number, payload = self.engine.change(document)
        await self.send(b"", number.to_bytes(8), payload)

    async def send(self, *frames: bytes) -> None:
        await self._sockets[0].send_multipart(frames)

    async def close(self) -> None:
        for one in self._begun:
            one.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)
        for socket in self._sockets:
            socket.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - what is waited for is of several
            await asyncio.sleep(0.01)


@asynccontextmanager
async def following(
    sockets: Sockets, context: zmq.asyncio.Context, turns: Turns
) -> AsyncIterator[Stream]:
    """A stream of what is published there."""
    stream = Stream(10_000, replays=True)
    said = Repeats(log)
    one = Subscriber(context, turns, sockets.source, stream, lambda: None, said)
    task = asyncio.create_task(one.run())
    try:
        yield stream
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await sockets.close()


@asynccontextmanager
async def followed() -> AsyncIterator[tuple[Sockets, Stream]]:
    context = zmq.asyncio.Context()
    sockets = Sockets(context)
    async with following(sockets, context, Turns().of_worker()) as stream:
        await until(lambda: stream.knowledge is EXACT)
        yield sockets, stream
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
        for frames in ([b""] * 3_000, [bytes(MOST_BYTES // 2)] * 5):
            await sockets.send(*frames)
        await until(lambda: stream.garbage == 3 and stream.knowledge is EXACT)
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
            hear_loads(
                context, source, lambda rank, load, _: heard.append((rank, load)), Repeats(log)
            )
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


@pytest.mark.parametrize("ranks", [1, 3])
def test_replays_without_end_keep_nobody_from_its_own(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of as many workers as may have a turn at once, or of several ranks of each."""
    monkeypatch.setattr(subscriber, "TURN_S", 0.05)

    async def check() -> None:
        context, turns = zmq.asyncio.Context(), Turns(2)
        async with AsyncExitStack() as stack:
            bad = []
            for _ in range(2):
                of_worker = turns.of_worker()
                for _ in range(ranks):
                    sockets = Sockets(context, endless=True)
                    bad.append(following(sockets, context, of_worker))
            endless = [await stack.enter_async_context(one) for one in bad]
            await until(lambda: sum(one.reached > 0 for one in endless) >= 2)
            sockets = Sockets(context)
            sockets.engine.change(1)
            good = following(sockets, context, turns.of_worker())
            stream = await stack.enter_async_context(good)
            await until(lambda: stream.knowledge is EXACT and known(stream) == {1})
            began = [one.reached for one in endless]
            await until(lambda: all(one.reached > b for one, b in zip(endless, began, strict=True)))
            assert all(one.knowledge is not EXACT and not one.restarts for one in endless)
        context.destroy(linger=0)

    asyncio.run(check())


def test_a_replay_that_is_larger_than_any_is_broken_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(subscriber, "_Left", lambda: _Left(60.0, 500))

    async def check() -> None:
        context = zmq.asyncio.Context()
        async with following(Sockets(context, endless=True), context, Turns()) as stream:
            await until(lambda: any("no replay" in one.message for one in caplog.records))
            assert 0 < stream.reached < 100
            assert stream.knowledge is not EXACT
        context.destroy(linger=0)

    asyncio.run(check())


@pytest.mark.parametrize("count", [21, 30])
def test_a_replay_that_loses_messages_or_its_end_is_asked_for_again(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "IDLE_S", 0.2)

    async def check() -> None:
        context = zmq.asyncio.Context()
        sockets = Sockets(context, most=5)
        for k in range(count):
            sockets.engine.change(k % 7)
        async with following(sockets, context, Turns()) as stream:
            await until(lambda: stream.knowledge is EXACT)
            assert known(stream) == sockets.engine.held
            assert (stream.gaps, stream.restarts) == (0, 0)
            assert sockets.asked > count // 5
        context.destroy(linger=0)

    asyncio.run(check())


def test_what_comes_counts_though_no_replay_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriber, "IDLE_S", 0.2)
    monkeypatch.setattr(subscriber, "PAUSES_S", (0.02,))

    async def check(sockets: Sockets, stream: Stream) -> None:
        for document in (1, 2):
            await sockets.change(document)
        await until(lambda: known(stream) == {1, 2})
        sockets.most = 0
        sockets.engine.change(3)  # lost
        await sockets.change(1)
        await until(lambda: known(stream) == {2})
        await sockets.change(4)
        await until(lambda: known(stream) == {2, 4})
        asked = sockets.asked
        await until(lambda: sockets.asked > asked + 1)
        assert (stream.knowledge, known(stream), stream.gaps) == (DEGRADED, {2, 4}, 1)
        sockets.most = 1 << 30
        await until(lambda: stream.knowledge is EXACT)
        assert known(stream) == {2, 3, 4}

    run(check)


@dataclass
class Frame:
    """As ZeroMQ's."""

    bytes: bytes
    more: bool

    def __len__(self) -> int:
        return len(self.bytes)


class Backlog:
    """A socket with all of this in it, that never waits before it is empty."""

    def __init__(self, messages: Iterable[list[bytes]]) -> None:
        self.frames = deque(
            Frame(one, more=k < len(message))
            for message in messages
            for k, one in enumerate(message, 1)
        )
        self.messages = sum(not frame.more for frame in self.frames)

    def more(self) -> zmq.Frame:
        frame: Any = self.frames.popleft()
        self.messages -= not frame.more
        return frame  # type: ignore[no-any-return]

    async def first(self) -> zmq.Frame:
        if not self.frames:
            await asyncio.Event().wait()
        return self.more()

    def read(self) -> Frames:
        return Frames(self.first, self.more, MOST_BYTES)


def dropped(count: int, *, each: int = 1) -> bytes:
    """A message's events: so many, each of so many blocks that are gone, of one tier in turn."""
    events = [
        {"type": "BlockRemoved", "block_hashes": list(range(each)), "medium": medium}
        for medium in ("GPU", "CPU")
    ]
    return write_batch(1.0, [events[k % 2] for k in range(count)])


BACKLOGS: dict[str, list[bytes]] = {
    "many messages": [dropped(1)] * 500,
    "of nothing": [dropped(0)] * 500,
    "many events": [dropped(5_000)],
    "many blocks": [dropped(1, each=100_000)],
    "some of each": [dropped(30, each=30)] * 20,
    "garbage": [b"garbage"] * 300,
}


NO_MESSAGES: dict[str, list[list[bytes]]] = {
    "no messages": [[b"what?"]] * 300,
    "of many frames": [[b""] * 100_000],
    "of large frames": [[bytes(1 << 20)] * 1_000],
}


@pytest.mark.parametrize("of", [*BACKLOGS, *NO_MESSAGES])
def test_a_backlog_is_worked_off_in_short_turns(of: str) -> None:
    """Counted in work, not in time."""
    asyncio.run(work_off(of))


def most_frames(of: str) -> int:
    """At once: those that are dropped, behind those that have shown it; or those of messages."""
    if of in ("of many frames", "of large frames"):
        size = len(NO_MESSAGES[of][0][0])
        return DROPPED_AT_ONCE // (1 + size // DROPPED_BYTES) + 1 + MOST_FRAMES + 1
    return 3 * (SLICE // MESSAGE + 1)


async def work_off(of: str) -> None:
    if of in NO_MESSAGES:
        socket = Backlog(NO_MESSAGES[of])
    else:
        socket = Backlog([b"", k.to_bytes(8), one] for k, one in enumerate(BACKLOGS[of]))
    stream = Stream(10_000, replays=False)
    stream.linked()
    source, messages = Source(0, "tcp://127.0.0.1:1"), socket.messages
    one = Subscriber(None, Turns(), source, stream, lambda: None, Repeats(log))  # type: ignore[arg-type]
    task = asyncio.create_task(one._listen(socket.read()))
    left, blocks, taken = len(socket.frames), 0, list[int]()
    for _ in range(2_000):
        await asyncio.sleep(0)
        done = left - len(socket.frames)
        assert done <= most_frames(of)
        assert stream.blocks - blocks <= SLICE
        taken.append(stream.blocks - blocks)
        left, blocks = len(socket.frames), stream.blocks
    assert not socket.frames
    if of == "many events":
        assert max(taken) <= SLICE // EVENT
    if of in NO_MESSAGES:
        assert stream.garbage == messages
    task.cancel()


@pytest.mark.parametrize("sizes", [[0, 8, MOST_BYTES - 8], [0] * (MOST_FRAMES - 2) + [8, 100]])
def test_a_message_is_read_up_to_its_bounds_and_not_beyond(sizes: list[int]) -> None:
    message = [bytes(size) for size in sizes]

    async def check() -> None:
        frames = Backlog([message, [*message, b"more"], [b"next", *message[1:]]]).read()
        assert await frames.next() == message
        with pytest.raises(WireError, match="more than"):
            await frames.next()
        with suppress(WireError):  # four more bytes
            assert (await frames.next())[1:] == message[1:]

    asyncio.run(check())


def test_whoever_sends_no_messages_writes_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """However many it sends, of whatever kinds."""

    async def check() -> None:
        kinds: list[list[bytes]] = [[b"?"], [b""] * 9, [b"", bytes(8), b"?"], [b"", b"?", b"?"]]
        socket = Backlog(kinds * 500)
        stream = Stream(10_000, replays=False)
        stream.linked()
        source = Source(0, "tcp://127.0.0.1:1")
        one = Subscriber(None, Turns(), source, stream, lambda: None, Repeats(log))  # type: ignore[arg-type]
        task = asyncio.create_task(one._listen(socket.read()))
        for _ in range(4 * len(socket.frames)):
            await asyncio.sleep(0)
        assert not socket.frames
        task.cancel()
        assert stream.garbage >= 1_500

    with caplog.at_level(logging.DEBUG):
        asyncio.run(check())
    assert 0 < len(caplog.records) <= 1 + 2 * subscriber.MOST_CHANGES
