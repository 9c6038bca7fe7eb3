"""What a server says of its own limits, whatever a probe tried.

Asked are the pages that engines have: an agent's state, ``/v1/models``, ``/metrics``, and
``/server_info`` (SGLang; vLLM with ``VLLM_SERVER_DEV_MODE=1``; ``/get_server_info`` at older
SGLang). The first that tells a limit is believed, nearest to the engine first; a page that is not
there, or is something else, tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import aiohttp
import orjson

from router.http.connections import read_bounded
from router.observe.engine_metrics import read_signals
from router.wire import STATE_PATH, AgentState, WireError

MOST_PAGE_BYTES = 1 << 20
PAGE_S = 10.0
INFO_PATHS = ("/server_info?config_format=json", "/get_server_info")
# Its names in vLLM's configuration, and in SGLang's.
NAMES: Mapping[str, tuple[str, ...]] = {
    "slots": ("max_num_seqs", "max_running_requests"),
    "kv_tokens": ("max_total_num_tokens", "max_total_tokens"),
    "max_batched_tokens": ("max_num_batched_tokens", "max_prefill_tokens"),
    "max_model_len": ("max_model_len", "context_length"),
}
MOST = 10**12  # a number above is none
DEPTH = 4  # objects within each other in which limits are looked for


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a server; None where it does not tell.

    Attributes:
        slots: requests that it runs at once.
        kv_tokens: cached tokens that fit into its memory.
        max_batched_tokens: most tokens in one iteration.
        max_model_len: prompt and output tokens that one request may have.
    """

    slots: int | None = None
    kv_tokens: int | None = None
    max_batched_tokens: int | None = None
    max_model_len: int | None = None

    def or_else(self, other: Limits) -> Limits:
        """These, and where nothing is told the others."""
        told = {one.name: getattr(other, one.name) for one in fields(self)}
        return replace(
            self, **{name: value for name, value in told.items() if getattr(self, name) is None}
        )


async def limits_of(session: aiohttp.ClientSession, url: str, model: str) -> Limits:
    """What the server at `url` says of itself, and of `model`."""
    state = await _page(session, url + STATE_PATH, first_line=True)
    if state is not None:
        try:
            agent = AgentState.decode(state)
            return Limits(agent.slots, agent.kv_tokens, None, agent.max_model_len)
        except WireError:
            pass
    models = await _page(session, url + "/v1/models")
    metrics = await _page(session, url + "/metrics")
    found = of_models(models or b"", model).or_else(of_metrics(metrics or b""))
    for path in INFO_PATHS:
        info = await _page(session, url + path)
        if info is not None:
            return found.or_else(of_info(info))
    return found


def of_models(page: bytes, model: str) -> Limits:
    """Of ``/v1/models``, the model's entry."""
    listed = _json(page)
    entries = listed.get("data") if isinstance(listed, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("id") == model:
            return Limits(max_model_len=_count(entry.get("max_model_len")))
    return Limits()


def of_metrics(page: bytes) -> Limits:
    """Of an engine's metrics."""
    signals = read_signals(page)
    return Limits(_count(signals.slots), _count(signals.kv_tokens))


def of_info(page: bytes) -> Limits:
    """Of ``/server_info``, wherever in it a limit is told; the outermost counts."""
    told: dict[str, int] = {}
    for key, value in _outermost_first(_json(page)):
        for name, names in NAMES.items():
            count = _count(value)
            if key in names and count is not None:
                told.setdefault(name, count)
    return Limits(**told)


def _outermost_first(found: object) -> Iterator[tuple[str, object]]:
    level = [found]
    for _ in range(DEPTH):
        objects = [one for one in level if isinstance(one, dict)]
        yield from (pair for one in objects for pair in one.items())
        level = [inner for one in objects for inner in one.values()]
        level += [one for inner in level if isinstance(inner, list) for one in inner]


def _count(value: object) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and isinstance(value, int) and 0 < value < MOST else None


def _json(page: bytes) -> Any:  # noqa: ANN401
    try:
        return orjson.loads(page)
    except orjson.JSONDecodeError:
        return None


async def _page(
    session: aiohttp.ClientSession, url: str, *, first_line: bool = False
) -> bytes | None:
    """A page, or its first line; None where there is none."""
    timeout = aiohttp.ClientTimeout(total=PAGE_S)
    try:
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            if response.status != 200:
                return None
            if first_line:
                return await response.content.readline()
            return await read_bounded(response, MOST_PAGE_BYTES)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
