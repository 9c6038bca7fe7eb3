"""The same work through one gateway, three of them, peers or not, and three processes of one.

    python -m tests.bench.bench_gateways [--rounds N] [--requests N] [--short N] [--before KIND]

Every round sends the same requests, whose output lengths no gateway knows, within some seconds to
the same four emulated agents of unequal speed, by each arrangement in turn, each request over a
connection of its own; three gateways get them in turn. No child betters plans: they would take
turns at this machine's cores. Told are the makespan, from the first
request to the last answer, and over that of one gateway; and the mean time of an answer. The same
before four plain servers, with and without peers; `--before agents`, or `plain`, is one of both,
and `--before none` neither. Then what a short answer costs in CPU time, by one process, by two, and
by a gateway that tells a peer, and by that peer.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median

import aiohttp

from solver.cost.estimators import BYTES_PER_TOKEN
from solver.sim.workload import gsm8k
from tests import http
from tests.bench.bench_dashboard import cpu_s
from tests.helpers import Process, write_lengths
from tests.ports import free_ports
from tests.waiting import eventually

SPEEDS, SLOTS, RATE, SEED = (1.0, 1.0, 0.75, 1.5), 16, 100.0, 20261129
# Rounds of some 40 ms, whose lateness on a busy machine is small, and answers of as many fewer.
SHORTER = 4
AT_ONCE = 16
PLAIN, PACE_S = "plain", 0.02  # of servers without agents: the model, and seconds of a token


def agents(stack: ExitStack, lengths: Path) -> list[str]:
    """Emulated ones, which know how long their answers are."""
    urls = []
    for port, speed in zip(free_ports(len(SPEEDS)), SPEEDS, strict=True):
        flags = ("--port", str(port), "--name", f"agent-{port}", "--speed", str(speed))
        own = ("--slots", str(SLOTS), "--lengths", str(lengths))
        agent = stack.enter_context(Process("agent", *flags, *own))
        urls.append(agent.wait_for(r"listening url=(\S+)"))
    return urls


def gateway(
    stack: ExitStack, workers: Sequence[str], processes: int, *more: str
) -> tuple[str, Process]:
    """One that sees its workers, by each of its processes."""
    flags = ("--worker", ",".join(workers), "--processes", str(processes), "--plan-deadline-s", "0")
    made = stack.enter_context(Process("gateway", "--port", "0", *flags, *more))
    wanted = len(workers) * processes
    _wait_for(made, "worker is up", wanted)
    return made.wait_for(r"listening url=(\S+)"), made


def _wait_for(process: Process, what: str, times: int) -> None:
    eventually(lambda: sum(what in line for line in list(process.lines)) >= times)


def peers(
    stack: ExitStack, workers: Sequence[str], count: int, *more: str
) -> list[tuple[str, Process]]:
    """So many gateways that tell each other what they send."""
    ports = free_ports(count)
    named = ("--peers", ",".join(f"http://127.0.0.1:{port}" for port in ports))
    made = [gateway(stack, workers, 1, *named, "--port", str(port), *more) for port in ports]
    for _, process in made:
        _wait_for(process, "a peer is heard", count - 1)
    return made


def plain_servers(stack: ExitStack, count: int, *more: str) -> list[str]:
    """Servers without agents."""
    program = (sys.executable, "-m", "tests.plain_server", *more)
    servers = [stack.enter_context(Process(program=program)) for _ in range(count)]
    port = r"^port (\d+)$"
    return [f"http://127.0.0.1:{one.wait_for(port)}" for one in servers]


def family(pid: int) -> list[int]:
    """The process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *itertools.chain.from_iterable(family(int(child)) for child in children)]


def trace(count: int) -> list[tuple[str, int]]:
    """Prompts, each unlike all others from its first words on, and output tokens."""
    rng = random.Random(SEED)
    made = []
    for number, request in enumerate(gsm8k(count, rng)):
        text = f"{rng.randrange(10**9)} {number}. " + "How many clips did she sell? " * 100
        tokens = max(1, request.output_tokens // SHORTER)
        made.append((text[: int(request.prompt_tokens * BYTES_PER_TOKEN)], tokens))
    return made


async def _send(
    urls: Sequence[str], requests: Sequence[tuple[str, int]], model: str
) -> list[float]:
    """When each was answered, and how long that took, from the first on.

    Servers without agents are told by each request how long its answer is, and do not stream.
    """
    rng, to = random.Random(SEED), itertools.cycle(urls)
    start, at_s, took = time.monotonic(), 0.0, list[float]()
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    patience = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:

        async def ask(url: str, prompt: str, tokens: int, at_s: float) -> None:
            await asyncio.sleep(max(0.0, start + at_s - time.monotonic()))
            body = {"model": model, "prompt": prompt, "max_tokens": 512 // SHORTER}
            if model == PLAIN:
                body["max_tokens"] = tokens
            async with session.post(
                url + "/v1/completions", json=body, headers={"x-pace": str(PACE_S)}
            ) as answer:
                answer.raise_for_status()
                await answer.read()
            took.append(time.monotonic() - start - at_s)

        async with asyncio.TaskGroup() as group:
            for prompt, tokens in requests:
                at_s += rng.expovariate(RATE)
                group.create_task(ask(next(to), prompt, tokens, at_s))
    return [time.monotonic() - start, fmean(took)]


def before_agents(stack: ExitStack, rounds: int, count: int) -> None:
    """Print the first table."""
    requests = trace(count)
    lengths = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "lengths.jsonl"
    urls = agents(stack, write_lengths(lengths, requests))
    arrangements = {
        "one gateway": [gateway(stack, urls, 1)[0]],
        "three gateways": [gateway(stack, urls, 1)[0] for _ in range(3)],
        "three peers": [url for url, _ in peers(stack, urls, 3)],
        "--processes 3": [gateway(stack, urls, 3)[0]],
    }
    makespans(arrangements, rounds, requests, "llama-65b")
    for name, to in arrangements.items():
        print(f"{name:15} refused as full: {sum(map(refused, to)):.0f}")


def before_plain(stack: ExitStack, rounds: int, count: int) -> None:
    """Print the second: as many slots in all, on servers that tell nothing of them."""
    urls = plain_servers(stack, len(SPEEDS), "0", str(SLOTS))
    slots = ("--plain-slots", str(SLOTS))
    arrangements = {
        "one gateway": [gateway(stack, urls, 1, *slots)[0]],
        "three gateways": [gateway(stack, urls, 1, *slots)[0] for _ in range(3)],
        "three peers": [url for url, _ in peers(stack, urls, 3, *slots)],
    }
    makespans(arrangements, rounds, trace(count), PLAIN)


def makespans(
    arrangements: dict[str, list[str]], rounds: int, requests: list[tuple[str, int]], model: str
) -> None:
    """Print a table."""
    found: dict[str, list[list[float]]] = {name: [] for name in arrangements}
    for _ in range(rounds + 1):  # the first teaches all of them lengths
        for name, to in arrangements.items():
            found[name].append(asyncio.run(_send(to, requests, model)))
    first = [row[0] for row in found["one gateway"][1:]]
    print(
        f"{model}: {len(requests)} requests, {rounds} rounds, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for name, rows in found.items():
        spans, means = zip(*rows[1:], strict=True)
        over = median(span / one - 1 for span, one in zip(spans, first, strict=True))
        print(
            f"{name:15} {median(spans):6.2f} s ({100 * over:+.1f} %)  mean {median(means):6.2f} s"
        )


def refused(url: str) -> float:
    """Requests that agents have refused for others' sake."""
    lines = http.get(url + "/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if 'retries_total{why="full"}' in line)


async def _short(url: str, count: int) -> None:
    names: Iterator[int] = iter(range(count))
    connector = aiohttp.TCPConnector(limit=0)

    async def one_by_one(session: aiohttp.ClientSession) -> None:
        for _ in names:
            body = {"model": "plain", "prompt": "How many clips?", "max_tokens": 1}
            async with session.post(url + "/v1/completions", json=body) as answer:
                answer.raise_for_status()
                await answer.read()

    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_by_one(session))


def costs(stack: ExitStack, rounds: int, count: int) -> None:
    """Print the last table."""
    urls = plain_servers(stack, 2)
    pair = peers(stack, urls, 2)
    made = {
        "one process": [gateway(stack, urls, 1)],
        "two processes": [gateway(stack, urls, 2)],
        "a peer that sends": pair[:1],
        "a peer that hears": pair,
    }
    spent: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds + 1):
        for name, ((url, process), *others) in made.items():
            counted = others[0][1] if others else process
            before = sum(map(cpu_s, family(counted.process.pid)))
            asyncio.run(_short(url, count))
            after = sum(map(cpu_s, family(counted.process.pid)))
            spent[name].append(1e6 * (after - before) / count)
    for name, costs_us in spent.items():
        print(f"{name:17} {median(costs_us[1:]):5.0f} µs of CPU a short answer")


def main(rounds: int, count: int, short: int, before: str) -> None:
    """Print it all."""
    for name, table in (("agents", before_agents), ("plain", before_plain)):
        if before in (name, "all"):
            with ExitStack() as stack:
                table(stack, rounds, count)
    with ExitStack() as stack:
        costs(stack, rounds, short)


if __name__ == "__main__":
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    main(
        int(given.get("--rounds", 3)),
        int(given.get("--requests", 300)),
        int(given.get("--short", 2000)),
        given.get("--before", "all"),
    )
