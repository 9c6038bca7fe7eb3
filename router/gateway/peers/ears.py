"""One stream from another gateway, or another process of this one, and the lines that come over it.

Only who asks for the secret is told it, as agents are (`router.http.secret`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from router.gateway.peers.lines import LONGEST_LINE, SENDS_PATH
from router.http.connections import Connections
from router.http.secret import CHALLENGE, is_challenge
from router.wire import GATEWAY, STATE_TIMEOUT_S, WireError

LINES_A_TURN = 64  # some two milliseconds


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


async def lines_of(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    """What has come, some lines at a time; none where only heartbeats have.

    Raises:
        WireError: if one is too long.
    """
    rest = b""
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for start in range(0, len(lines), LINES_A_TURN):
            yield [line for line in lines[start : start + LINES_A_TURN] if line]
        if len(rest) > LONGEST_LINE:
            raise WireError(f"a line is of more than {LONGEST_LINE} bytes")
