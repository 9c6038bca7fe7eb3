"""A gateway that gets 1, 2 and 4 times what its fleet can do: live, emulated engines.

python -m tests.bench.bench_overload [queue timely shed]
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.helpers import Fleet

# Two workers that together do some six answers a second; loads as multiples of that.
FLEET = ("--agents", "2", "--slots", "16", "--speed", "2")
CAPACITY, LOADS = 6.0, (1.0, 2.0, 4.0)
# Load comes for a while, of which the first seconds fill the fleet, and then what it can do.
WARM_S, SPAN_S, AFTER_S = 10.0, 40.0, 20.0
BODY = {"model": "llama-65b", "max_tokens": 512, "stream": True}
TTFT_S, TPOT_S = 2.0, 0.1  # as requests have by default
MOST_RETRIES = 3


@dataclass(slots=True)
class Try:
    """One sending: when, counted from the start, and what came of it.

    Attributes:
        told: it was sent after a Retry-After.
        kept: its answer came, and kept both targets.
    """

    at_s: float
    told: bool
    status: int = 0
    kept: bool = False


@dataclass
class Load:
    """Clients that come by themselves and, if refused, once they are told to."""

    url: str
    session: aiohttp.ClientSession
    begun_s: float = field(default_factory=time.monotonic)
    tries: list[Try] = field(default_factory=list)

    async def ask(self, number: int) -> None:
        """One client, until it is served or has come back often enough."""
        body = {**BODY, "prompt": f"{number} " + "word " * 40}
        for k in range(MOST_RETRIES + 1):
            one = Try(time.monotonic() - self.begun_s, k > 0)
            self.tries.append(one)
            async with self.session.post(self.url + "/v1/completions", json=body) as answer:
                one.status = answer.status
                if answer.status == 200:
                    await self._read(answer, one)
                    return
            await asyncio.sleep(int(answer.headers["retry-after"]))

    async def _read(self, answer: aiohttp.ClientResponse, one: Try) -> None:
        came = list[float]()
        async for line in answer.content:
            if line.startswith(b"data: {"):
                came.append(time.monotonic() - self.begun_s)
        tpot_s = (came[-1] - came[0]) / max(1, len(came) - 1)
        one.kept = came[0] - one.at_s <= TTFT_S and tpot_s <= TPOT_S


def rss_mib(pid: int) -> float:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


def gateway_pid(fleet: Fleet) -> int:
    """The gateway among what `makespan up` has started."""
    children = Path(f"/proc/{fleet.process.pid}/task/{fleet.process.pid}/children").read_text()
    named = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.split()}
    return next(pid for pid, line in named.items() if re.search(rb"\bgateway\b", line))


async def arrivals(
    load: Load, times: float, span_s: float, asked: list[asyncio.Task[None]]
) -> None:
    """Poisson, the same in every run."""
    rng, end = random.Random(5), time.monotonic() + span_s
    while time.monotonic() < end:
        asked.append(asyncio.create_task(load.ask(len(asked))))
        await asyncio.sleep(rng.expovariate(times * CAPACITY))


async def run(url: str, times: float) -> tuple[list[Try], float]:
    """All tries, and when the load had come to its end."""
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        load, asked = Load(url, session), list[asyncio.Task[None]]()
        await arrivals(load, times, WARM_S + SPAN_S, asked)
        over_s = time.monotonic() - load.begun_s
        await arrivals(load, 0.7, AFTER_S, asked)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return load.tries, over_s


def recovery_s(tries: Sequence[Try], over_s: float) -> float:
    """Seconds after the load until of the next ten that came by themselves nine were kept."""
    later = [one for one in tries if one.at_s >= over_s and not one.told]
    for k in range(len(later) - 9):
        if sum(one.kept for one in later[k : k + 10]) >= 9:
            return later[k].at_s - over_s
    return float("inf")


def main() -> None:
    """Print, for each way of admission and load, what came of it."""
    print("admission  load  kept/s  refused  came back, got in  recovery  memory")
    for admission in sys.argv[1:] or ("timely",):
        for times in LOADS:
            with Fleet(*FLEET, "--admission", admission) as fleet:
                tries, over_s = asyncio.run(run(fleet.url, times))
                memory = rss_mib(gateway_pid(fleet))
            seen = [one for one in tries if WARM_S <= one.at_s < over_s]
            kept, refused = sum(one.kept for one in seen), sum(one.status == 503 for one in seen)
            back = [one.status for one in tries if one.told and one.status]
            print(
                f"{admission:9} {times:5g} {kept / (over_s - WARM_S):7.2f} "
                f"{refused / len(seen):8.0%} {len(back):10}, "
                f"{sum(status == 200 for status in back) / max(1, len(back)):5.0%} "
                f"{recovery_s(tries, over_s):9.1f} s {memory:6.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
