"""Where an engine publishes: what its own pages say, read with suspicion.

Only ports are taken from what a worker says: it must not make a gateway connect anywhere else.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from router.http.connections import Connections, read_bounded
from router.kv_wire import SOURCES_PATH

SERVER_INFO_PATH = "/server_info"
ASK_S = 2.0
MOST_RANKS = 64
MOST_PAGE_BYTES = 1 << 20
_RANK = re.compile(r"\d{1,5}")  # more digits would be more than Python reads
_PORT = re.compile(r"tcp://.*:(\d{1,5})")
LONGEST_TOPIC = 512


@dataclass(frozen=True, slots=True)
class Source:
    """A publisher: of which of the address's ranks, where it publishes, and where it replays.

    `reports`: it tells of blocks that a request finds, if that asks for it. `keeps`: it says that
    it keeps what it has sent for replays.
    """

    rank: int
    endpoint: str
    replay: str | None = None
    topic: str = ""
    load: str | None = None
    reports: bool = False
    keeps: bool = False


async def find_sources(connections: Connections, url: str, agent: bool) -> list[Source] | None:
    """What the worker at `url` tells, none if it tells nothing that can be understood.

    None: it has not answered, and is to be asked again.
    """
    told, answered = connections.to_agent(url) if agent else connections.to_worker(url), True
    for path, read in ((SOURCES_PATH, read_vllm), (SERVER_INFO_PATH, read_sglang)):
        try:
            page = await _page(connections, url + path, told)
        except _NO_ANSWER:
            answered = False
        else:
            if found := read(page, urlsplit(url).hostname or ""):
                return found
        if agent:
            break
    return [] if answered else None


class _Failed(Exception):
    """It cannot answer now."""


_NO_ANSWER = (_Failed, aiohttp.ClientError, TimeoutError, OSError)


async def _page(connections: Connections, url: str, headers: dict[str, str]) -> Any:  # noqa: ANN401
    """What a page says; None: there is none that can be read.

    Raises:
        _Failed, aiohttp.ClientError, TimeoutError, OSError: without an answer.
    """
    timeout = aiohttp.ClientTimeout(total=ASK_S)
    async with connections.session.get(
        url, timeout=timeout, allow_redirects=False, headers=headers
    ) as response:
        if response.status == 429 or response.status >= 500:
            raise _Failed
        text = await read_bounded(response, MOST_PAGE_BYTES)
        try:
            return orjson.loads(text) if response.status == 200 and text else None
        except ValueError:
            return None


async def count_ranks(connections: Connections, url: str) -> int:
    """Data-parallel ranks of the server at `url`, as its pages tell; 0 if they do not."""
    for path, count in ((SOURCES_PATH, count_vllm), (SERVER_INFO_PATH, count_sglang)):
        with suppress(*_NO_ANSWER):
            page = await _page(connections, url + path, connections.to_worker(url))
            if isinstance(page, dict) and (found := count(page)):
                return min(found, MOST_RANKS)
    return 0


def count_vllm(page: dict[str, Any]) -> int:
    """Ranks on vLLM's page."""
    return len(_ranks(page))


def count_sglang(page: dict[str, Any]) -> int:
    """Ranks on SGLang's page."""
    told = page.get("kv_events")
    counts = page.get("dp_size"), told.get("dp_size") if isinstance(told, dict) else None
    return max((count for count in counts if type(count) is int and count > 0), default=0)


def _ranks(page: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The settings of each rank, from the first that is at this address."""
    told = (
        (int(rank), config)
        for rank, config in page.items()
        if _RANK.fullmatch(rank) and isinstance(config, dict)
    )
    return sorted(told, key=lambda one: one[0])[:MOST_RANKS]


def read_vllm(page: Any, host: str) -> list[Source]:  # noqa: ANN401
    """The page of vLLM: its publisher's settings, by rank.

    Of several servers that are one engine each tells of its own ranks, by their numbers in all.
    """
    found = list[Source]()
    for rank, (_, config) in enumerate(_ranks(page) if isinstance(page, dict) else ()):
        endpoint = _at(host, _port(config.get("endpoint")))
        if endpoint is None or not config.get("enable_kv_cache_events"):
            continue
        replay = _at(host, _port(config.get("replay_endpoint")))
        source = Source(rank, endpoint, replay, _topic(config), reports=True)
        found.append(_replayed(source, config))
    return found


def read_sglang(page: Any, host: str) -> list[Source]:  # noqa: ANN401
    """The page of SGLang: the first rank's ports, and how many ranks there are."""
    told = page.get("kv_events") if isinstance(page, dict) else None
    if not isinstance(told, dict):
        return []
    ranks = told.get("dp_size")
    count = min(MOST_RANKS, ranks) if isinstance(ranks, int) and ranks > 0 else 1
    found = list[Source]()
    for rank in range(count):
        ports = [
            _offset(told.get(f"{name}_port_base"), rank)
            for name in ("endpoint", "replay_endpoint", "load_endpoint")
        ]
        endpoint, replay, load = (_at(host, port) for port in ports)
        if endpoint is not None:
            found.append(_replayed(Source(rank, endpoint, replay, _topic(told), load), told))
    return found


def _replayed(source: Source, config: dict[str, Any]) -> Source:
    """One that keeps nothing answers as if it had sent nothing; not all say whether they do."""
    steps = config.get("buffer_steps")
    if steps == 0:
        return replace(source, replay=None)
    return replace(source, keeps=type(steps) is int)


def _topic(config: dict[str, Any]) -> str:
    topic = config.get("topic")
    return topic if isinstance(topic, str) and len(topic) <= LONGEST_TOPIC else ""


def _port(endpoint: object) -> int | None:
    match = _PORT.fullmatch(endpoint) if isinstance(endpoint, str) else None
    return None if match is None else int(match[1])


def _offset(port: object, rank: int) -> int | None:
    return port + rank if isinstance(port, int) else None


def _at(host: str, port: int | None) -> str | None:
    if port is None or not 1 <= port <= 65_535 or not host:
        return None
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
