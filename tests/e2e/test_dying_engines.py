"""Engines that die, stall or break down while many requests run on them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest

from tests import http
from tests.e2e.load import Ask, sending
from tests.e2e.test_gateway import TEXT
from tests.helpers import Process, scrape
from tests.ports import free_ports
from tests.waiting import eventually

SLOTS = 16
TOKENS = 160
STREAMS = 64
_names = count()


class Engines:
    """A gateway and three agents, each a process that may be killed and started again."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.urls = {f"a{k}": f"http://127.0.0.1:{port}" for k, port in enumerate(free_ports(3))}
        self.agents = {name: self.start(name) for name in self.urls}
        workers = ",".join(self.urls.values())
        gateway = stack.enter_context(Process("gateway", "--port", "0", "--worker", workers))
        self.url = gateway.wait_for(r"listening url=(\S+)")
        eventually(lambda: self.up() == set(self.urls))

    def start(self, name: str) -> Process:
        port = self.urls[name].rsplit(":", 1)[1]
        flags = ["--port", port, "--name", name, "--slots", str(SLOTS), "--speed", "3", "--faults"]
        agent = self._stack.enter_context(Process("agent", *flags))
        agent.wait_for(r"(listening) url")
        return agent

    def restart(self, name: str) -> None:
        self.agents[name].stop(signal.SIGKILL)
        self.agents[name] = self.start(name)

    def workers(self) -> dict[str, dict[str, object]]:
        rows = http.get(self.url + "/makespan/v1/workers").json()["workers"]
        return {str(row["name"]): row for row in rows}

    def up(self) -> set[str]:
        return {name for name, row in self.workers().items() if row["up"]}

    def explain(self, ask: Ask) -> dict[str, Any]:
        found = http.get(f"{self.url}/makespan/v1/requests/{ask.name}")
        told: dict[str, Any] = found.json()
        return told

    def outcomes(self) -> dict[str, int]:
        """Requests that the gateway has counted, by outcome; those with none are left out."""
        values = scrape(self.url).values
        prefix = 'makespan_requests_total{model="llama-65b",outcome="'
        return {
            name.removeprefix(prefix).removesuffix('"}'): int(value)
            for name, value in values.items()
            if name.startswith(prefix) and value
        }

    def served_by(self, name: str) -> bool:
        """Whether `name` serves, if many ask at once."""
        asks = [ask(stream=True, max_tokens=4) for _ in range(3 * SLOTS)]
        with sending(self.url, asks):
            pass
        assert all(one.completed for one in asks)
        return any(one.worker == name for one in asks)


def ask(*, stream: bool, max_tokens: int = TOKENS, **headers: str) -> Ask:
    body = {**TEXT, "max_tokens": max_tokens, "ignore_eos": True, "stream": stream}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Ask(f"ask-{next(_names)}", body, named)


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with ExitStack() as stack:
        yield Engines(stack)


def under_load(engines: Engines, victim: str, strike: Callable[[], None]) -> list[Ask]:
    """64 streams and 64 answers in one piece; `strike` once the victim's streams are under way.

    What must hold however the victim fails: every request completes or its stream ends with one
    error event; who got no byte completes elsewhere; all outcomes are counted, once.
    """
    before = engines.outcomes()
    # In pairs: were it every second one, two workers that take turns would get one kind each.
    asks = [ask(stream=k // 2 % 2 == 0) for k in range(2 * STREAMS)]
    with sending(engines.url, asks):
        eventually(lambda: sum(len(a.events) > 3 for a in asks if a.worker == victim) >= 4)
        strike()
        eventually(lambda: victim not in engines.up())
    broken = [one for one in asks if not one.completed]
    assert broken
    for one in broken:
        assert one.status == 200
        assert one.worker == victim
        assert 1 < len(one.events) <= TOKENS
        (error,) = one.errors
        assert "error" in one.events[-1]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("server_error", "worker_failed")
    for one in asks:
        if one.completed and one.body["stream"]:
            assert len(one.events) == TOKENS + 1
    moved = [one for one in asks if victim in engines.explain(one)["failed_workers"]]
    assert moved
    assert all(one.completed and one.worker != victim for one in moved)
    after = engines.outcomes()
    assert after.get("completed", 0) - before.get("completed", 0) == len(asks) - len(broken)
    assert after.get("failed", 0) - before.get("failed", 0) == len(broken)
    assert sum(after.values()) - sum(before.values()) == len(asks)
    assert all(row["in_flight"] == 0 for row in engines.workers().values())
    return asks


def test_a_killed_agent(engines: Engines) -> None:
    under_load(engines, "a0", engines.agents["a0"].process.kill)
    engines.restart("a0")
    eventually(lambda: "a0" in engines.up())
    assert engines.served_by("a0")


def test_a_stopped_agent_counts_as_down_and_its_requests_are_given_up(engines: Engines) -> None:
    process = engines.agents["a1"].process
    try:
        under_load(engines, "a1", lambda: process.send_signal(signal.SIGSTOP))
    finally:
        process.send_signal(signal.SIGCONT)
    eventually(lambda: "a1" in engines.up())
    eventually(lambda: scrape(engines.urls["a1"]).values["makespan_kv_tokens{}"] == 0)
    assert engines.served_by("a1")


def test_an_agent_that_was_stopped_only_for_a_moment_loses_nothing(engines: Engines) -> None:
    process = engines.agents["a1"].process
    asks = [ask(stream=k % 2 == 0) for k in range(STREAMS)]
    with sending(engines.url, asks):
        eventually(lambda: any(len(a.events) > 3 for a in asks if a.worker == "a1"))
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: "a1" not in engines.up())
        process.send_signal(signal.SIGCONT)
    assert all(one.completed for one in asks)
    assert not any(engines.explain(one)["failed_workers"] for one in asks)


def test_an_engine_that_breaks_down(engines: Engines) -> None:
    url = engines.urls["a2"]
    fault = ask(stream=True, x_makespan_fault="break=20", x_makespan_priority="interactive")

    def strike() -> None:
        """One more request straight to the agent, at which its engine breaks down."""
        with sending(url, [fault]):
            pass

    under_load(engines, "a2", strike)
    assert len(fault.events) == 20 + 1
    assert fault.errors[0]["code"] == "worker_failed"
    health = http.get(url + "/health")
    assert (health.status_code, health.json()["error"]["type"]) == (503, "server_error")
    assert http.get(url + "/makespan/v1/state").status_code == 503
    assert http.post(url + "/v1/completions", json=TEXT).status_code == 503
    assert "a2" not in engines.up()
    assert not engines.served_by("a2")
    engines.restart("a2")
    eventually(lambda: "a2" in engines.up())
    assert engines.served_by("a2")
