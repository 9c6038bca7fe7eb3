"""What clients notice while a fleet is replaced, one process after the other."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests import http
from tests.e2e.test_gateway import TEXT
from tests.helpers import Process
from tests.ports import free_ports
from tests.waiting import eventually

BODY = {**TEXT, "max_tokens": 30, "ignore_eos": True}


def agent(port: int) -> Process:
    return Process("agent", "--port", str(port), "--name", f"agent-{port}", "--speed", "10")


def test_agents_are_replaced_unnoticed_and_a_gateway_ends_what_it_has() -> None:
    ports, stop, met = free_ports(2), threading.Event(), Counter[str]()
    agents = {port: agent(port) for port in ports}
    workers = ",".join(f"http://127.0.0.1:{port}" for port in ports)

    def load(url: str, *, stream: bool) -> None:
        with http.Client() as client:
            while not stop.is_set():
                answer = client.post(url + "/v1/completions", json={**BODY, "stream": stream})
                complete = "data: [DONE]" in answer.text if stream else answer.status_code == 200
                met["complete" if complete else answer.text] += 1

    def goes_on() -> None:
        """Each client has had some answers more."""
        enough = met["complete"] + 24
        eventually(lambda: met["complete"] >= enough or met.keys() > {"complete"})

    try:
        with Process("gateway", "--port", "0", "--worker", workers) as gateway:
            url = gateway.wait_for(r"listening url=(\S+)")
            for port in ports:
                gateway.wait_for(rf"worker is (up) worker=agent-{port}")
            with ThreadPoolExecutor(8) as pool:
                clients = [pool.submit(load, url, stream=k % 2 == 0) for k in range(8)]
                try:
                    for port in ports:
                        goes_on()
                        assert agents[port].stop() == 0
                        goes_on()
                        seen = len(gateway.lines)
                        agents[port] = agent(port)
                        eventually(partial(came_up, gateway, port, seen))
                    goes_on()
                finally:
                    stop.set()
                for client in clients:
                    client.result()
                assert met.keys() == {"complete"}, met
                long = {**BODY, "max_tokens": 1000}
                last = pool.submit(http.post, url + "/v1/completions", json=long)
                eventually(lambda: in_flight(url) == 1)
                assert gateway.stop() == 0
                assert last.result().json()["usage"]["completion_tokens"] == 1000
    finally:
        for one in agents.values():
            one.stop()


def came_up(gateway: Process, port: int, after: int) -> bool:
    line = f"worker is up worker=agent-{port}"
    return any(line in said for said in gateway.lines[after:])


def in_flight(url: str) -> int:
    workers = http.get(url + "/makespan/v1/workers").json()["workers"]
    return sum(worker["in_flight"] for worker in workers)
