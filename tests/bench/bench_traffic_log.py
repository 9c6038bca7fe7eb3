"""Whether a gateway's traffic log replays to what was: live on emulated agents, then simulated.

python -m tests.bench.bench_traffic_log [requests]
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import aiohttp
import numpy as np

from tests.helpers import Fleet, Process
from tests.waiting import eventually

RATE, SLOTS, SPEED, AGENTS = 20.0, "32", "4", "2"  # some two thirds of what they can do


async def load(url: str, count: int) -> None:
    """Requests that come by themselves."""
    rng = random.Random(3)
    connector = aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(url, connector=connector)
    async with session, asyncio.TaskGroup() as group:
        for k in range(count):
            prompt = f"{k} " + "word " * rng.randint(10, 200)
            group.create_task(ask(session, prompt, rng.randint(20, 300)))
            await asyncio.sleep(rng.expovariate(RATE))


async def ask(session: aiohttp.ClientSession, prompt: str, tokens: int) -> None:
    body = {"model": "llama-65b", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    async with session.post("/v1/completions", json=body | {"stream": True}) as answer:
        await answer.read()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "traffic.jsonl"
        flags = ("--agents", AGENTS, "--slots", SLOTS, "--speed", SPEED)
        with Fleet(*flags, "--traffic-log", str(log)) as fleet:
            asyncio.run(load(fleet.url, count))
            eventually(lambda: len(log.read_text().splitlines()) == count)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        told = ("--slots", SLOTS, "--speed", SPEED, "--workers", AGENTS, "--json")
        with Process("simulate", "--requests", str(log), *told) as simulate:
            found = json.loads(simulate.wait_for(r"^(\{.*\})$"))
    ends_s = [row["ended_after_s"] for row in rows]
    print(f"live       {dict(Counter(row['outcome'] for row in rows))}")
    print(f"simulated  {found['requests']} requests")
    for name, quantile in (("p50", 50), ("p95", 95), ("p99", 99)):
        live = float(np.percentile(ends_s, quantile))
        print(f"{name}: live {live:.3f} s, simulated {found['e2e_s'][name]:.3f} s")


if __name__ == "__main__":
    main()
