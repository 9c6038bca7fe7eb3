"""A process at its end, or out of files: who waits is told so, and no worker is to blame."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import http
from tests.e2e.test_unwell_workers import BODY, gateway
from tests.faulty_server import FaultyServer, after, never
from tests.waiting import eventually

CLIENTS = 64


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_waits_when_the_time_to_drain_is_over_is_told_to_come_again(stream: bool) -> None:
    def ask(_: int) -> tuple[int, str]:
        answer = http.post(url, json={**BODY, "stream": stream})
        return answer.status_code, answer.headers.get("retry-after", "")

    flags = ("--drain-s", "1", "--plain-slots", "8")
    with FaultyServer(never) as server, gateway(server, flags=flags) as made:
        url = made.url + "/v1/completions"
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = [pool.submit(ask, k) for k in range(CLIENTS)]
            eventually(lambda: _waiting(made.url) == CLIENTS)
            made.process.process.send_signal(signal.SIGTERM)
            assert {one.result() for one in answers} == {(503, "1")}


def _waiting(url: str) -> float:
    told = http.get(url + "/metrics").text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in told if not line.startswith("#"))
    sent = sum(one["in_flight"] for one in http.get(url + "/makespan/v1/workers").json()["workers"])
    return float(found["makespan_unsent_requests"]) + float(sent)


@contextmanager
def out_of_files(pid: int) -> Iterator[None]:
    """No more may be open than are."""
    held = {int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()}
    free = next(k for k in range(len(held) + 1) if k not in held)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_gateway_that_is_out_of_files_blames_no_worker_and_goes_on() -> None:
    bodies: list[dict[str, Any]] = [BODY, {**BODY, "stream": True}]
    with FaultyServer(after(0.05)) as server, gateway(server) as made, ExitStack() as opened:
        clients = [opened.enter_context(http.Client()) for _ in range(3)]
        for client in clients:  # each has a connection of its own, which it keeps
            client.get(made.url + "/health")
        with ThreadPoolExecutor(2) as pool:
            with out_of_files(made.process.process.pid):
                url = made.url + "/v1/completions"
                answers = [
                    pool.submit(client.post, url, json=body)
                    for client, body in zip(clients[:2], bodies, strict=True)
                ]
                held = "worker takes nothing for a moment", "Too many open files"
                eventually(lambda: bool(made.lines(*held)))
                relayed = clients[2].post(
                    made.url + "/v1/embeddings", json={"model": BODY["model"], "input": "hi"}
                )
                assert relayed.status_code == 503
                assert int(relayed.headers["retry-after"]) >= 1
                assert not any(one.done() for one in answers), "they wait for room"
            assert [one.result().status_code for one in answers] == [200, 200]
        assert not made.lines("worker is down")
        assert not made.lines("Traceback")
