"""Publishes what an engine's prefix cache stores and drops, as vLLM does (`router.kv_wire`).

Rules:
- a message for each stage in which the cache has changed, numbered from 0; the last
  `BUFFERED` of them are sent again to whoever asks;
- who does not keep up, or listens too late, misses some and can ask: nothing waits for anybody;
- a block is told with the session of the request that stored it; those that a request has found
  there are told only if it asks for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq
import zmq.asyncio

from router.kv_wire import END, event_of, write_batch
from router.observe.repeats import Repeats
from solver.batching.kv import Gone, Kept

log = logging.getLogger(__name__)

# vLLM's defaults: messages that can be asked for again, and those that wait for a subscriber.
BUFFERED, MOST_WAITING = 10_000, 100_000
_END = (END.to_bytes(8), b"")


class CacheEvents:
    """See the module; bound at `endpoint`, ``tcp://HOST:PORT``, with port 0 to a free one."""

    def __init__(self, endpoint: str, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._context = zmq.asyncio.Context()
        self._publisher = zmq.Context(self._context).socket(zmq.PUB)
        self._replays = self._context.socket(zmq.ROUTER)
        for socket in (self._publisher, self._replays):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, MOST_WAITING)
        host, _, port = endpoint.rpartition(":")
        self._endpoint = _bind(self._publisher, f"{host}:{port if port != '0' else '*'}")
        self._replay_endpoint = _bind(self._replays, f"{host}:*")
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=BUFFERED)
        self._number = 0
        self._sessions: dict[str, tuple[str, bool]] = {}

    def sources(self) -> dict[str, dict[str, Any]]:
        """Where it publishes, by rank, as vLLM tells it."""
        return {
            "0": {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": self._endpoint,
                "replay_endpoint": self._replay_endpoint,
                "buffer_steps": BUFFERED,
                "hwm": MOST_WAITING,
                "topic": "",
            }
        }

    def expect(self, sequence_id: str, session: str | None, *, full: bool) -> None:
        """A sequence is of this session; `full`: what it finds in the cache is to be told."""
        if session is not None:
            self._sessions[sequence_id] = session, full

    def forget(self, sequence_id: str) -> None:
        """It has ended."""
        self._sessions.pop(sequence_id, None)

    def publish(self, changes: Sequence[Kept | Gone]) -> None:
        """What has changed in one stage."""
        events = [event for change in changes if (event := self._event(change)) is not None]
        if events:
            message = self._number.to_bytes(8), write_batch(time.time(), events)
            self._number += 1
            self._buffer.append(message)
            self._publisher.send_multipart((b"", *message), zmq.NOBLOCK)

    def _event(self, change: Kept | Gone) -> dict[str, Any] | None:
        if isinstance(change, Gone):
            return event_of(change, self._block_tokens, None, full=False)
        session, full = self._sessions.get(change.owner, (None, False))
        return event_of(change, self._block_tokens, session, full=full)

    async def run(self) -> None:
        """Answer those who ask for what they have missed, until cancelled."""
        said = Repeats(log)
        while True:
            frames = await self._replays.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                why = {"frames": len(frames)}
                said.say(logging.WARNING, "not a request for events", self._endpoint, why)
                continue
            start = int.from_bytes(frames[2])
            for number, payload in list(self._buffer):
                if int.from_bytes(number) >= start:
                    await self._replays.send_multipart((frames[0], b"", b"", number, payload))
                    await asyncio.sleep(0)
            await self._replays.send_multipart((frames[0], b"", b"", *_END))

    def close(self) -> None:
        """Publish no more."""
        self._publisher.close()
        self._context.destroy(linger=0)


def _bind(socket: zmq.Socket[Any], endpoint: str) -> str:
    socket.bind(endpoint)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
