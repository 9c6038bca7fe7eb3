"""Alerts come up when things really break, and go when they are whole again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests import http
from tests.deploy.prometheus import Prometheus, prometheus
from tests.forked import children
from tests.helpers import Fleet
from tests.waiting import eventually

# An iteration takes minutes: to whoever looks on, the engines hang in their first one.
STALLED = ("--speed", "0.001")


def raised(prometheus: Prometheus) -> set[str]:
    """The alerts whose expression holds, whether or not for long enough."""
    return {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}


def ask(url: str) -> None:
    """One request that the fleet's end cuts off."""
    body = {"model": "llama-65b", "prompt": "How many in all?", "max_tokens": 8}
    with suppress(httpx.HTTPError):
        http.post(url + "/v1/completions", json=body)


@contextmanager
def frozen(fleet: Fleet) -> Iterator[None]:
    """Its agents stand still."""
    below = children(fleet.process.pid).items()
    pids = [pid for pid, name in below if name.startswith("agent-")]
    assert len(pids) == len(fleet.agents)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_fleet_that_breaks_piece_by_piece(tmp_path: Path) -> None:
    with Fleet(*STALLED) as fleet, prometheus(fleet, tmp_path) as running:
        eventually(lambda: len(running.values("up == 1")) == 3, "all are scraped")
        eventually(lambda: not raised(running), "nothing is wrong")

        threading.Thread(target=ask, args=(fleet.url,), daemon=True).start()
        eventually(lambda: raised(running) == {"MakespanEngineStalled"}, "an engine stalls")

        unreachable = {"MakespanAgentDown", "MakespanWorkerDown", "MakespanNoWorker"}
        with frozen(fleet):
            eventually(lambda: raised(running) >= unreachable, "no agent answers")
        eventually(lambda: not raised(running) & unreachable, "they answer again")

        fleet.stop()
        gone = {"MakespanGatewayDown", "MakespanNoGateway", "MakespanAgentDown"}
        eventually(lambda: raised(running) >= gone, "nobody answers")
