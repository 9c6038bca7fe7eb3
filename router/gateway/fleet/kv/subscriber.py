"""The sockets and the clock of one publisher's stream; what it means is `stream`'s.

What is missing is asked for with limits, for a publisher may be slow, gone or wrong: so long for
one replay, so many at once in a process, and longer and longer pauses between them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from router.gateway.fleet.kv.sources import Source
from router.gateway.fleet.kv.stream import Knowledge, Stream
from router.kv_wire import (
    END,
    MOST_BYTES,
    Load,
    WireError,
    read_load,
    read_message,
    replay_request,
)

log = logging.getLogger(__name__)

# A publisher's own buffer is larger, and sends no faster than it is read.
MOST_QUEUED = 64
HEARTBEAT_MS, DEAD_MS = 1000, 3000
RECONNECT_MS, LONGEST_RECONNECT_MS = 100, 5000
_OPTIONS = (
    (zmq.LINGER, 0),
    (zmq.RCVHWM, MOST_QUEUED),
    (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
    (zmq.HEARTBEAT_TIMEOUT, DEAD_MS),
    (zmq.RECONNECT_IVL, RECONNECT_MS),
    (zmq.RECONNECT_IVL_MAX, LONGEST_RECONNECT_MS),
    (zmq.IPV6, 1),
)
MOST_LOAD_BYTES = 4096
# So long a publisher that cannot be reached is believed, and one that is silent not asked.
BELIEVED_S, SILENT_S = 5.0, 5.0
IDLE_S, REPLAY_S = 2.0, 120.0  # of a replay: until its next message, and in all
REPLAYS = 8  # at once in a process
PAUSES_S = (0.02, 0.5, 2.0, 30.0)  # before one, and before the next where one was of no use


# A rank's load, as of now.
Pushed = Callable[[int, Load, float], None]


async def hear_loads(context: zmq.asyncio.Context, source: Source, pushed: Pushed) -> None:
    """Until cancelled; what is no load is as good as silence."""
    assert source.load is not None
    socket = context.socket(zmq.SUB)
    for option, value in ((zmq.MAXMSGSIZE, MOST_LOAD_BYTES), *_OPTIONS):
        socket.setsockopt(option, value)
    socket.subscribe("")
    try:
        socket.connect(source.load)
        while True:
            frames = await socket.recv_multipart()
            try:
                _, payload = read_message(frames)
                pushed(source.rank, read_load(payload), time.monotonic())
            except WireError as error:
                log.debug("not a load", extra={"why": str(error), "publisher": source.load})
            await asyncio.sleep(0)
    finally:
        socket.close()


class _Unreachable(Exception):
    """Nothing connects any more: ZeroMQ gives up on who sends what is too large."""


class Subscriber:
    """Follows one publisher, until cancelled; `changed` hears of each change of what is known."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        replays: asyncio.Semaphore,
        source: Source,
        stream: Stream,
        changed: Callable[[], None],
    ) -> None:
        self._context, self._replays, self.source = context, replays, source
        self.stream, self._changed = stream, changed
        self._one = asyncio.Lock()
        self._asks = asyncio.Event()
        self._heard_s = time.monotonic()
        self._told = stream.knowledge

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._follow()
            except* _Unreachable:
                log.info("begins anew", extra=self._about)

    async def _follow(self) -> None:
        socket = self._context.socket(zmq.SUB)
        for option, value in ((zmq.MAXMSGSIZE, MOST_BYTES), *_OPTIONS):
            socket.setsockopt(option, value)
        socket.subscribe(self.source.topic)
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            socket.connect(self.source.endpoint)
            async with asyncio.TaskGroup() as group:
                for one in (self._listen(socket), self._watch(monitor), self._ask(), self._probe()):
                    group.create_task(one)
        finally:
            socket.disable_monitor()
            monitor.close()
            socket.close()

    async def _listen(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            self._heard_s = time.monotonic()
            await self._take(frames)

    async def _take(self, frames: list[bytes]) -> None:
        try:
            number, payload = read_message(frames)
        except WireError as error:
            log.warning("not an engine's event", extra={"why": str(error), **self._about})
            self.stream.broken()
            self._tell()
            await asyncio.sleep(0)  # where more is there already, no socket lets others have a turn
            return
        async with self._one:
            await self._go_through(self.stream.live(number, payload))

    async def _go_through(self, steps: Iterator[None]) -> None:
        """In short turns."""
        for _ in steps:
            await asyncio.sleep(0)
        self._tell()

    def _tell(self) -> None:
        if self.stream.wanted is not None:
            self._asks.set()
        known = self.stream.knowledge
        if known is not self._told:
            level = logging.INFO if known is Knowledge.EXACT else logging.WARNING
            log.log(level, "cache is %s", known.value, extra=self._about)
            self._told = known
            self._changed()

    @property
    def _about(self) -> dict[str, object]:
        return {"publisher": self.source.endpoint, "rank": self.source.rank}

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        believed_s = None
        while True:
            try:
                async with asyncio.timeout(believed_s):
                    told = await recv_monitor_message(monitor)
            except TimeoutError:
                self.stream.forget()
                self._tell()
                raise _Unreachable from None
            else:
                if told["event"] == zmq.EVENT_DISCONNECTED:
                    believed_s = BELIEVED_S
                    self.stream.lost()
                else:
                    believed_s = None
                    self.stream.linked()
            self._tell()

    async def _probe(self) -> None:
        """Whoever says nothing may have said something that was lost."""
        while True:
            await asyncio.sleep(SILENT_S / 2)
            now = time.monotonic()
            if now - self._heard_s > SILENT_S:
                self._heard_s = now
                self.stream.check()
                self._tell()

    async def _ask(self) -> None:
        tries = 0
        while True:
            await self._asks.wait()
            self._asks.clear()
            while self.stream.wanted is not None:
                await asyncio.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
                before = self.stream.garbage
                async with self._replays:
                    good = await self._replay(self.stream.wanted)
                tries = 0 if good and self.stream.garbage == before else tries + 1
                self._tell()

    async def _replay(self, start: int) -> bool:
        """Whether it came to its end."""
        assert self.source.replay is not None
        socket = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.MAXMSGSIZE, MOST_BYTES), *_OPTIONS):
            socket.setsockopt(option, value)
        try:
            socket.connect(self.source.replay)
            async with self._one, asyncio.timeout(REPLAY_S):
                await socket.send_multipart(replay_request(start))
                while True:
                    async with asyncio.timeout(IDLE_S):
                        frames = await socket.recv_multipart()
                    number, payload = read_message(frames)
                    if number == END:
                        break
                    await self._go_through(self.stream.replayed(number, payload))
                await self._go_through(self.stream.replay_ended())
        except (TimeoutError, WireError, zmq.ZMQError) as error:
            log.info("no replay", extra={"why": str(error) or "it is silent", **self._about})
            self.stream.replay_failed()
            return False
        finally:
            socket.close()
        return True
