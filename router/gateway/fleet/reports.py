"""One worker's own word: an agent's state stream, or probes of a plain server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import aiohttp
import orjson

from router.wire import STATE_PATH, STATE_TIMEOUT_S, AgentState, WireError

PROBE_INTERVAL_S = 1.0  # between probes of a worker without an agent

Models = dict[str, dict[str, Any]]


async def reports(
    session: aiohttp.ClientSession, url: str, connect_s: float
) -> AsyncGenerator[AgentState | Models, None]:
    """An agent's states until its stream ends, or what a plain server serves until it fails.

    Raises:
        WireError: if what answers there is neither.
        aiohttp.ClientError: if it cannot be reached, or breaks off.
        TimeoutError: if it falls silent.
    """
    timeout = aiohttp.ClientTimeout(sock_connect=connect_s, sock_read=STATE_TIMEOUT_S)
    async with session.get(url + STATE_PATH, timeout=timeout) as response:
        if response.status == 200:
            async for line in response.content:
                yield AgentState.decode(line)
            return
        if response.status >= 500:
            raise WireError(f"{url}{STATE_PATH} answers {response.status}")
    while True:
        yield await _models(session, url)
        await asyncio.sleep(PROBE_INTERVAL_S)


async def _models(session: aiohttp.ClientSession, url: str) -> Models:
    timeout = aiohttp.ClientTimeout(total=STATE_TIMEOUT_S)
    async with session.get(url + "/v1/models", timeout=timeout) as response:
        response.raise_for_status()
        body = await response.read()
    with suppress(orjson.JSONDecodeError, TypeError, KeyError):
        return {str(entry["id"]): entry for entry in orjson.loads(body)["data"]}
    raise WireError(f"{url}/v1/models is not OpenAI's list of models")
