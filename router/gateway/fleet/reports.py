"""Looks at one worker: an agent's state stream, or a plain server's ``/health`` and models."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import Any

import aiohttp
import orjson

from router.gateway.fleet.kv.sources import MOST_RANKS, count_ranks
from router.http.client import NotConnected
from router.http.connections import Connections, paced_lines, read_bounded
from router.http.secret import CHALLENGE, is_challenge
from router.observe.engine_metrics import Signals, read_ranks
from router.wire import GATEWAY, LINE_S, STATE_PATH, STATE_TIMEOUT_S, AgentState, is_name

PROBE_INTERVAL_S = 1.0  # between probes of a worker without an agent
# Of so many looks one asks its pages for its ranks, if they have told of any, and if they have not:
# another server may have come there between two looks.
RANKS_EVERY, NO_RANKS_EVERY = 10, 60
# Of looks at metrics without what is looked for one in so many is made: an engine that has just
# begun, or fails for a moment, tells later.
MUTE_EVERY = 10
MOST_MODELS_BYTES = 1 << 20  # thousands of adapters are listed in less
MOST_PARTS = 20_000  # objects and arrays: with vLLM's permissions, three a model
# What answers with these says something for everybody, not what an agent says.
_NO_AGENT = ("text/", "application/json")
_COMPLAINT_BYTES = 200

# An engine's page has some tens of kilobytes; so much is searched in less than a millisecond.
MOST_METRICS_BYTES = 1 << 19

NOTHING = Signals()
Models = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PlainLook:
    """What a server without an agent serves, and what its metrics say; None: nobody asked them.

    `ranks` is how many data-parallel ranks it has, None if that was not looked at, and `each` what
    its metrics say of each of several; `asked_s` when they were asked, on the monotonic clock, as
    what they say may be read late.
    """

    models: Models
    signals: Signals | None = None
    ranks: int | None = None
    each: tuple[Signals, ...] = ()
    asked_s: float = inf

    def of(self, rank: int | None) -> Signals | None:
        """What its metrics say of a rank, or of all."""
        if rank is None or self.signals is None:
            return self.signals
        return self.each[rank] if rank < len(self.each) else NOTHING


class Unusable(Exception):
    """It cannot be served from; the message says why, and what to do."""


async def reports(
    connections: Connections,
    url: str,
    connect_s: float,
    wants_metrics: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[AgentState | PlainLook, None]:
    """An agent's states until its stream ends, or looks at a plain server until one fails.

    `wants_metrics`: whether a plain server's metrics would tell anything now.

    Only who asks for the fleet's secret in an agent's way is told it.

    Raises:
        Unusable, WireError: if what answers there is neither, or says that it does not serve.
        aiohttp.ClientError: if it cannot be reached, or breaks off.
        TimeoutError: if it falls silent.
    """
    timeout = aiohttp.ClientTimeout(sock_connect=connect_s, sock_read=STATE_TIMEOUT_S)
    session = connections.session
    headers = {GATEWAY.decode(): connections.gateway, **connections.to_worker(url)}
    for told in (False, True):
        async with session.get(
            url + STATE_PATH, timeout=timeout, allow_redirects=False, headers=headers
        ) as response:
            if response.status == 200 and not response.content_type.startswith(_NO_AGENT):
                async for line in paced_lines(response, LINE_S):
                    yield AgentState.decode(line)
                return
            if not is_challenge(response.status, response.headers.get(CHALLENGE[0].decode())):
                await _check(response, STATE_PATH)
                break
        if told or connections.secret is None:
            whose = "another" if told else "a"
            raise Unusable(
                f"it is an agent with {whose} secret: give it and this gateway the same "
                "--secret-file"
            )
        headers |= connections.to_agent(url)
    probe = _PlainProbe(connections, url)
    looks = 0
    while True:
        models = await probe.models()
        if wants_metrics():
            asked_s, signals = time.monotonic(), await probe.signals()
            yield PlainLook(models, signals, probe.ranks, probe.each, asked_s)
        else:
            yield PlainLook(models, None, probe.ranks)
        if looks % (RANKS_EVERY if probe.tells_ranks else NO_RANKS_EVERY) == 0:
            before = probe.ranks
            await probe.count_ranks(await count_ranks(connections, url))
            if probe.ranks not in (1, before):  # sooner than at the next look
                yield PlainLook(models, None, probe.ranks)
        looks += 1
        await asyncio.sleep(PROBE_INTERVAL_S)


class _PlainProbe:
    """Asks a server without an agent whether it is well, where it can say so, and what it serves.

    An answer of ``/health`` counts once it has been 200: servers without one answer anything.

    Attributes:
        ranks: how many data-parallel ranks it has: as its pages tell, else its metrics, else one;
            None before they have been asked.
        tells_ranks: its pages tell.
        each: what its metrics have said last, of each of several ranks.
    """

    def __init__(self, connections: Connections, url: str) -> None:
        self._connections, self._url = connections, url
        self._has_health, self._mute = False, 0
        self.ranks: int | None = None
        self.tells_ranks = False
        self.each: tuple[Signals, ...] = ()

    async def models(self) -> Models:
        """What it serves.

        Raises:
            Unusable: if it says that it does not, or not what.
        """
        async with self._get("/health") as response:
            self._has_health |= response.status == 200
            await _check(response, "/health")
            if self._has_health and response.status != 200:
                raise Unusable(f"its /health answers {_named(response.status)}")
        async with self._get("/v1/models") as response:
            return await self._read(response)

    async def signals(self) -> Signals:
        """What its metrics say; whatever is wrong with them is nothing against it."""
        self.each = ()
        if self._mute > 0:
            self._mute -= 1
            return NOTHING
        try:
            async with self._get("/metrics") as response:
                text = await read_bounded(response, MOST_METRICS_BYTES)
                good = response.status == 200 and text is not None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return NOTHING
        told, self.each = read_ranks(text) if good and text is not None else (NOTHING, ())
        if told.running is None:
            self._mute = MUTE_EVERY - 1
        elif self.ranks is not None and not self.tells_ranks:
            self.ranks = max(1, min(MOST_RANKS, len(self.each)))
        return told

    async def count_ranks(self, told: int) -> None:
        """Its pages tell of so many ranks; 0: they do not, and its metrics may."""
        self.tells_ranks |= told > 0
        if told:
            self.ranks = told
        elif self.ranks is None:
            self.ranks = 1
            await self.signals()

    def _get(self, path: str) -> aiohttp.client._BaseRequestContextManager[aiohttp.ClientResponse]:
        timeout = aiohttp.ClientTimeout(total=STATE_TIMEOUT_S)
        key = self._connections.to_worker(self._url)
        return self._connections.session.get(
            self._url + path, timeout=timeout, allow_redirects=False, headers=key
        )

    async def _read(self, response: aiohttp.ClientResponse) -> Models:
        status, where = response.status, f"{self._url}/v1/models"
        if 300 <= status < 400:
            to = response.headers.get("location", "nowhere")
            raise Unusable(
                f"{where} redirects to {to[:_COMPLAINT_BYTES]}: name that server instead"
            )
        if status in (401, 403):
            raise Unusable(
                f"{where} answers {_named(status)}: "
                + (
                    "it does not take the key of --worker-key-file"
                    if self._connections.to_worker(self._url)
                    else "it asks for a key: give it by --worker-key-file"
                )
            )
        if status != 200:
            raise Unusable(
                f"{where} answers {_named(status)}: is an OpenAI-compatible server at this "
                "address, and the address all that comes before its /v1?"
            )
        text = await _body(response, where)
        return read_models(text, where, web_page=response.content_type == "text/html")


def read_models(text: bytes, where: str, *, web_page: bool = False) -> Models:
    """OpenAI's list of models.

    Raises:
        Unusable: if it is none, or a name in it is none.
    """
    if text.count(b"{") + text.count(b"[") > MOST_PARTS:
        raise Unusable(f"{where} is of more than {MOST_PARTS} objects and arrays")
    try:
        models = {entry["id"]: dict(entry) for entry in orjson.loads(text)["data"]}
    except (ValueError, TypeError, KeyError) as error:
        kind = "a web page" if web_page else "something else"
        raise Unusable(
            f"{where} is {kind}, not OpenAI's list of models: is an OpenAI-compatible server "
            "at this address?"
        ) from error
    if not models:
        raise Unusable(f"{where} lists no model")
    for name in models:
        if not is_name(name):
            raise Unusable(f"{where} lists {str(name)[:_COMPLAINT_BYTES]!r}, which is no name")
    return models


async def _check(response: aiohttp.ClientResponse, path: str) -> None:
    """503 means, at any path, that the server is not ready.

    Raises:
        Unusable: with what it says of it.
    """
    if response.status == 503:
        text = (await _body(response, path))[:_COMPLAINT_BYTES].decode("utf-8", "replace")
        raise Unusable(f"its {path} answers {_named(503)}: {' '.join(text.split())}".rstrip(": "))


async def _body(response: aiohttp.ClientResponse, where: str) -> bytes:
    text = await read_bounded(response, MOST_MODELS_BYTES)
    if text is None:
        raise Unusable(f"{where} answers more than {MOST_MODELS_BYTES} bytes")
    return text


def _named(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def complaint(error: Exception, limit_s: float = STATE_TIMEOUT_S) -> str:
    """What is wrong with a worker, from what its connection raised; `limit_s`: how long it had."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unreached(error.os_error, isinstance(error, aiohttp.ClientConnectorDNSError))
    if isinstance(error, NotConnected) and isinstance(error.__cause__, OSError):
        return _unreached(error.__cause__, isinstance(error.__cause__, socket.gaierror))
    if isinstance(error, TimeoutError):
        return f"it has not answered for {limit_s:g} s"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"what it answers is no HTTP: {' '.join(error.message.split())}"[:_COMPLAINT_BYTES]
    for kind, what in _BROKEN.items():
        if isinstance(error, kind):
            return what
    return str(error) or type(error).__name__


def _unreached(error: OSError, unnamed: bool) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; see --worker-ca"
    if isinstance(error, ssl.SSLError):
        return f"it does not speak TLS: {error.reason or error}"
    what = "its name cannot be looked up" if unnamed else "it cannot be reached"
    number = error.errno
    return f"{what}: {os.strerror(number) if number and number > 0 else error.strerror or error}"


_BROKEN = {
    aiohttp.ServerDisconnectedError: "it closed the connection without an answer",
    aiohttp.ClientPayloadError: "it broke off its answer",
    ConnectionResetError: "it reset the connection",
}
