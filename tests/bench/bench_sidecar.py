"""What a sidecar costs: an emulated server with and without it, in turn, in one run.

    python -m tests.bench.bench_sidecar [--seconds S] [--speed X]

The server prefills first, and the sidecar lets everything through that fits, so that both make the
same decisions and the ratio is the price of standing between. Closed loop, twice as many clients as
slots, half of them streaming. The latency is that of a single request to an idle server: of one
token, median and 95th percentile, direct and through the sidecar in turn.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from itertools import count

import aiohttp

from solver.cost.profiles import PROFILES
from tests.helpers import Process

SLOTS = (16, 64)
BODY = {"model": "llama-65b", "prompt": "How many apples does Tom have?", "ignore_eos": True}


async def answer(client: aiohttp.ClientSession, url: str, tokens: int, *, stream: bool) -> None:
    body = {**BODY, "max_tokens": tokens, "stream": stream}
    async with client.post(url + "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for _ in response.content.iter_any():
            pass


async def throughput(url: str, slots: int, seconds: float) -> float:
    """Output tokens a second of requests that end after a warm-up of a third of the time."""
    serial, made = count(), 0
    start = time.monotonic() + seconds / 3
    end = start + seconds

    async def work(client: aiohttp.ClientSession) -> None:
        nonlocal made
        while time.monotonic() < end:
            k = next(serial)
            tokens = 40 + 37 * k % 121
            await answer(client, url, tokens, stream=k % 2 == 0)
            if start <= time.monotonic() < end:
                made += tokens

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        await asyncio.gather(*(work(client) for _ in range(2 * slots)))
    return made / seconds


async def latency(urls: list[str], times: int = 60) -> list[list[float]]:
    """Seconds of requests of one token, to each address in turn."""
    found: list[list[float]] = [[] for _ in urls]
    async with aiohttp.ClientSession() as client:
        for _ in range(times):
            for url, mine in zip(urls, found, strict=True):
                begun = time.perf_counter()
                await answer(client, url, 1, stream=False)
                mine.append(time.perf_counter() - begun)
    return found


def measure(slots: int, seconds: float, speed: float) -> None:
    """One row of the table."""
    common = ("agent", "--port", "0", "--slots", str(slots), "--policy", "prefill-first")
    with Process(*common, "--speed", str(speed)) as server:
        direct = server.wait_for(r"listening url=(\S+)")
        cost = json.dumps(PROFILES["llama-65b-ascend"].cost.scaled(1 / speed).to_ms())
        flags = ("--engine", "openai", "--upstream", direct, "--cost", cost)
        with Process(*common, *flags) as agent:
            url = agent.wait_for(r"listening url=(\S+)")
            agent.wait_for(r"upstream is (up)")
            alone, through = 0.0, 0.0
            for _ in range(2):  # in turn, so that a busy machine hurts both
                alone += asyncio.run(throughput(direct, slots, seconds)) / 2
                through += asyncio.run(throughput(url, slots, seconds)) / 2
            plain, held = asyncio.run(latency([direct, url]))
    added = statistics.median(held) - statistics.median(plain)
    tail = statistics.quantiles(held, n=20)[-1] - statistics.quantiles(plain, n=20)[-1]
    print(
        f"{slots:>6}{alone:>12.0f}{through:>12.0f}{through / alone:>10.3f}"
        f"{added * 1e3:>16.2f}{tail * 1e3:>14.2f}",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    seconds, speed = float(flags.get("--seconds", 12)), float(flags.get("--speed", 1))
    print(f"server at speed {speed:g}; tokens/s over {seconds:g} s, twice each")
    print(
        f"{'slots':>6}{'alone':>12}{'sidecar':>12}{'ratio':>10}{'added p50, ms':>16}{'p95, ms':>14}"
    )
    for slots in SLOTS:
        measure(slots, seconds, speed)


if __name__ == "__main__":
    main()
