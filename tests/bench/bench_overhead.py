"""What a router costs: CPU time a request and a chunk, beside sglang-router, nginx and HAProxy.

    python -m tests.bench.bench_overhead [--rounds 3] [--seconds 5] [--routers makespan,nginx]

Two backends that do next to nothing, a client that does no more (C, in `overhead/`, built by `cc`),
and one router after the other between them, in turns, so that all meet the same machine. Ours does
all that it does by default: prediction, planning, metrics, explanations. CPU time is that of the
router's process and its children by the scheduler's own account, which hardly depends on what else
runs; times do.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx

from tests import http
from tests.bench.peers import packages
from tests.bench.peers.routers import OURS, ROUTERS, started
from tests.ports import free_ports
from tests.waiting import eventually

SOURCES = Path(__file__).parent / "overhead"
PEER = "sglang-round-robin"
STANDARD = (PEER, "nginx", "haproxy", OURS)
INTERVAL_US = 20_000  # between the events of a stream: an engine's decode round
QUESTION = "Why does a least-loaded policy lower the tail latency of a pool of inference servers? "


@dataclass(frozen=True, slots=True)
class Load:
    """What the client does: `rate` requests a second, 0: as many as it can, -1: all once."""

    words: str
    connections: int
    rate: int
    stream: bool = False


LOADS = (
    Load("64 connections", 64, 0),
    Load("500 requests/s", 64, 500),
    Load("50 requests/s", 32, 50),
    Load("a spaced chunk", 64, 0, stream=True),
    Load("5,000 at once", 5_000, -1),
)
MOST_S = 60.0  # until all that have come at once have their answers


@dataclass(frozen=True, slots=True)
class Result:
    """Of one router under one load; `cpu_us` for each request, or for each event of a stream.

    `last_s`: when the last answer was there.
    """

    cpu_us: float
    median_s: float
    failures: int
    last_s: float


Results = dict[tuple[str, str], list[Result]]  # by router and load, one a round


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs, and the bodies that the client sends."""

    folder: Path

    @property
    def backend(self) -> str:
        """The program's path."""
        return str(self.folder / "backend")

    def ask(self, port: int, load: Load, seconds: float) -> tuple[int, int, int, float, float]:
        """Requests, events, failures, the median of seconds, and those until the last answer."""
        body = self.folder / ("stream.json" if load.stream else "body.json")
        most_s = MOST_S if load.rate < 0 else seconds
        words = map(str, (port, body, load.connections, most_s, load.rate))
        done = subprocess.run(
            [str(self.folder / "client"), *words], capture_output=True, text=True, check=True
        )
        requests, events, failures, middle, last = done.stdout.split()
        return int(requests), int(events), int(failures), float(middle), float(last)


def build(folder: Path) -> Tools:
    """Compile what is needed."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("cc: a C compiler is needed to build backend and client; install one")
    for name in ("backend", "client"):
        source, program = str(SOURCES / f"{name}.c"), str(folder / name)
        subprocess.run([compiler, "-O2", "-o", program, source], check=True)
    body = {"model": "m", "messages": [{"role": "user", "content": QUESTION * 3}]}
    (folder / "body.json").write_text(json.dumps({**body, "max_tokens": 20}))
    (folder / "stream.json").write_text(json.dumps({**body, "max_tokens": 100, "stream": True}))
    return Tools(folder)


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def cpu_us(pid: int) -> float:
    """CPU time of a process and its children."""
    accounts = (
        account.read_text() for one in family(pid) for account in
        Path(f"/proc/{one}/task").glob("*/schedstat")
    )  # fmt: skip
    return sum(int(account.split()[0]) for account in accounts) / 1000


def measure(tools: Tools, port: int, pid: int | None, load: Load, seconds: float) -> Result:
    """One load, on a router that has warmed up; without a router, the backends themselves."""
    before = 0.0 if pid is None else cpu_us(pid)
    requests, events, failures, middle, last_s = tools.ask(port, load, seconds)
    spent = 0.0 if pid is None else cpu_us(pid) - before
    return Result(spent / max(1, events if load.stream else requests), middle, failures, last_s)


@contextmanager
def backends(tools: Tools, count: int = 2) -> Iterator[list[int]]:
    """Their ports."""
    ports = free_ports(count)
    running = [subprocess.Popen([tools.backend, str(port), str(INTERVAL_US)]) for port in ports]
    try:
        for port in ports:
            eventually(lambda port=port: _answers(port), "a backend")  # type: ignore[misc]
        yield ports
    finally:
        for one in running:
            one.kill()
            one.wait()


def _answers(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return http.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
    return False


def rounds(tools: Tools, names: list[str], count: int, seconds: float) -> Results:
    """All routers in turns."""
    found = defaultdict[tuple[str, str], list[Result]](list)
    with backends(tools) as ports:
        workers = [f"http://127.0.0.1:{port}" for port in ports]
        for turn in range(count):
            for load in LOADS:
                found["direct", load.words].append(measure(tools, ports[0], None, load, seconds))
            for name in names:
                with ExitStack() as stack:
                    folder = Path(stack.enter_context(TemporaryDirectory()))
                    router = started(ROUTERS[name], workers, [1.0] * len(workers), folder)
                    url, pid = stack.enter_context(router)
                    port = int(url.rpartition(":")[2])
                    tools.ask(port, LOADS[0], min(seconds, 2.0))
                    for load in LOADS:
                        found[name, load.words].append(measure(tools, port, pid, load, seconds))
                print(f"round {turn + 1}: {ROUTERS[name].words}", flush=True)
    return found


def table(found: Results, names: list[str]) -> str:
    """CPU microseconds, medians over the rounds, and how many times the peer's that is."""

    def cell(name: str, load: Load) -> str:
        mine = median(one.cpu_us for one in found[name, load.words])
        if (PEER, load.words) not in found:
            return f"{mine:.0f}"
        return f"{mine:.0f} ({mine / median(one.cpu_us for one in found[PEER, load.words]):.2f})"

    slow, burst = LOADS[2], LOADS[4]
    base = median(one.median_s for one in found["direct", slow.words])
    lines = [
        f"| CPU µs | {' | '.join(load.words for load in LOADS)} | ms added at 50/s "
        "| s until the last of 5,000 | failed |",
        "| --- |" + " --- |" * (len(LOADS) + 3),
    ]
    for name in names:
        added = 1000 * (median(one.median_s for one in found[name, slow.words]) - base)
        last_s = median(one.last_s for one in found[name, burst.words])
        failed = sum(one.failures for load in LOADS for one in found[name, load.words])
        cells = " | ".join(cell(name, load) for load in LOADS)
        version = f" {packages.version(ROUTERS[name].program)}" if ROUTERS[name].program else ""
        lines.append(
            f"| {ROUTERS[name].words}{version} | {cells} | {added:.2f} | {last_s:.2f} | {failed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table; what cannot be had is named and left out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--routers", default=",".join(STANDARD))
    given = parser.parse_args()
    names = []
    for name in given.routers.split(","):
        try:
            if ROUTERS[name].program:
                packages.program(ROUTERS[name].program)
            names.append(name)
        except packages.NotHadError as error:
            print(error)
    with TemporaryDirectory() as folder:
        found = rounds(build(Path(folder)), names, given.rounds, given.seconds)
    print(table(found, names))


if __name__ == "__main__":
    main()
