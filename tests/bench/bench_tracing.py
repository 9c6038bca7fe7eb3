"""What tracing costs a gateway: its CPU time a request, off and on, in turn, in one run.

    python -m tests.bench.bench_tracing [--requests N]

Requests of two tokens, sixteen at once, to one emulated agent that takes next to no time. "On, not
recorded" is a sample ratio of 0. The processor's clock ticks every 10 ms: the fewer requests a
round has, the coarser the figures.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import aiohttp

from tests import http
from tests.helpers import Process
from tests.otlp_sink import Sink
from tests.waiting import eventually

ROUNDS = 5
BODY = {"model": "llama-65b", "prompt": "How many?", "max_tokens": 2, "ignore_eos": True}


def cpu_s(pid: int) -> float:
    """Seconds that all threads of a process have computed."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ready(url: str) -> bool:
    return http.get(url + "/ready").status_code == 200


async def load(url: str, requests: int, clients: int = 16) -> None:
    left = iter(range(requests))

    async def work(client: aiohttp.ClientSession) -> None:
        for _ in left:
            async with client.post(url + "/v1/completions", json=BODY) as response:
                response.raise_for_status()
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))


def main(requests: int) -> None:
    with ExitStack() as stack:
        sink = stack.enter_context(Sink())
        agent = stack.enter_context(Process("agent", "--port", "0", "--speed", "1000"))
        worker = ("--worker", agent.wait_for(r"listening url=(\S+)"), "--plan-deadline-s", "0")
        on = ("--otel-endpoint", sink.url)
        kinds = {"off": (), "on, not recorded": (*on, "--otel-sample-ratio", "0"), "on": on}
        gateways = {
            name: stack.enter_context(Process("gateway", "--port", "0", *worker, *flags))
            for name, flags in kinds.items()
        }
        urls = {name: one.wait_for(r"listening url=(\S+)") for name, one in gateways.items()}
        for url in urls.values():
            eventually(partial(ready, url))
        spent: dict[str, list[float]] = {name: [] for name in kinds}
        for turn in range(ROUNDS + 1):  # the first to get warm
            for name, gateway in gateways.items():
                before = cpu_s(gateway.process.pid)
                asyncio.run(load(urls[name], requests))
                if turn:
                    spent[name].append((cpu_s(gateway.process.pid) - before) / requests * 1e6)
    print("CPU time of the gateway a request, microseconds: median, least and most of", ROUNDS)
    for name, times in spent.items():
        print(f"{name:18}{statistics.median(times):6.0f} {min(times):6.0f} {max(times):6.0f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[arguments.index("--requests") + 1]) if "--requests" in arguments else 1000)
