"""The clock of one publisher's stream, and its sockets (`frames`); what it means is `stream`'s.

What is missing is asked for with limits, for a publisher may be slow, gone or wrong: in turns with
others (`turns`), so long and so much for one replay, however often it must be asked for to come to
its end, and longer and longer pauses between those that come no further.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from router.gateway.fleet.kv.frames import Frames, open_socket
from router.gateway.fleet.kv.sources import Source
from router.gateway.fleet.kv.stream import Knowledge, Stream
from router.gateway.fleet.kv.turns import TURN_S, Turns
from router.kv_wire import (
    END,
    MOST_BYTES,
    Load,
    WireError,
    read_load,
    read_message,
    replay_request,
)
from router.observe.repeats import Repeats

log = logging.getLogger(__name__)

MOST_LOAD_BYTES = 4096
# So long a publisher that cannot be reached is believed, and one that is silent not asked.
BELIEVED_S, SILENT_S = 5.0, 5.0
MOST_CHANGES = 5  # of what is known, that are logged in a minute
IDLE_S = 2.0  # of a replay, until its next message
# One replay in all its turns: ten thousand messages, as vLLM keeps them, of 100 KB each.
REPLAY_S, MOST_REPLAY_BYTES = 120.0, 1 << 30
PAUSES_S = (0.02, 0.5, 2.0, 30.0)  # before one, and before the next where one was of no use


# A rank's load, as of now.
Pushed = Callable[[int, Load, float], None]


async def hear_loads(
    context: zmq.asyncio.Context, source: Source, pushed: Pushed, said: Repeats
) -> None:
    """Until cancelled; what is no load is as good as silence."""
    assert source.load is not None
    socket = open_socket(context, zmq.SUB, MOST_LOAD_BYTES, "")
    try:
        socket.connect(source.load)
        messages = Frames.of(socket, MOST_LOAD_BYTES)
        while True:
            try:
                _, payload = read_message(await messages.next())
                pushed(source.rank, read_load(payload), time.monotonic())
            except WireError as error:
                why = {"why": str(error), "publisher": source.load}
                said.say(logging.WARNING, "not an engine's load", source.load, why)
            await asyncio.sleep(0)
    finally:
        socket.close()


@dataclass
class _Left:
    """What one replay may still take, of its turn and of all."""

    seconds: float = REPLAY_S
    bytes: int = MOST_REPLAY_BYTES

    @property
    def is_spent(self) -> bool:
        """Whether it may take no more."""
        return self.seconds <= 0 or self.bytes < 0


class _GoesOn(Exception):
    """Others wait for their turn, or something of it is missing: it goes on from where it is."""


class _Unreachable(Exception):
    """Nothing connects any more: ZeroMQ gives up on who sends what is too large."""


class Subscriber:
    """Follows one publisher, until cancelled; `changed` hears of each change of what is known."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        turns: Turns,
        source: Source,
        stream: Stream,
        changed: Callable[[], None],
        said: Repeats,
    ) -> None:
        self._context, self._turns, self.source = context, turns, source
        self.stream, self._changed, self._said = stream, changed, said
        self._one = asyncio.Lock()
        self._asks = asyncio.Event()
        self._heard_s = time.monotonic()
        self._told, self._garbage = stream.knowledge, stream.garbage

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._follow()
            except* _Unreachable:
                self._say(logging.INFO, "begins anew")

    async def _follow(self) -> None:
        socket = open_socket(self._context, zmq.SUB, MOST_BYTES, self.source.topic)
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            socket.connect(self.source.endpoint)
            async with asyncio.TaskGroup() as group:
                messages = Frames.of(socket, MOST_BYTES)
                for one in (
                    self._listen(messages),
                    self._watch(monitor),
                    self._ask(),
                    self._probe(),
                ):
                    group.create_task(one)
        finally:
            socket.disable_monitor()
            monitor.close()
            socket.close()

    async def _listen(self, messages: Frames) -> None:
        while True:
            try:
                number, payload = read_message(await messages.next())
            except WireError as error:
                self.stream.broken(str(error))
                self._tell()
                await asyncio.sleep(0)  # where more is there already, others have no turn
            else:
                async with self._one:
                    await self._go_through(self.stream.live(number, payload))
            self._heard_s = time.monotonic()

    async def _go_through(self, steps: Iterator[None]) -> None:
        """In short turns."""
        for _ in steps:
            await asyncio.sleep(0)
        self._tell()

    def _tell(self) -> None:
        if self.stream.wanted is not None:
            self._asks.set()
        if self.stream.garbage != self._garbage:
            self._garbage = self.stream.garbage
            self._say(logging.WARNING, "not an engine's event", why=self.stream.wrong)
        known = self.stream.knowledge
        if known is not self._told:
            level = logging.INFO if known is Knowledge.EXACT else logging.WARNING
            why = {"why": self.stream.why} if self.stream.why else {}
            self._say(level, f"cache is {known.value}", most=MOST_CHANGES, **why)
            self._told = known
            self._changed()

    def _say(self, level: int, what: str, *, most: int = 1, **more: str) -> None:
        about = {"publisher": self.source.endpoint, "rank": self.source.rank, **more}
        self._said.say(level, what, self.source.endpoint, about, most=most)

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        believed_s = None
        while True:
            try:
                async with asyncio.timeout(believed_s):
                    told = await recv_monitor_message(monitor)
            except TimeoutError:
                async with self._one:
                    self.stream.forget()
                self._tell()
                raise _Unreachable from None
            async with self._one:  # not in the middle of a message
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
        tries, left = 0, _Left()
        while True:
            await self._asks.wait()
            self._asks.clear()
            while self.stream.wanted is not None:
                await asyncio.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
                before = self.stream.garbage
                good = await self._replay(left)
                tries = 0 if good and self.stream.garbage == before else tries + 1
                left = _Left()
                self._tell()

    async def _replay(self, left: _Left) -> bool:
        """In as many turns, and as many times, as it takes; whether it came to its end."""
        while True:
            async with self._turns:
                if self.stream.wanted is None:
                    return True
                before = self.stream.reached
                try:
                    await self._turn(left)
                except _GoesOn:
                    pass
                except (TimeoutError, WireError, zmq.ZMQError) as error:
                    if left.is_spent or self.stream.reached <= before:
                        self._say(logging.INFO, "no replay", why=str(error) or "it is silent")
                        self.stream.replay_failed()
                        return False
                else:
                    return True
            await asyncio.sleep(PAUSES_S[0])

    async def _turn(self, left: _Left) -> None:
        """Ask for what there is from where it is wanted; what comes live meanwhile goes on."""
        assert self.source.replay is not None
        loop = asyncio.get_running_loop()
        socket = open_socket(self._context, zmq.DEALER, MOST_BYTES)
        try:
            socket.connect(self.source.replay)
            messages = Frames.of(socket, MOST_BYTES)
            async with asyncio.timeout(left.seconds):
                began_s = loop.time()
                try:
                    await socket.send_multipart(replay_request(self.stream.ask()))
                    while await self._replayed(messages, left):
                        over = loop.time() - began_s > TURN_S and self._turns.waited_for
                        if self.stream.void or over:
                            raise _GoesOn
                finally:
                    left.seconds -= loop.time() - began_s
                async with self._one:
                    await self._go_through(self.stream.replay_ended())
        finally:
            socket.close()

    async def _replayed(self, messages: Frames, left: _Left) -> bool:
        """Its next message; whether it is not its end."""
        async with asyncio.timeout(IDLE_S):
            frames = await messages.next()
        left.bytes -= sum(map(len, frames))
        if left.bytes < 0:
            raise WireError(f"a replay of more than {MOST_REPLAY_BYTES} bytes")
        number, payload = read_message(frames)
        if number == END:
            return False
        async with self._one:
            await self._go_through(self.stream.replayed(number, payload))
        return True
