"""What a gateway needs: CPU time a request, and memory for the requests that it remembers.

    python -m tests.bench.bench_gateway [--agents N] [--seconds S]

CPU time is that of the gateway and of its solver, at a steady pace that leaves slots free: whole
answers, and streams of two lengths, from which follows what an event costs; then flat out, when it
wakes up less often. Memory, at first and once as many short requests have ended as it remembers;
and how many series it exports.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from router.settings.gateway import GatewaySettings
from tests import http
from tests.bench.bench_dashboard import cpu_s, processes
from tests.helpers import Fleet

PACE = 50  # requests a second
LENGTHS = (1, 65)  # output tokens
AT_ONCE = 16
PAGE = os.sysconf("SC_PAGESIZE")


def body(name: str, tokens: int, *, stream: bool) -> dict[str, object]:
    prompt = f"{name}. " + "How many clips did she sell? " * 20
    return {"model": "llama-65b", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True,
            "stream": stream}  # fmt: skip


async def paced(url: str, tokens: int, seconds: float, *, stream: bool) -> None:
    """Requests at the pace, whether or not those before have ended."""
    async with http.AsyncClient(base_url=url, timeout=60) as client, asyncio.TaskGroup() as group:
        start = time.monotonic()
        for k in range(int(PACE * seconds)):
            await asyncio.sleep(max(0.0, start + k / PACE - time.monotonic()))
            asked = body(f"{tokens} {stream} {k}", tokens, stream=stream)
            group.create_task(client.post("/v1/completions", json=asked))


async def filled(url: str, count: int) -> None:
    """So many short requests, some at once."""
    names = iter(range(count))

    async def one_by_one(client: httpx.AsyncClient, names: Iterator[int]) -> None:
        for k in names:
            answer = await client.post("/v1/completions", json=body(f"fill {k}", 1, stream=False))
            answer.raise_for_status()

    async with http.AsyncClient(base_url=url, timeout=60) as client, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_by_one(client, names))


def family(pid: int) -> list[int]:
    """The gateway's process and its solver's."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def megabytes(pid: int) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6


def cpu_ms(fleet: Fleet, gateway: int, tokens: int, seconds: float, *, stream: bool) -> float:
    """Of gateway and solver, a request."""
    before = sum(map(cpu_s, family(gateway)))
    asyncio.run(paced(fleet.url, tokens, seconds, stream=stream))
    return 1000 * (sum(map(cpu_s, family(gateway))) - before) / int(PACE * seconds)


def series(url: str) -> int:
    lines = http.get(f"{url}/metrics").text.splitlines()
    return sum(not line.startswith("#") for line in lines)


def main(agents: int, seconds: float) -> None:
    """Print it all."""
    remembered: int = GatewaySettings.model_fields["remember"].default
    with Fleet("--agents", str(agents)) as fleet:
        gateway = processes(fleet)[0]
        print("memory at first:", *(f"{megabytes(pid):.0f} MB" for pid in family(gateway)))
        asyncio.run(paced(fleet.url, 1, 2, stream=False))  # warming up
        idle = sum(map(cpu_s, family(gateway)))
        time.sleep(seconds)
        idle = (sum(map(cpu_s, family(gateway))) - idle) / seconds
        print(f"idle: {100 * idle:.1f} % of a core")
        for stream in (False, True):
            few, many = (cpu_ms(fleet, gateway, n, seconds, stream=stream) for n in LENGTHS)
            kind, more = "streams" if stream else "whole answers", many - few
            print(
                f"{kind} at {PACE} a second: {few:.2f} ms a request of {LENGTHS[0]} token, "
                f"{1000 * more / (LENGTHS[1] - LENGTHS[0]):.0f} µs for each further one"
            )
        before, start = sum(map(cpu_s, family(gateway))), time.monotonic()
        asyncio.run(filled(fleet.url, remembered))
        flat_out = (sum(map(cpu_s, family(gateway))) - before) / remembered
        rate = remembered / (time.monotonic() - start)
        print(
            f"{AT_ONCE} clients flat out: {rate:.0f} a second, {1000 * flat_out:.2f} ms a request"
        )
        print(f"memory with {remembered} requests remembered:",
              *(f"{megabytes(pid):.0f} MB" for pid in family(gateway)))  # fmt: skip
        print(f"series: {series(fleet.url)} of the gateway, {series(fleet.agents[0])} of an agent")


if __name__ == "__main__":
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    main(int(given.get("--agents", 2)), float(given.get("--seconds", 10)))
