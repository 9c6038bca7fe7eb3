"""Half an hour at four fifths of a fleet's capacity, with faults: memory and descriptors stay flat.

python -m tests.bench.soak [minutes]

Looked at are the gateway, the supervisor and the largest of the agents, which die and are started
again; what the log says of engines that were asked to break down is no fault.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
BREAKDOWN = "InjectedBreakdown"
# What may be added in the last third: of memory, a twentieth and 8 MiB; some connections.
MOST_SHARE, MOST_MIB, MOST_FILES = 0.05, 8.0, 24
LEAST_SERVED = 0.8


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


Sample = dict[str, tuple[float, float]]


def looked_at(supervisor: int, gateway: int) -> Sample:
    """Memory in MiB and descriptors now, by whose they are."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    agents = list[tuple[float, float]]()
    for pid in {*map(int, children)} - {gateway}:
        with suppress(OSError):  # it has just died
            agents.append((rss_mib(pid), files(pid)))
    found = {"gateway": gateway, "supervisor": supervisor}
    most = tuple(max(column) for column in zip(*agents, strict=True)) or (0.0, 0.0)
    own: Sample = {name: (rss_mib(pid), files(pid)) for name, pid in found.items()}
    return own | {"an agent": (most[0], most[1])}


def faults(lines: Sequence[str]) -> Iterator[str]:
    """Records of the log that tell of what should not be."""
    records, broken, stopped = list[str](), 0, 0
    for line in lines:
        if line.startswith("  ") and records:
            records[-1] += "\n" + line
        else:
            records.append(line)
    for record in records:
        stops = "could not go on" in record
        broken, stopped = broken + record.endswith(BREAKDOWN), stopped + stops
        if ("Traceback" in record or "CRITICAL" in record) and not (
            stops or record.endswith(BREAKDOWN)
        ):
            yield record
    if stopped > broken:
        yield f"{stopped} processes could not go on, but {broken} engines were to break down"


async def soak(url: str, pids: tuple[int, int], span_s: float) -> tuple[list[Sample], Counter[str]]:
    """What is looked at over time, and what came of the requests."""
    rng, came, samples = random.Random(7), Counter[str](), list[Sample]()
    running, begun = set[asyncio.Task[str]](), time.monotonic()
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        while (now := time.monotonic() - begun) < span_s:
            task = asyncio.create_task(ask(session, url, random.Random(rng.random())))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda done: came.update([done.result()]))
            if now >= SAMPLE_S * len(samples):
                samples.append(looked_at(*pids))
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
        samples, came = asyncio.run(soak(fleet.url, (fleet.process.pid, pid), 60 * minutes))
        wrong = list(faults(fleet.lines))
        same = gateway_pid(fleet) == pid
    print("answers:", dict(came.most_common()))
    print(f"{'':24}at first  in the middle  at the end (medians of thirds)")
    for name in samples[0]:
        for k, what in enumerate(("memory, MiB", "descriptors")):
            parts = thirds([sample[name][k] for sample in samples])
            print(f"{f'{name}: {what}':24}" + "".join(f"{part:12.0f}" for part in parts))
            most = (parts[1] * (1 + MOST_SHARE) + MOST_MIB, parts[1] + MOST_FILES)[k]
            if parts[2] > most:
                wrong.append(f"{what} of the {name.split()[-1]} grows")
    if not same:
        wrong.append("the gateway has ended")
    if came["200"] < LEAST_SERVED * came.total():
        wrong.append("too few were served")
    if wrong:
        sys.exit("\n".join(("not well:", *wrong)))


def thirds(values: Sequence[float]) -> list[float]:
    """The median of each third."""
    third = max(1, len(values) // 3)
    return [median(values[k * third : (k + 1) * third if k < 2 else None]) for k in range(3)]


if __name__ == "__main__":
    main()
