"""The live part of `tests.bench.bench_hybrid`: a real gateway, a real agent, clients and batches.

All of it is `SLOWER` than in the simulation, the engine, its clients and what they ask for alike,
so that a few cores have time for what the gateway, the agent and these clients compute; seconds are
told as the engine's.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import aiohttp

from solver.cost.estimators import BYTES_PER_TOKEN
from solver.cost.model import CostModel
from solver.sim.request import Request
from solver.sim.worker import WorkerSetting
from tests.e2e.batch_gateway import ENDPOINT, MODEL, Gateway
from tests.helpers import Process, write_lengths

SLOWER = 4.0
MOST_TOKENS = 8192  # that an answer may have, for all that anybody is told


@dataclass(slots=True)
class Felt:
    """Of an online request: seconds to its first token, and between tokens if it has ended."""

    first_s: float = nan
    each_s: float = nan


def prompt_of(request: Request) -> str:
    """Of about as many tokens as it has, and like no other from the beginning on."""
    return f"{request.id} ".ljust(int(request.prompt_tokens * BYTES_PER_TOKEN), "x")


def run_live(
    online: Sequence[Request],
    jobs: Sequence[Sequence[Request]],
    looks_s: Sequence[float],
    cost: CostModel,
    setting: WorkerSetting,
) -> tuple[list[Felt], list[int]]:
    """What was felt, in the order of `online`, and lines answered at each of `looks_s`.

    It is over at the last of these.
    """
    everything = [*online, *(one for lines in jobs for one in lines)]
    rows = [(prompt_of(one), one.output_tokens) for one in everything]
    with tempfile.TemporaryDirectory() as folder:
        told = write_lengths(Path(folder) / "lengths", rows)
        flags = ["--cost", json.dumps(cost.to_ms()), "--speed", str(1 / SLOWER), "--port", "0"]
        flags += ["--max-model-len", str(2 * MOST_TOKENS)]
        flags += ["--slots", str(setting.slots), "--kv-tokens", str(int(setting.kv_tokens))]
        with Process("agent", *flags, "--model", MODEL, "--lengths", str(told)) as agent:
            url = agent.wait_for(r"listening url=(\S+)")
            with Gateway([url], str(Path(folder) / "data")) as gateway:
                return asyncio.run(_run(gateway, online, jobs, looks_s))


async def _run(
    gateway: Gateway,
    online: Sequence[Request],
    jobs: Sequence[Sequence[Request]],
    looks_s: Sequence[float],
) -> tuple[list[Felt], list[int]]:
    start_s = time.monotonic()

    async def until(seconds: float) -> None:
        await asyncio.sleep(start_s + seconds * SLOWER - time.monotonic())

    async def ask(request: Request, felt: Felt) -> None:
        await until(request.arrival_s)
        await _ask(session, request, felt)

    async def send(lines: Sequence[Request]) -> None:
        await until(lines[0].arrival_s)
        names.append(await asyncio.to_thread(gateway.create, [_line(one) for one in lines]))

    async def look(seconds: float) -> int:
        await until(seconds)
        found = [await asyncio.to_thread(gateway.get, name) for name in names]
        assert all(one.request_counts and not one.request_counts.failed for one in found), found
        return sum(one.request_counts.completed for one in found if one.request_counts)

    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(gateway.url, connector=connector, timeout=timeout) as session:
        felt, names = [Felt() for _ in online], list[str]()
        asking = asyncio.gather(*map(send, jobs), *map(ask, online, felt))
        looked = list(await asyncio.gather(*map(look, looks_s)))
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    return felt, looked


async def _ask(session: aiohttp.ClientSession, request: Request, felt: Felt) -> None:
    targets = request.targets
    headers = {
        "x-makespan-ttft-ms": f"{targets.ttft_s * SLOWER * 1000:g}",
        "x-makespan-tpot-ms": f"{targets.tpot_s * SLOWER * 1000:g}",
    }
    body = {**_body(request), "stream": True}
    sent_s = time.monotonic()
    async with session.post(ENDPOINT, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async for _ in answer.content.iter_any():
            if isnan(felt.first_s):
                first_s = time.monotonic()
                felt.first_s = (first_s - sent_s) / SLOWER
    felt.each_s = (time.monotonic() - first_s) / max(1, request.output_tokens - 1) / SLOWER


def _body(request: Request) -> dict[str, object]:
    return {"model": MODEL, "prompt": prompt_of(request), "max_tokens": MOST_TOKENS}


def _line(request: Request) -> dict[str, object]:
    return {"custom_id": request.id, "method": "POST", "url": ENDPOINT, "body": _body(request)}
