"""A publisher's messages off its sockets, however many frames somebody has put into one.

ZeroMQ bounds a frame, not a message, and hands over all frames of one together. So they are read
one by one: as soon as there are more than any message has, in number or bytes, the rest is dropped
as it is, in short turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import zmq
import zmq.asyncio

from router.kv_wire import MOST_FRAMES, WireError

# Messages that wait to be read, of at most `MOST_BYTES` each: a publisher's own buffer is larger,
# and sends no faster than it is read.
MOST_QUEUED = 8
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
# What is dropped at once: frames, each of them and each so many bytes as one; a millisecond.
DROPPED_AT_ONCE, DROPPED_BYTES = 256, 1 << 16


def open_socket(
    context: zmq.asyncio.Context, kind: int, most_bytes: int, topic: str | None = None
) -> zmq.asyncio.Socket:
    """One that takes no larger frames, and hears of what begins with `topic` if it subscribes."""
    socket = context.socket(kind)
    for option, value in ((zmq.MAXMSGSIZE, most_bytes), *_OPTIONS):
        socket.setsockopt(option, value)
    if topic is not None:
        socket.subscribe(topic)
    return socket


class Frames:
    """Messages of one socket, of at most `most_bytes`; `first` waits for a frame, `more` has it."""

    def __init__(
        self,
        first: Callable[[], Awaitable[zmq.Frame]],
        more: Callable[[], zmq.Frame],
        most_bytes: int,
    ) -> None:
        self._first, self._more, self._most_bytes = first, more, most_bytes

    @classmethod
    def of(cls, socket: zmq.asyncio.Socket, most_bytes: int) -> Frames:
        """Those of a socket."""
        plain: zmq.Socket[bytes] = zmq.Socket.shadow(socket)
        return cls(
            lambda: socket.recv(copy=False),
            lambda: plain.recv(zmq.DONTWAIT, copy=False),
            most_bytes,
        )

    async def next(self) -> list[bytes]:
        """The next message's.

        Raises:
            WireError: if it has more than any has; it is gone.
        """
        frame = await self._first()
        found, size = list[bytes](), 0
        while True:
            size += len(frame)
            if len(found) == MOST_FRAMES or size > self._most_bytes:
                await self._drop(frame)
                raise WireError(
                    f"it has more than {MOST_FRAMES} frames or {self._most_bytes} bytes"
                )
            found.append(frame.bytes)
            if not frame.more:
                return found
            frame = self._more()

    async def _drop(self, frame: zmq.Frame) -> None:
        done = 0
        while frame.more:
            frame = self._more()
            done += 1 + len(frame) // DROPPED_BYTES
            if done >= DROPPED_AT_ONCE:
                done = 0
                await asyncio.sleep(0)
