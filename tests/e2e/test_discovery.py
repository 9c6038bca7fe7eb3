"""A gateway whose workers come and go while it serves, with real processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import http
from tests.e2e.test_gateway import TEXT
from tests.helpers import Process, certify, scrape
from tests.k8s.api import (
    Api,
    endpoint_slice,
    error,
    kubeconfig,
    listing,
    modified,
    pod,
    serving,
)
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, eventually

SLOTS = 8
MANY = 32  # more than three workers take at once


class Site:
    """A gateway before a Service, and agents at one port of many addresses, as pods have them."""

    def __init__(
        self, stack: ExitStack, worker: str, environment: dict[str, str], *more: str
    ) -> None:
        self._stack = stack
        flags = ("gateway", "--port", "0", "--worker", worker, *more)
        self.gateway = stack.enter_context(Process(*flags, environment=environment))
        self.url = self.gateway.wait_for(r"listening url=(\S+)")
        self.pool = stack.enter_context(ThreadPoolExecutor(64))

    @property
    def ready(self) -> bool:
        return http.is_well(self.url + "/ready")

    def start(
        self, address: str, port: int, speed: float = 1.0, name: str = "", *tls: str
    ) -> Process:
        flags = ("--host", address, "--port", str(port), "--name", name or address, *tls)
        more = ("--slots", str(SLOTS), "--speed", str(speed), "--drain-s", str(PATIENCE_S))
        agent = self._stack.enter_context(Process("agent", *flags, *more))
        agent.wait_for(r"(listening) url=")
        return agent

    def rows(self) -> list[dict[str, Any]]:
        return list(http.get(self.url + "/makespan/v1/workers").json()["workers"])

    def workers(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.rows()}

    def up(self) -> set[str]:
        return {name for name, row in self.workers().items() if row["up"]}

    def exported(self) -> set[str]:
        """The workers that metrics tell of."""
        names = scrape(self.url).values
        return {name.split('"')[1] for name in names if name.startswith("makespan_worker_up")}

    def ask(self, tokens: int, name: str) -> Future[httpx.Response]:
        body = json.dumps({**TEXT, "max_tokens": tokens, "ignore_eos": True}).encode()
        headers = {"x-request-id": name}
        url = self.url + "/v1/completions"
        return self.pool.submit(http.post, url, content=body, headers=headers)

    def told(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = http.get(f"{self.url}/makespan/v1/requests/{name}").json()
        return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_pods_come_and_go_and_no_request_is_lost(stack: ExitStack, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    old, kept, new, other = (f"127.0.0.{k}" for k in (2, 3, 4, 5))
    api = Api()
    server = stack.enter_context(ExitStack())
    url = server.enter_context(serving(api))
    environment = {"KUBECONFIG": str(kubeconfig(tmp_path, url))}
    site = Site(stack, "kubernetes://llm/agents:http", environment)
    eventually(lambda: api.watches == ["1"])
    assert not site.ready, "a fleet without workers is no reason to stop"

    dying = site.start(old, port)
    site.start(kept, port)
    site.start(new, port)
    api.say(modified(endpoint_slice(2, [pod(old), pod(kept)], port=port)))
    eventually(lambda: site.up() == {old, kept} and site.ready)

    early = [site.ask(20, f"early{k}") for k in range(8)]
    api.end()
    eventually(lambda: api.watches == ["1", "2"])
    three = endpoint_slice(7, [pod(old), pod(kept), pod(new)], port=port)
    api.listed = [listing(9, [three])]
    api.say(error(410, "Expired"))
    eventually(lambda: site.up() == {old, kept, new})
    assert (api.lists, api.watches[2:]) == (2, ["9"])

    # All are full, with a lead that has not begun; the rest waits at the gateway.
    eventually(lambda: all(answer.done() for answer in early))  # no slot falls free for seconds
    asked = [site.ask(300, f"r{k}") for k in range(MANY)]
    eventually(lambda: [row["agent"]["queued"] for row in site.workers().values()] == [1, 1, 1])
    goes = pod(old, ready=False, terminating=True)
    api.say(modified(endpoint_slice(11, [goes, pod(kept), pod(new)], port=port)))
    eventually(lambda: not site.workers().get(old, {"available": False})["available"])
    eventually(lambda: any(site.told(f"r{k}")["recalled"] for k in range(MANY)))
    given = {f"r{k}" for k in range(MANY) if site.told(f"r{k}")["worker"] == old}
    dying.process.send_signal(signal.SIGTERM)
    eventually(lambda: old not in site.workers())
    assert site.exported() == {kept, new}
    assert dying.process.wait(PATIENCE_S) == 0
    had = {f"r{k}" for k in range(MANY) if site.told(f"r{k}")["worker"] == old}
    assert had <= given, "it got nothing new"

    # The pod is back under its name, at another address; and one goes without a word.
    site.start(other, port, name=old)
    api.say(modified(endpoint_slice(12, [pod(kept), pod(other)], port=port)))
    eventually(lambda: site.workers().keys() == {kept, old})
    eventually(lambda: site.workers()[old]["up"])
    assert site.workers()[old]["url"] == f"http://{other}:{port}"
    late = [site.ask(5, f"late{k}") for k in range(MANY)]

    for answer in early + asked + late:
        assert answer.result().status_code == 200, answer.result().text
    told = [site.told(f"r{k}") for k in range(MANY)]
    assert {row["outcome"] for row in told} == {"completed"}
    assert not any(row["failed_workers"] for row in told)
    assert {site.told(f"late{k}")["worker"] for k in range(MANY)} == {kept, old}

    server.close()  # the API server is gone
    site.gateway.wait_for("(workers are not followed)")
    assert site.up() == {kept, old}
    assert site.ask(5, "last").result().status_code == 200
    assert not any("Traceback" in line for line in site.gateway.lines)


def test_a_name_that_is_looked_up(stack: ExitStack) -> None:
    (port,) = free_ports(1)
    site = Site(stack, f"dns://localhost:{port}", {})
    assert not site.ready
    site.start("127.0.0.1", port, speed=20.0)
    eventually(lambda: site.ready)
    assert site.ask(5, "x").result().status_code == 200


@pytest.mark.parametrize("named", [True, False])
def test_who_is_found_by_address_has_a_certificate_of_the_name(
    stack: ExitStack, tmp_path: Path, named: bool
) -> None:
    """Of the one that was looked up, or of the Service; who has another's is down."""
    looked_up, service = free_ports(2)
    api = Api()
    pods = endpoint_slice(1, [pod("127.0.0.1")], port=service)
    api.listed = [listing(1, [pods])]
    environment = {"KUBECONFIG": str(kubeconfig(tmp_path, stack.enter_context(serving(api))))}
    san = "DNS:localhost,DNS:agents.llm.svc" if named else "IP:127.0.0.1,DNS:agents.other.svc"
    folder = certify(tmp_path, san)
    cert = str(folder / "cert.pem")
    worker = f"https+dns://localhost:{looked_up},https+kubernetes://llm/agents:http"
    site = Site(stack, worker, environment, "--worker-ca", cert)
    tls = ("--tls-cert", cert, "--tls-key", str(folder / "key.pem"))
    for port in (looked_up, service):
        site.start("127.0.0.1", port, 20.0, f"at-{port}", *tls)
    if not named:
        told = "certificate is not trusted: Hostname mismatch"
        eventually(lambda: sum(told in (row["reason"] or "") for row in site.rows()) == 2)
        return
    eventually(lambda: site.up() == {f"at-{looked_up}", f"at-{service}"})
    asked = [site.ask(40, f"r{k}") for k in range(MANY)]
    assert [answer.result().status_code for answer in asked] == [200] * MANY
    assert {site.told(f"r{k}")["worker"] for k in range(MANY)} == site.up()
