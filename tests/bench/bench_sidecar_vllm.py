"""A stock vLLM with and without a sidecar before it, in turn, in one run.

    python -m tests.bench.bench_sidecar_vllm [REPETITIONS]

vLLM's own server from `.venv-vllm` (`make test-engines` installs it), a tiny model on one thread,
16 slots, 512 tokens an iteration; all requests of a load come at once, as streams. CPU seconds are
those of the process that runs the model, on one thread: what a device would spend. The process
that schedules is not counted, as it polls for as long as it waits, which says how busy the machine
is. Wall seconds are there too, but client, sidecar and vLLM share the machine. All are medians.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.engines.tiny_model import make_tiny_model
from tests.engines.vllm_runs import BUDGET, ENVIRONMENT, SLOTS
from tests.helpers import ROOT, Process
from tests.ports import free_ports

VLLM = ROOT / ".venv-vllm/bin/python"
# Prompt and output tokens from and to, and how many requests.
LOADS = {
    "prefill-heavy": ((128, 384), (4, 32), 64),
    "balanced": ((16, 384), (8, 160), 64),
    "decode-heavy": ((16, 64), (64, 256), 40),
}
WORKER = "VLLM::Worker"
TICKS = os.sysconf("SC_CLK_TCK")
Request = tuple[list[int], int]


def draw(name: str) -> list[Request]:
    prompts, outputs, count = LOADS[name]
    rng = random.Random(1)
    return [
        ([rng.randrange(300, 4000) for _ in range(rng.randint(*prompts))], rng.randint(*outputs))
        for _ in range(count)
    ]


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """The server, once it answers."""
    command = [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "1024"]
    command += ["--max-num-seqs", str(SLOTS), "--max-num-batched-tokens", str(BUDGET)]
    command += ["--no-enable-prefix-caching"]
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server
        except OSError:
            time.sleep(0.5)
    raise SystemExit("vLLM did not start")


def cpu_s(pid: int) -> float:
    """CPU seconds of vLLM's workers among a process and all below it."""
    try:
        name, rest = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(") ", 1)
        below = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for path in below for child in path.read_text().split()]
    except FileNotFoundError:
        return 0.0
    fields = rest.split()
    own = (int(fields[11]) + int(fields[12])) / TICKS if name.startswith(WORKER) else 0.0
    return own + sum(map(cpu_s, children))


def iterations(url: str) -> float:
    """Iterations that vLLM has made."""
    with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        name = "vllm:iteration_tokens_total_count"
        return sum(s.value for family in families for s in family.samples if s.name == name)


async def burst(url: str, requests: list[Request]) -> None:
    """All at once."""

    async def one(client: aiohttp.ClientSession, prompt: list[int], tokens: int) -> None:
        body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True,
                "temperature": 0, "stream": True}  # fmt: skip
        async with client.post(url + "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for _ in answer.content.iter_any():
                pass

    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(300)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as client:
        await asyncio.gather(*(one(client, *request) for request in requests))


def measure(url: str, direct: str, pid: int, requests: list[Request]) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and iterations of one burst."""
    before = cpu_s(pid), time.monotonic(), iterations(direct)
    asyncio.run(burst(url, requests))
    return cpu_s(pid) - before[0], time.monotonic() - before[1], iterations(direct) - before[2]


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    if not VLLM.exists():
        print("no vLLM here: make test-engines installs it into .venv-vllm")
        return
    with TemporaryDirectory() as folder:
        (port,) = free_ports(1)
        server = start(make_tiny_model(Path(folder) / "tiny"), port)
        try:
            compare(f"http://127.0.0.1:{port}", server.pid, repetitions)
        finally:
            server.terminate()
            server.wait(60)


def compare(direct: str, pid: int, repetitions: int) -> None:
    flags = ("--engine", "openai", "--upstream", direct, "--slots", str(SLOTS))
    with Process("agent", "--port", "0", *flags) as agent:
        url = agent.wait_for(r"listening url=(\S+)")
        agent.wait_for(r"upstream is (up)")
        head = f"{'':<16}{'CPU s: alone':>14}{'sidecar':>10}{'ratio':>8}"
        print(
            f"{head}{'wall s: alone':>16}{'sidecar':>10}{'ratio':>8}"
            f"{'iterations: alone':>20}{'sidecar':>10}"
        )
        for name in LOADS:
            requests = draw(name)
            rows: list[list[tuple[float, float, float]]] = [[], []]
            for repetition in range(repetitions + 1):
                for mine, address in zip(rows, (direct, url), strict=True):
                    found = measure(address, direct, pid, requests)
                    if repetition:  # the first does not count
                        mine.append(found)
            alone, held = ([median(column) for column in zip(*side, strict=True)] for side in rows)
            print(
                f"{name:<16}{alone[0]:>14.2f}{held[0]:>10.2f}{alone[0] / held[0]:>8.2f}"
                f"{alone[1]:>16.2f}{held[1]:>10.2f}{alone[1] / held[1]:>8.2f}"
                f"{alone[2]:>20.0f}{held[2]:>10.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
