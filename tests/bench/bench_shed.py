"""What refusing hopeless requests gains when more comes than can be served: live, emulated engines.

python -m tests.bench.bench_shed
"""

from __future__ import annotations

import asyncio
import random
import time
from statistics import quantiles

import aiohttp

from tests.helpers import Fleet, scrape

# Two workers that together do some six requests of 280 tokens a second, and what comes.
FLEET = ("--agents", "2", "--slots", "16", "--speed", "2")
RATE, SPAN_S = 10.0, 50.0
BODY = {"model": "llama-65b", "max_tokens": 512, "stream": True}


async def ask(session: aiohttp.ClientSession, url: str, number: int) -> tuple[bool, float]:
    """Whether it was served, and seconds until its first event, or until it was refused."""
    body = {**BODY, "prompt": f"{number} " + "word " * 40}
    begun, first_s = time.monotonic(), 0.0
    async with session.post(url + "/v1/completions", json=body) as answer:
        async for _ in answer.content:
            first_s = first_s or time.monotonic() - begun
    return answer.status == 200, first_s


async def load(url: str) -> list[tuple[bool, float]]:
    """Poisson arrivals, the same in every run."""
    rng, end = random.Random(5), time.monotonic() + SPAN_S
    asked: list[asyncio.Task[tuple[bool, float]]] = []
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        while time.monotonic() < end:
            asked.append(asyncio.create_task(ask(session, url, len(asked))))
            await asyncio.sleep(rng.expovariate(RATE))
        return await asyncio.gather(*asked)


def main() -> None:
    """Print, for each way of admission, goodput and first tokens."""
    print("admission  requests  served  kept both  first token p50, p95 of those served")
    for admission in ("queue", "shed"):
        with Fleet(*FLEET, "--admission", admission) as fleet:
            answers = asyncio.run(load(fleet.url))
            kept = scrape(fleet.url).values['makespan_slo_requests_total{met="true",target="both"}']
        cuts = quantiles([first_s for served, first_s in answers if served], n=20)
        served = sum(served for served, _ in answers) / len(answers)
        print(
            f"{admission:9} {len(answers):9} {served:7.0%} {kept / len(answers):10.0%}"
            f"  {cuts[9]:.2f} s, {cuts[18]:.2f} s"
        )


if __name__ == "__main__":
    main()
