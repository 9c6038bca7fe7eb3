"""One stream from another gateway, or another process of this one, and the lines that come over it.

Only who asks for the secret is told it, as agents are (`router.http.secret`).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from router.gateway.peers.lines import LONGEST_LINE, SENDS_PATH
from router.http.connections import Connections
from router.http.secret import CHALLENGE, is_challenge
from router.wire import GATEWAY, STATE_TIMEOUT_S, WireError

LINES_A_TURN = 64  # some two milliseconds
MOST_AT_ONCE = 1 << 16


class UnheardError(Exception):
    """Nobody to listen to, for the next seconds; the message says why."""

    def __init__(self, why: str, again_s: float = 0.0) -> None:
        super().__init__(why)
        self.again_s = again_s


@dataclass(eq=False, slots=True)
class Ear:
    """One stream.

    Attributes:
        where: it comes from there.
        sibling: from a process of this gateway.
        wanted: it is to be opened again when it ends.
        up: it is open, and `gateway` tells; else `why` not.
        lines, lost: so far, and those that it says were lost.
    """

    where: str
    sibling: bool = False
    wanted: bool = True
    up: bool = False
    gateway: str = ""
    why: str = "it has not answered yet"
    lines: int = 0
    lost: int = 0

    def told(self) -> dict[str, Any]:
        """For who looks at it."""
        return {
            "url": self.where,
            "gateway": self.gateway or None,
            "up": self.up,
            "reason": None if self.up else self.why,
            "lines": self.lines,
            "lost": self.lost,
        }


@asynccontextmanager
async def open_stream(
    ear: Ear, connections: Connections, connect_s: float
) -> AsyncIterator[aiohttp.ClientResponse]:
    """What it hears.

    Raises:
        UnheardError: if it says no.
    """
    timeout = aiohttp.ClientTimeout(sock_connect=connect_s, sock_read=STATE_TIMEOUT_S)
    if ear.sibling:
        connector = aiohttp.UnixConnector(ear.where)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.post("http://sibling" + SENDS_PATH) as response,
        ):
            _check(response)
            yield response
        return
    headers = {GATEWAY.decode(): connections.gateway}
    for told in (False, True):
        async with connections.session.post(
            ear.where + SENDS_PATH, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            challenge = response.headers.get(CHALLENGE[0].decode())
            if not is_challenge(response.status, challenge):
                _check(response)
                yield response
                return
        if told or connections.secret is None:
            whose = "another" if told else "a"
            raise UnheardError(f"it has {whose} secret: give all gateways one --secret-file")
        headers |= connections.secret_line


def _check(response: aiohttp.ClientResponse) -> None:
    """Raises `UnheardError` if it is no stream."""
    if response.status == 404:
        raise UnheardError("it tells nothing: give it --peers, too")
    if response.status != 200:
        raise UnheardError(f"it answers {response.status}")


class Lines:
    """What has come over one stream, line by line, and has not been taken yet.

    `socket` is what it comes by; None where only the loop can read, as over TLS.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response, self._rest = response, b""
        self._lines = deque[bytes]()
        self._put = 0  # bytes
        self.socket = _socket_of(response)

    def __len__(self) -> int:
        return len(self._lines)

    def put(self, part: bytes) -> None:
        """More has come; heartbeats are no lines."""
        self._put += len(part)
        *lines, self._rest = (self._rest + part).split(b"\n")
        self._lines.extend(filter(None, lines))

    def check(self) -> None:
        """Whether what has come may be the beginning of one more.

        Raises:
            WireError: if it is too long for that.
        """
        if len(self._rest) > LONGEST_LINE:
            raise WireError(f"a line is of more than {LONGEST_LINE} bytes")

    @property
    def waits(self) -> bool:
        """Whether the loop has read more than was put, or there are lines to be taken."""
        return bool(self._lines) or self._response.content.total_bytes > self._put

    def read(self) -> None:
        """Let the stream have what its socket has, as the loop would in a turn to come.

        Raises:
            OSError: as the loop will find out as well.
        """
        connection = self._response.connection
        if self.socket is None or connection is None or connection.protocol is None:
            return
        with suppress(BlockingIOError):
            if data := self.socket.recv(MOST_AT_ONCE):
                connection.protocol.data_received(data)

    def fetch(self) -> None:
        """Put what the stream has.

        Raises:
            aiohttp.ClientError: if it has broken off.
        """
        with suppress(RuntimeError):  # the stream's own task waits for the next byte: there is none
            self.put(self._response.content.read_nowait())

    def __iter__(self) -> Iterator[bytes]:
        """Take some, one after the other: what is not gone on with is not taken."""
        for _ in range(min(LINES_A_TURN, len(self._lines))):
            yield self._lines[0]
            self._lines.popleft()

    def close(self) -> None:
        """Nobody looks any more."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


def _socket_of(response: aiohttp.ClientResponse) -> socket.socket | None:
    """The same that the loop reads from; None: nobody else can."""
    transport = None if response.connection is None else response.connection.transport
    if transport is None or transport.get_extra_info("ssl_object") is not None:
        return None
    theirs = transport.get_extra_info("socket")
    return None if theirs is None else socket.fromfd(theirs.fileno(), theirs.family, theirs.type)
