"""What happens when things die: processes, workers, connections."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests import http
from tests.e2e.test_gateway import TEXT, in_flight, post
from tests.forked import child, children
from tests.helpers import ROOT, Fleet, Process, scrape
from tests.waiting import PATIENCE_S, eventually

IMPATIENT = ("--wait-for-worker-s", "3")  # what nobody will serve is soon refused


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_ends_what_runs_and_leaves_no_process_behind(sig: signal.Signals) -> None:
    fleet = Fleet("--drain-s", str(PATIENCE_S))
    pids = list(children(fleet.process.pid))
    assert len(pids) >= 3  # two agents and a gateway
    with ThreadPoolExecutor(4) as pool:
        body = {**TEXT, "max_tokens": 600, "ignore_eos": True}
        answers = [pool.submit(post, fleet, {**body, "stream": s}) for s in (True, False) * 2]
        eventually(lambda: in_flight(fleet) == 4)
        assert fleet.stop(sig) == 0
    assert [answer.result().status_code for answer in answers] == [200] * 4
    assert all("data: [DONE]" in answer.result().text for answer in answers[::2])
    eventually(lambda: not alive(pids))
    assert not any("Traceback" in line or "leaked" in line for line in fleet.lines)


def test_a_gateway_by_itself_stops_in_order_whatever_tells_it_to() -> None:
    """Each signal at once after another, and the terminal lost: none ends what runs."""
    with Fleet("--agents", "1", "--drain-s", str(PATIENCE_S)) as fleet:
        seen = fleet.get("/makespan/v1/workers").json()["workers"]
        flags = ("--drain-s", str(PATIENCE_S))
        alone = Process("gateway", "--port", "0", "--worker", seen[0]["url"], *flags)
        url = alone.wait_for(r"listening url=(\S+)")
        workers = url + "/makespan/v1/workers"
        alone.wait_for(r"(worker is up)")
        body = {**TEXT, "max_tokens": 600, "ignore_eos": True}
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(http.post, url + "/v1/completions", json=body)
            eventually(lambda: http.get(workers).json()["workers"][0]["in_flight"] == 1)
            for sig in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
                alone.process.send_signal(sig)
            assert answer.result().status_code == 200
        assert alone.stop() == 0


def test_all_may_be_told_to_stop_at_once() -> None:
    """As systemd does."""
    fleet = Fleet()
    pids = list(children(fleet.process.pid))
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    assert fleet.stop() == 0
    eventually(lambda: not alive(pids))
    assert not [x for x in fleet.lines if re.search("leaked|died|WARN.*solving", x)]


def test_a_gateway_that_is_told_to_stop_takes_its_agents_along() -> None:
    fleet = Fleet("--agents", "1")
    pids = list(children(fleet.process.pid))
    os.kill(child(fleet.process.pid, "gateway"), signal.SIGTERM)
    assert fleet.process.wait(PATIENCE_S) == 0
    fleet.stop()
    eventually(lambda: not alive(pids))


def test_a_killed_supervisor_leaves_no_process_behind() -> None:
    fleet = Fleet("--agents", "1")
    pids = list(children(fleet.process.pid))
    fleet.stop(signal.SIGKILL)
    eventually(lambda: not alive(pids))


def test_a_killed_agents_requests_go_elsewhere_and_it_comes_back() -> None:
    with Fleet("--speed", "5") as fleet:
        with ThreadPoolExecutor(12) as pool:
            body = {**TEXT, "max_tokens": 200, "ignore_eos": True}
            names = [f"r{k}" for k in range(12)]
            answers = [pool.submit(post, fleet, body, x_request_id=name) for name in names]
            eventually(lambda: in_flight(fleet) == 12)
            workers = fleet.get("/makespan/v1/workers").json()["workers"]
            assert min(worker["in_flight"] for worker in workers) > 0
            os.kill(child(fleet.process.pid, "agent-0"), signal.SIGKILL)
            assert [answer.result().status_code for answer in answers] == [200] * 12
        told = [fleet.get(f"/makespan/v1/requests/{name}").json() for name in names]
        moved = [row for row in told if row["failed_workers"]]
        assert moved
        assert all(row["failed_workers"] == ["agent-0"] for row in moved)
        assert {row["worker"] for row in moved} == {"agent-1"}
        eventually(lambda: fleet.get("/metrics").text.count('worker_up{worker="agent-0"} 1') == 1)


@pytest.fixture(scope="module")
def single() -> Iterator[Fleet]:
    """One agent, which may be told to fail."""
    with Fleet("--agents", "1", "--faults", "--retries", "0") as fleet:
        yield fleet


def test_a_stream_that_breaks_ends_with_an_error_event(single: Fleet) -> None:
    ended = 'makespan_requests_total{model="llama-65b",outcome="failed"}'
    before = scrape(single.url).values.get(ended, 0)
    body = {**TEXT, "max_tokens": 1900, "ignore_eos": True, "stream": True}
    with http.stream("POST", single.url + "/v1/completions", json=body) as answer:
        events = answer.iter_lines()
        next(events)
        os.kill(child(single.process.pid, "agent-0"), signal.SIGKILL)
        data = [line[6:] for line in events if line.startswith("data: ")]
    error = json.loads(data[-1])["error"]
    assert (error["type"], error["code"]) == ("server_error", "worker_failed")
    assert scrape(single.url).values[ended] == before + 1
    eventually(lambda: post(single, TEXT).status_code == 200)


def test_injected_faults(single: Fleet) -> None:
    assert post(single, TEXT, x_makespan_fault="status=500").status_code == 500
    assert post(single, TEXT, x_makespan_fault="latency=0.05").status_code == 200
    wrong = post(single, TEXT, x_makespan_fault="explode")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-makespan-fault")
    url = single.url + "/v1/completions"
    patient = httpx.Timeout(PATIENCE_S, read=0.5)  # but with an answer that never comes
    with pytest.raises(httpx.ReadTimeout):
        http.post(url, json=TEXT, headers={"x-makespan-fault": "stall"}, timeout=patient)
    body = {**TEXT, "stream": True}
    broken = post(single, body, x_makespan_fault="crash=5")
    assert broken.text.count('"finish_reason":null') == 5
    assert "worker_failed" in broken.text
    eventually(lambda: post(single, TEXT).status_code == 200)


def test_an_agent_whose_engine_broke_down_is_started_again(single: Fleet) -> None:
    first = child(single.process.pid, "agent-0")
    broken = post(single, TEXT, x_makespan_fault="break=3")
    assert (broken.status_code, broken.json()["error"]["code"]) == (502, "worker_failed")
    eventually(lambda: not alive([first]))
    eventually(lambda: post(single, TEXT).status_code == 200)
    assert child(single.process.pid, "agent-0") != first


def test_no_worker_means_503_with_retry_after() -> None:
    flags = ("--port", "0", "--worker", "http://127.0.0.1:9", *IMPATIENT)
    with Process("gateway", *flags) as gateway:
        url = gateway.wait_for(r"listening url=(\S+)")
        answer = http.post(url + "/v1/completions", json=TEXT)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "server_is_overloaded"
        assert http.get(url + "/ready").status_code == 503
        assert http.get(url + "/health").status_code == 200
        assert http.get(url + "/makespan/v1/plans/latest").status_code == 404


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Process("up", "--port", port) as second:
            assert second.process.wait(PATIENCE_S) == 2
    assert f"host, port: cannot listen on 127.0.0.1:{port}" in "\n".join(second.lines)


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """A server that knows nothing of agents."""
    command = [sys.executable, "-m", "tests.plain_server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().split()[1]}"
        server.kill()


@contextmanager
def gateway(*flags: str) -> Iterator[str]:
    """One whose worker is up."""
    with Process("gateway", "--port", "0", *flags) as running:
        url = running.wait_for(r"listening url=(\S+)")
        running.wait_for(r"worker is (up)")
        yield url


@pytest.fixture(scope="module")
def before_plain(plain: str) -> Iterator[str]:
    with gateway("--worker", plain) as url:  # who limits its requests is waited for
        yield url


@contextmanager
def held(url: str) -> Iterator[None]:
    """A stream that goes on as long as the block."""
    body = {**PLAIN, "max_tokens": 100_000, "stream": True}
    with http.stream("POST", url + "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        yield


PLAIN = {"model": "plain", "prompt": "a", "max_tokens": 20, "odd_field": {"x": [1]}}


def test_a_plain_server_is_a_worker_too(plain: str, before_plain: str) -> None:
    url = before_plain + "/v1/completions"
    for stream in (False, True):
        headers = {"authorization": "Bearer k", "x-request-id": "p1", "x-odd": "1"}
        answer = http.post(url, json={**PLAIN, "stream": stream}, headers=headers)
        assert answer.status_code == 200
        assert answer.text.count(" w") == 20
        seen = http.get(plain + "/seen").json()
        assert json.loads(seen["body"]) == {**PLAIN, "stream": stream}
        got = {name.lower(): value for name, value in seen["headers"].items()}
        assert {**headers, "content-type": "application/json"}.items() <= got.items()
    worker = http.get(before_plain + "/makespan/v1/workers").json()["workers"][0]
    assert (worker["kind"], worker["models"], worker["agent"]) == ("openai", ["plain"], None)


def test_a_plain_servers_speed_is_learnt(plain: str) -> None:
    long = {**PLAIN, "max_tokens": 200}  # what a request costs beside its tokens hardly counts
    with gateway("--worker", plain) as url:
        answers = [http.post(url + "/v1/completions", json=long) for _ in range(10)]
        worker = http.get(url + "/makespan/v1/workers").json()["workers"][0]
    took_ms = max(answer.elapsed.total_seconds() for answer in answers) * 1000 / 200
    assert 1 < worker["cost_ms"]["alpha_d_ms"] < 5 * took_ms  # it takes 2 ms a token, not 29


def test_a_stream_cut_within_an_event_ends_with_a_readable_error(before_plain: str) -> None:
    body = {**PLAIN, "stream": True}
    for cut, words in (("3", 3), ("half", 5), ("silent", 5)):
        answer = http.post(before_plain + "/v1/completions", json=body, headers={"x-cut": cut})
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert json.loads(events[-1])["error"]["code"] == "worker_failed"
        assert answer.text.count('" w"') == words


def test_query_and_repeated_headers_reach_the_worker(plain: str, before_plain: str) -> None:
    headers = [("x-dup", "1"), ("x-dup", "2")]
    http.post(before_plain + "/v1/completions?a=b%20c", json=PLAIN, headers=headers)
    seen = http.get(plain + "/seen").json()
    assert seen["query"] == "a=b%20c"
    assert seen["dup"] == ["1", "2"]


def test_too_many_requests_get_503(plain: str) -> None:
    with gateway("--worker", plain, "--max-requests", "2") as url, held(url), held(url):
        refused = http.post(url + "/v1/completions", json=PLAIN)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1


def test_workers_of_one_name_are_told_apart() -> None:
    flags = ("--port", "0", "--name", "same")
    with Process("agent", *flags) as one, Process("agent", *flags) as two:
        urls = [agent.wait_for(r"listening url=(\S+)") for agent in (one, two)]
        with gateway("--worker", ",".join(urls)) as url:

            def names() -> list[str]:
                workers = http.get(url + "/makespan/v1/workers").json()["workers"]
                return [worker["name"] for worker in workers if worker["up"]]

            eventually(lambda: len(names()) == 2)
            for _ in range(8):  # and they stay apart as they report
                assert names() == ["same", "same@" + urls[1].removeprefix("http://")]
                time.sleep(0.1)


def test_one_odd_worker_does_not_disturb_the_others(plain: str) -> None:
    with Process("agent", "--port", "0", "--name", "good") as agent:
        good = agent.wait_for(r"listening url=(\S+)")
        with gateway("--worker", f"{plain}/odd/big,{plain}/odd/null,{good}") as url:
            eventually(lambda: http.get(plain + "/seen").json()["odd"] >= 4)  # each, and again
            for _ in range(5):
                assert http.post(url + "/v1/completions", json=TEXT).status_code == 200
            agent.process.send_signal(signal.SIGSTOP)
            eventually(lambda: http.get(url + "/ready").status_code == 503)
            agent.process.send_signal(signal.SIGCONT)
            eventually(lambda: http.get(url + "/ready").status_code == 200)


def test_a_drain_that_runs_out_tells_its_clients() -> None:
    fleet = Fleet("--drain-s", "1", "--speed", "1")
    body = {**TEXT, "max_tokens": 1500, "ignore_eos": True}
    streamed = http.stream("POST", fleet.url + "/v1/completions", json={**body, "stream": True})
    with ThreadPoolExecutor(1) as pool, streamed as answer:
        events = answer.iter_lines()
        next(events)
        whole = pool.submit(post, fleet, body)
        eventually(lambda: in_flight(fleet) == 2)
        assert fleet.stop() == 0
        assert '"code":"server_is_overloaded"' in "".join(events)
    assert whole.result().status_code == 503
    assert whole.result().headers["retry-after"] == "1"
    assert not any("Traceback" in line for line in fleet.lines)


@pytest.mark.parametrize("cut", ["error", "error-done"])
def test_an_error_that_the_worker_tells_in_its_stream_is_passed_on_once(
    before_plain: str, cut: str
) -> None:
    body = {**PLAIN, "stream": True}
    failed = 'makespan_requests_total{model="plain",outcome="failed"}'
    before = scrape(before_plain).values.get(failed, 0)
    headers = {"x-cut": cut, "x-request-id": cut}
    answer = http.post(before_plain + "/v1/completions", json=body, headers=headers)
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert sum('"error"' in line for line in data) == 1
    assert scrape(before_plain).values[failed] == before + 1
    told = http.get(f"{before_plain}/makespan/v1/requests/{cut}").json()
    assert (told["outcome"], told["error"]) == ("failed", "the engine is out of memory")


def test_a_plain_servers_errors_pass_through(before_plain: str) -> None:
    before = scrape(before_plain).values
    for status in (400, 418, 429, 500, 503):
        url = before_plain + "/v1/completions"
        answer = http.post(url, json=PLAIN, headers={"x-fail": str(status)})
        assert (answer.status_code, answer.json()["error"]["message"]) == (status, "as asked")
    after = scrape(before_plain).values
    for outcome, count in (
        ("rejected_invalid", 2),
        ("rejected_over_share", 1),
        ("failed", 1),
        ("rejected_no_capacity", 1),
    ):
        name = f'makespan_requests_total{{model="plain",outcome="{outcome}"}}'
        assert after[name] - before.get(name, 0) == count


def test_a_plain_server_sees_its_client_leave(plain: str, before_plain: str) -> None:
    before = http.get(plain + "/seen").json()["aborted"]
    with held(before_plain):
        pass
    eventually(lambda: http.get(plain + "/seen").json()["aborted"] == before + 1)
