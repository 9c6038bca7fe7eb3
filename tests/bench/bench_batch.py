"""Batches by OpenAI's clients, and through crashes, in SQLite and in PostgreSQL.

    python -m tests.bench.bench_batch [--lines N] [--killed N] [--kills N]

Two emulated agents, as fast as this machine lets them be, answer a batch of which one line in
twenty is wrong, by OpenAI's client for Python and by that for Node where that is installed; told
are the lines a second from the batch's making to its end, the gateway's CPU time a line, and the
most memory that it has had. Then its gateway is killed so often, at seeded moments, in the midst of
a batch; and one of two gateways once. Whatever comes, each line must be answered once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.bench_dashboard import cpu_s
from tests.e2e.batch_gateway import OPEN, Gateway, agents, check, line, moments
from tests.helpers import ROOT
from tests.postgres import Postgres, postgres

NODE = ROOT / "tests" / "clients" / "node"
SPEED = ("--speed", "1000", "--slots", "64")


def lines(count: int) -> list[object]:
    """Some wrong."""
    return [line(k, method="GET") if k % 20 == 9 else line(k) for k in range(count)]


def ended(gateway: Gateway, name: str) -> float:
    """Seconds that a batch took, looked at twice a second."""
    while gateway.get(name).status in OPEN:
        time.sleep(0.5)
    batch = gateway.get(name)
    assert batch.status == "completed", batch
    assert batch.completed_at is not None
    return batch.completed_at - batch.created_at


def by_python(gateway: Gateway, count: int) -> float:
    """Lines a second."""
    name = gateway.create(lines(count))
    seconds = ended(gateway, name)
    batch = gateway.get(name)
    checked(count, *([one["custom_id"] for one in gateway.read(file)] for file in
                     (batch.output_file_id, batch.error_file_id)))  # fmt: skip
    return count / max(1.0, seconds)


def by_node(gateway: Gateway, count: int) -> float | None:
    """The same; None where Node's packages are not installed."""
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules").exists():
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(map(json.dumps, lines(count))))
        file.flush()
        command = [node, "batch.mjs", gateway.url, file.name]
        done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    checked(count, told["answers"], told["errors"])
    seconds = float(told["batch"]["completed_at"] - told["batch"]["created_at"])
    return count / max(1.0, seconds)


def checked(count: int, answers: Sequence[str], errors: Sequence[str]) -> None:
    """Each is there once, in the file where it belongs."""
    assert answers == [f"line-{k}" for k in range(count) if k % 20 != 9]
    assert errors == [f"line-{k}" for k in range(count) if k % 20 == 9]


def peak_mib(pid: int) -> float:
    """The most memory that a process has had."""
    for text in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if text.startswith("VmHWM:"):
            return int(text.split()[1]) / 1024
    raise AssertionError("the process is gone")


def crashes(workers: Sequence[str], store: str, count: int, kills: int) -> str:
    """A gateway that is killed again and again."""
    gateway = Gateway(workers, store)
    try:
        start = time.monotonic()
        name = gateway.create([line(k, tokens=8) for k in range(count)])
        for moment in moments(count, kills, "bench"):
            gateway.wait_answered(name, moment)
            gateway.stop(signal.SIGKILL)
            gateway = Gateway(workers, store)
        check(gateway, name, count)
        return f"{count} lines once each, {kills} kills, {time.monotonic() - start:.0f} s"
    finally:
        gateway.stop()


def one_of_two(workers: Sequence[str], store: str, count: int) -> str:
    """One of two that share the work is killed."""
    with ExitStack() as stack:
        first = Gateway(workers, store)
        stack.callback(first.stop)
        second = stack.enter_context(Gateway(workers, store))
        name = first.create([line(k, tokens=8) for k in range(count)])
        second.wait_answered(name, count // 3)
        first.stop(signal.SIGKILL)
        check(second, name, count)
        return f"{count} lines once each, one of two gateways killed"


@contextmanager
def stores(server: Postgres) -> Iterator[list[tuple[str, str, str]]]:
    """A name of each, and two places in it."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        yield [("SQLite", one, other), ("PostgreSQL", server.database(), server.database())]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--killed", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=10)
    told = parser.parse_args()
    with postgres() as server, stores(server) as places:
        print("| store | client | lines/s | gateway's CPU ms/line | peak MiB |")
        print("| --- | --- | --- | --- | --- |")
        with agents(*SPEED) as workers:
            for name, place, _ in places:
                for client, by in (("Python", by_python), ("Node", by_node)):
                    with Gateway(workers, place) as gateway:
                        pid = gateway.process.pid
                        before = cpu_s(pid)
                        rate = by(gateway, told.lines)
                        if rate is None:
                            continue
                        ms = (cpu_s(pid) - before) * 1000 / told.lines
                        memory = peak_mib(pid)
                    print(
                        f"| {name} | {client} | {rate:.0f} | {ms:.2f} | {memory:.0f} |", flush=True
                    )
        with agents("--speed", "100", "--slots", "32") as workers:
            for name, _, place in places:
                print(f"{name}: {crashes(workers, place, told.killed, told.kills)}", flush=True)
            print(f"PostgreSQL: {one_of_two(workers, server.database(), told.killed)}")


if __name__ == "__main__":
    main()
