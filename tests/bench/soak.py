"""Half an hour at four fifths of a fleet's capacity, with faults: memory and descriptors stay flat.

python -m tests.bench.soak [minutes]
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

import aiohttp

from tests.bench.bench_overload import gateway_pid, rss_mib
from tests.helpers import Fleet

# Three workers that together do some nine answers a second.
FLEET = ("--agents", "3", "--slots", "16", "--speed", "2", "--faults", "--remember", "500")
RATE, SAMPLE_S = 0.8 * 9.0, 10.0
BODY = {"model": "llama-65b", "max_tokens": 512}
# Of a thousand requests: a slow start, an error, silence, a broken engine, a process that dies.
FAULTS = {"latency=1": 20, "status=500": 20, "stall": 2, "break=20": 1, "crash=20": 1}
LEAVE, STREAM = 0.05, 0.7
# What may be added in the second half: of memory, a twentieth and 8 MiB; some connections.
MOST_SHARE, MOST_MIB, MOST_FILES = 0.05, 8.0, 24


async def ask(session: aiohttp.ClientSession, url: str, rng: random.Random) -> str:
    """What came of one request."""
    body = {**BODY, "prompt": f"{rng.random()} " + "word " * 40, "stream": rng.random() < STREAM}
    headers, kind = dict[str, str](), rng.random() * 1000
    for fault, share in FAULTS.items():
        if 0 <= kind < share:
            headers["x-makespan-fault"] = fault
        kind -= share
    limit_s = rng.uniform(0.1, 5.0) if rng.random() < LEAVE else 120.0
    try:
        async with (
            asyncio.timeout(limit_s),
            session.post(url + "/v1/completions", json=body, headers=headers) as answer,
        ):
            await answer.read()
            return str(answer.status)
    except TimeoutError:
        return "left"
    except aiohttp.ClientError:
        return "broken off"


def files(pid: int) -> int:
    """Open descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def soak(url: str, pid: int, span_s: float) -> tuple[list[tuple[float, int]], Counter[str]]:
    """Memory and descriptors over time, and what came of the requests."""
    rng, came, samples = random.Random(7), Counter[str](), list[tuple[float, int]]()
    running, begun = set[asyncio.Task[str]](), time.monotonic()
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        while (now := time.monotonic() - begun) < span_s:
            task = asyncio.create_task(ask(session, url, random.Random(rng.random())))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda done: came.update([done.result()]))
            if now >= SAMPLE_S * len(samples):
                samples.append((rss_mib(pid), files(pid)))
            await asyncio.sleep(rng.expovariate(RATE))
        await asyncio.gather(*running)
    return samples, came


def main() -> None:
    """Print both halves' figures.

    Raises:
        SystemExit: with 1, if something grows, the gateway has ended, or too few were served.
    """
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    with Fleet(*FLEET) as fleet:
        pid = gateway_pid(fleet)
        samples, came = asyncio.run(soak(fleet.url, pid, 60 * minutes))
        wrong = [line for line in fleet.lines if "Traceback" in line or "CRITICAL" in line]
        same = gateway_pid(fleet) == pid
    print("answers:", dict(came.most_common()))
    third = max(1, len(samples) // 3)
    print("            at first  in the middle  at the end (medians of thirds)")
    figures = []
    memories, opened = [mib for mib, _ in samples], [float(count) for _, count in samples]
    for name, values in (("memory, MiB", memories), ("descriptors", opened)):
        parts = [median(values[k * third : (k + 1) * third or None]) for k in range(3)]
        figures.append(parts)
        print(f"{name:12}" + "".join(f"{part:12.0f}" for part in parts))
    (_, memory, memory_end), (_, count, count_end) = figures
    flat = memory_end <= memory * (1 + MOST_SHARE) + MOST_MIB and count_end <= count + MOST_FILES
    served = came["200"] >= 0.8 * came.total()
    if not (flat and same and served) or wrong:
        sys.exit(f"not flat, or not well: {wrong[:3]}")


if __name__ == "__main__":
    main()
