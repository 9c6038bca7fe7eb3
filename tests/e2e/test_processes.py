"""One gateway in several processes: any of them answers for all, and none is missed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import http
from tests.e2e.clients import Ask, ask_all
from tests.e2e.test_chaos import Agent, requests, stop_agents
from tests.helpers import MAKESPAN, Process, scrape
from tests.ports import free_ports
from tests.waiting import eventually

PROCESSES, CLIENTS, SEED = 2, 16, 20261129
COMPLETED = 'makespan_requests_total{model="llama-65b",outcome="completed"}'


class Gateway(Process):
    """Several processes on one port."""

    def __init__(self, workers: Sequence[str], *more: str) -> None:
        flags = ("--processes", str(PROCESSES), "--worker", ",".join(workers), "--port", "0")
        super().__init__("gateway", *flags, "--drain-s", "60", *more)
        self.url = self.wait_for(r"listening url=(\S+)")
        eventually(lambda: len(self.pids()) == PROCESSES and self.times_up() >= PROCESSES)

    def times_up(self) -> int:
        return sum("worker is up" in line for line in list(self.lines))

    def pids(self) -> list[int]:
        """Its processes, the supervisor's children."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
        return [int(child) for child in children.split()]

    def get(self, path: str) -> dict[str, Any]:
        """By a connection of its own: whoever gets it answers."""
        told: dict[str, Any] = http.get(self.url + path).json()
        return told

    def completed(self) -> float:
        return scrape(self.url).values.get(COMPLETED, 0.0)

    def all_up(self, times: int) -> None:
        """Once workers have been up so often."""
        eventually(lambda: self.times_up() >= times)


@pytest.fixture(scope="module")
def agents() -> Iterator[list[Agent]]:
    made = [Agent(port) for port in free_ports(2)]
    yield made
    stop_agents(made)


@pytest.fixture(scope="module")
def gateway(agents: list[Agent]) -> Iterator[Gateway]:
    with ExitStack() as stack:
        running = Gateway([agent.url for agent in agents])
        running.all_up(len(agents) * PROCESSES)
        stack.enter_context(running)
        yield running
        stack.close()
        assert running.process.returncode == 0


def served(gateway: Gateway, name: str, count: int) -> list[Ask]:
    """So many requests, all answered well."""
    asks = requests(count, random.Random(name))
    for k, ask in enumerate(asks):
        ask.id = f"{name}-{k}"
    asyncio.run(ask_all(gateway.url, asks, CLIENTS))
    check(asks)
    return asks


def check(asks: Sequence[Ask]) -> None:
    for ask in asks:
        ask.check()
    assert all(ask.completed for ask in asks), [ask for ask in asks if not ask.completed]


def test_any_process_answers_for_all(gateway: Gateway) -> None:
    before = gateway.completed()
    asks = served(gateway, "any", 48)
    for _ in range(8):
        assert gateway.completed() == before + len(asks)
        assert sum(one["in_flight"] for one in gateway.get("/makespan/v1/workers")["workers"]) == 0
    plans = {gateway.get("/makespan/v1/plans/latest")["planned_at"] for _ in range(8)}
    assert len(plans) == 1
    for ask in asks:
        told = gateway.get(f"/makespan/v1/requests/{ask.id}")
        assert told["worker"] == ask.worker
    missing = http.get(gateway.url + "/makespan/v1/requests/nobody")
    assert missing.status_code == 404
    assert "nobody" in missing.json()["error"]["message"]


def shown(gateway: Gateway) -> dict[str, Any]:
    """The first frame of a dashboard."""
    with http.stream("GET", gateway.url + "/makespan/v1/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                frame: dict[str, Any] = json.loads(line.removeprefix("data: "))
                return frame
    raise AssertionError("nothing is shown")


def test_any_dashboard_shows_all(gateway: Gateway) -> None:
    before = gateway.completed()
    served(gateway, "shown", 32)
    for _ in range(4):
        frame = shown(gateway)
        assert frame["outcomes"]["completed"] == before + 32
        assert (frame["running"], frame["unsent"]) == (0, 0)


def test_a_killed_process_comes_back_and_no_count_falls(gateway: Gateway) -> None:
    served(gateway, "kill", 16)
    before, pids, seen = gateway.completed(), gateway.pids(), gateway.times_up()
    os.kill(pids[0], signal.SIGKILL)
    eventually(lambda: len(gateway.pids()) == PROCESSES and pids[0] not in gateway.pids())
    assert pids[1] in gateway.pids(), "the other serves on"
    gateway.all_up(seen + 2)
    assert gateway.completed() == before
    served(gateway, "killed", 16)
    assert gateway.completed() == before + 16


def test_replacing_agents_and_processes_under_load_loses_nothing(
    gateway: Gateway, agents: list[Agent]
) -> None:
    before, pids, ended = gateway.completed(), gateway.pids(), 0
    asks: list[Ask] = []
    rng = random.Random(SEED)

    async def replace() -> None:
        for agent in agents:
            seen = gateway.times_up()
            assert await agent.restart(signal.SIGTERM) == 0
            await asyncio.to_thread(gateway.all_up, seen + PROCESSES)
        gateway.process.send_signal(signal.SIGHUP)

    def heard(_: Ask) -> None:
        nonlocal ended
        ended += 1

    def more() -> Iterator[Ask]:
        """Until all have been replaced, and each client has had an answer since."""
        enough = None
        while enough is None or ended < enough:
            if enough is None and "all processes are replaced" in "\n".join(gateway.lines[-20:]):
                enough = ended + CLIENTS
            asks.extend(requests(1, rng))
            asks[-1].id = f"roll-{len(asks)}"
            yield asks[-1]

    async def all_of_it() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(replace())
            group.create_task(ask_all(gateway.url, more(), CLIENTS, heard))

    asyncio.run(all_of_it())
    check(asks)
    assert not set(pids) & set(gateway.pids())
    assert gateway.completed() == before + len(asks)


def test_a_port_that_is_taken_is_named(gateway: Gateway) -> None:
    port = gateway.url.rpartition(":")[2]
    flags = ("gateway", "--processes", "2", "--port", port, "--worker", "http://127.0.0.1:9")
    told = subprocess.run([*MAKESPAN, *flags], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in told.stderr


def test_what_a_process_refuses_ends_all_of_it(tmp_path: Path) -> None:
    flags = ("gateway", "--processes", "2", "--port", "0", "--worker", "http://127.0.0.1:9")
    missing = ("--secret-file", str(tmp_path / "missing"))
    told = subprocess.run(
        [*MAKESPAN, *flags, *missing], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert "secret_file" in told.stderr
