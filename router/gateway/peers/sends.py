"""What this process tells of its sends, and how far each listener is.

Rules:
- nothing is encoded while nobody listens;
- what is told goes to all listeners alike, encoded once. Processes of this gateway hear of prompts
  alone, and only of this process's: what is at workers they share in memory. Listeners elsewhere
  hear of what those have sent as well: they reach one process, and it tells for all;
- a listener that does not keep up loses all that waits for it, hears how much that was, and then of
  all that holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

from router.gateway.peers.lines import (
    Anew,
    Begun,
    Gateway,
    Held,
    Left,
    Line,
    Sent,
    Waiting,
    encode,
    pack_blocks,
)
from router.http.asgi import Responder
from router.wire import HEARTBEAT_S, STATE_EVERY_S
from solver.routing.sums import NOTHING, Backlog, LoadSums

# What waits for a listener: at 600 bytes a prompt, some two thousand.
MOST_WAITING_BYTES = 1 << 20
# Prompts under way of which a listener that begins is told, the latest.
MOST_UNDER_WAY = 1024
HEARTBEAT = b"\n"


class SentRequest(Hashable, Protocol):
    """A prompt that goes to a worker."""

    @property
    def prompt_tokens(self) -> int:
        """Over all its sequences."""
        ...

    @property
    def sequences(self) -> int:
        """How many it has."""
        ...

    @property
    def block_tokens(self) -> float:
        """Tokens in each of its blocks, over all its sequences."""
        ...

    @property
    def marks(self) -> bytes:
        """Names of its marks."""
        ...

    @property
    def blocks(self) -> tuple[int, ...]:
        """Hashes of its blocks."""
        ...


class Listener:
    """Whoever reads; `elsewhere`: it is no process of this gateway.

    What it can take is written at once: whoever plans next there is to know of it.
    """

    def __init__(self, sends: Sends, out: Responder, *, elsewhere: bool) -> None:
        self.elsewhere = elsewhere
        self._sends, self._out = sends, out
        self._lines, self._bytes = list[bytes](), 0
        # Whether it is to hear of all that holds, and how many lines it has lost before.
        self._anew, self._lost = True, 0
        self._written = asyncio.Event()
        self._written.set()

    def put(self, text: bytes) -> None:
        """One more line."""
        self._written.set()
        if self._anew:
            self._lost += self._lost > 0
        elif not (self._lines or self._out.paused):
            self._out.write(text)
        elif self._bytes + len(text) > MOST_WAITING_BYTES:
            self._anew, self._lost = True, len(self._lines) + 1
            self._lines.clear()
        else:
            self._lines.append(text)
            self._bytes += len(text)

    def flush(self) -> None:
        """It has taken all that was written: what has come since is written now."""
        anew, lines = self._anew, self._lines
        text = b"".join(self._sends.anew(self._lost, elsewhere=self.elsewhere) if anew else lines)
        lines.clear()
        self._anew, self._lost, self._bytes = False, 0, 0
        if text:
            self._out.write(text)

    async def keep_up(self) -> None:
        """Flush once it has taken what was written; if nothing was for a while, a heartbeat."""
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S):
                await self._written.wait()
        if not self._written.is_set():
            self._out.write(HEARTBEAT)
        self._written.clear()
        await self._out.drain()
        self.flush()


@dataclass(slots=True)
class _UnderWay:
    number: int
    place: str
    marks: bool
    own: bool
    begun: bool = False


class Sends:
    """See the module; `gateway` is who tells."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self._listeners = set[Listener]()
        self._numbers = count(1)
        self._under_way = dict[SentRequest, _UnderWay]()
        self._held = dict[str, tuple[LoadSums, float]]()  # and when that was told
        self._waiting = Backlog()

    @property
    def idle(self) -> bool:
        """Whether there is nothing that others should know of."""
        return not (self._under_way or self._held)

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._listeners)

    def join(self, listener: Listener) -> None:
        """It listens from now on."""
        self._listeners.add(listener)

    def leave(self, listener: Listener) -> None:
        """It does no more."""
        self._listeners.discard(listener)

    def sent(self, request: SentRequest, place: str, *, marks: bool, own: bool = True) -> None:
        """A prompt goes to a worker; `marks`: that one's engine tells of its cache by them.

        If it is not its `own`, another process of this gateway has sent it.
        """
        if not request.blocks and not (marks and request.marks):
            return
        told = self._under_way[request] = _UnderWay(next(self._numbers), place, marks, own)
        if self._listeners:
            self._tell(_sent(request, told), own=own)

    def begun(self, request: SentRequest) -> None:
        """Its first token has come; unknown ones are ignored."""
        told = self._under_way.get(request)
        if told is not None and not told.begun:
            told.begun = True
            if self._listeners:
                self._tell(Begun(told.number), own=told.own)

    def left(self, request: SentRequest, made: int = 0) -> None:
        """It has left its worker, however; unknown ones are ignored. `made`: see `Left`."""
        told = self._under_way.pop(request, None)
        if told is not None and self._listeners:
            self._tell(Left(told.number, made), own=told.own)

    def hold(self, place: str, sums: LoadSums) -> None:
        """This gateway has this at a worker; how far that is, is told now and then."""
        before, told_s = self._held.get(place, (NOTHING, 0.0))
        if sums == before:
            return
        now = time.monotonic()
        as_many = sums.sequences == before.sequences and sums.prefills == before.prefills
        if as_many and now - told_s < STATE_EVERY_S:
            return
        if sums == NOTHING:
            del self._held[place]
        else:
            self._held[place] = sums, now
        if self._listeners:
            self._tell(_held(place, sums), own=False)

    def wait(self, backlog: Backlog) -> None:
        """So much waits in this gateway for room."""
        if backlog != self._waiting:
            self._waiting = backlog
            if self._listeners:
                self._tell(_waiting(backlog), own=False)

    def anew(self, lost: int, *, elsewhere: bool) -> Iterator[bytes]:
        """All that holds now, for one who begins, or has lost so many lines."""
        yield encode(Gateway(self.gateway))
        yield encode(Anew(lost))
        if elsewhere:
            yield encode(_waiting(self._waiting))
            for place, (sums, _) in self._held.items():
                yield encode(_held(place, sums))
        more = max(0, len(self._under_way) - MOST_UNDER_WAY)
        for request, told in islice(self._under_way.items(), more, None):
            if elsewhere or told.own:
                yield encode(_sent(request, told))
                if told.begun:
                    yield encode(Begun(told.number))

    def _tell(self, line: Line, *, own: bool) -> None:
        text = encode(line)
        for listener in self._listeners:
            if own or listener.elsewhere:
                listener.put(text)


def _sent(request: SentRequest, told: _UnderWay) -> Sent:
    return Sent(
        told.number,
        told.place,
        request.prompt_tokens,
        request.sequences,
        request.block_tokens,
        request.marks if told.marks else b"",
        pack_blocks(request.blocks),
    )


def _held(place: str, sums: LoadSums) -> Held:
    return Held(
        place,
        sums.sequences,
        sums.prefills,
        sums.prompt_tokens,
        sums.output_tokens,
        sums.kv_tokens,
        sums.kv_reserved,
        sums.bulk,
        sums.paced,
    )


def _waiting(backlog: Backlog) -> Waiting:
    return Waiting(backlog.requests, backlog.prompt_tokens, backlog.output_tokens)
