"""Sidecars before servers that know nothing of them: real processes and real connections."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from solver.cost.profiles import PROFILES
from tests import http
from tests.helpers import ROOT, Process, asking, scrape
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, eventually

PLAIN: dict[str, Any] = {"model": "plain", "prompt": "a", "max_tokens": 20}
COMPLETIONS = "/v1/completions"


class Plain:
    """`tests.plain_server` as a process."""

    def __init__(self, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.plain_server", str(port)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().split()[1]}"

    def seen(self) -> dict[str, Any]:
        told: dict[str, Any] = http.get(self.url + "/seen").json()
        return told

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def lasting() -> Iterator[Plain]:
    server = Plain()
    yield server
    server.kill()


@pytest.fixture
def plain(lasting: Plain) -> Iterator[Plain]:
    """One that has counted nothing, and in the end does nothing; it is not to be killed."""
    http.put(lasting.url + "/seen")
    yield lasting
    eventually(lambda: lasting.seen()["running"] == 0)


@pytest.fixture
def mortal() -> Iterator[Plain]:
    server = Plain()
    yield server
    server.kill()


@contextmanager
def sidecar(upstream: str, *flags: str, engine: str = "openai") -> Iterator[Process]:
    """One that has seen its upstream."""
    told = ("--port", "0", "--engine", engine, "--upstream", upstream)
    with Process("agent", *told, *flags) as agent:
        agent.wait_for(r"upstream is (up)")
        yield agent


def url_of(agent: Process) -> str:
    return agent.wait_for(r"listening url=(\S+)")


def post(url: str, body: object, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(url + COMPLETIONS, json=body, headers=names)


def state(url: str) -> dict[str, Any]:
    with http.stream("GET", url + "/makespan/v1/state") as lines:
        told: dict[str, Any] = json.loads(next(lines.iter_lines()))
    return told


def outcomes(url: str, outcome: str) -> float:
    return scrape(url).values.get(
        f'makespan_requests_total{{model="plain",outcome="{outcome}"}}', 0
    )


KINDS: tuple[dict[str, Any], ...] = ({"stream": True}, {}, {"n": 2, "stream": True})


@pytest.mark.parametrize("policy", ["prefill-first", "threshold", "adaptive"])
def test_never_more_in_flight_than_slots(plain: Plain, policy: str) -> None:
    with sidecar(plain.url, "--slots", "8", "--policy", policy) as agent:
        url = url_of(agent)
        bodies = [{**PLAIN, "max_tokens": 5 + k % 30, **KINDS[k % 3]} for k in range(160)]
        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(lambda body: post(url, body), bodies))
        assert {answer.status_code for answer in answers} == {200}
        for body, answer in zip(bodies, answers, strict=True):
            assert answer.text.count(" w") == body["max_tokens"] * body.get("n", 1)
        seen = plain.seen()
        assert (seen["answers"], seen["running"], seen["peak"]) == (160, 0, 8)
        told = state(url)
        assert (told["running"], told["queued"], told["kv_held"]) == (0, 0, 0)
        assert outcomes(url, "completed") == 160


def test_answers_are_the_servers_byte_by_byte(plain: Plain) -> None:
    def told(answer: httpx.Response) -> dict[str, str]:
        own = ("date", "server", "transfer-encoding", "x-makespan-worker")
        return {name: value for name, value in answer.headers.items() if name not in own}

    with sidecar(plain.url, "--name", "side") as agent:
        for body, headers in (
            *((dict(PLAIN, **kind), {}) for kind in KINDS),
            ({**PLAIN, "stream": True}, {"x_pairs": "1"}),
            ({**PLAIN, "stream": True}, {"x_cut": "silent"}),
            (PLAIN, {"x_fail": "429"}),
            (PLAIN, {"x_fail": "503"}),
        ):
            direct = post(plain.url, body, **headers)
            through = post(url_of(agent), body, **headers)
            assert (through.status_code, through.content) == (direct.status_code, direct.content)
            assert told(through) == told(direct)
            assert through.headers["x-makespan-worker"] == "side"


def test_requests_reach_the_server_as_they_came(plain: Plain) -> None:
    body = b'{ "model":"plain",\n "prompt" : "\\u00e4", "max_tokens":3, "odd":{"x":[1.0]} }'
    headers = [("x-dup", "1"), ("x-dup", "2"), ("authorization", "Bearer k"), ("x-request-id", "r")]
    with sidecar(plain.url) as agent:
        answer = http.post(url_of(agent) + COMPLETIONS + "?a=b%20c", content=body, headers=headers)
    assert answer.headers["x-request-id"] == "r"
    seen = plain.seen()
    assert (seen["body"].encode(), seen["query"], seen["dup"]) == (body, "a=b%20c", ["1", "2"])
    got = {name.lower(): value for name, value in seen["headers"].items()}
    assert got["authorization"] == "Bearer k"
    assert "content-type" not in got


def test_other_paths_are_the_servers(plain: Plain) -> None:
    with sidecar(plain.url) as agent, http.Client() as client:
        url = url_of(agent)
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            asks = [
                client.request(
                    method,
                    base + "/echo/a%2Fb/../c?x=1&x=2",
                    content=b"\x00\xff" * 1000,
                    headers=[("x-dup", "1"), ("x-dup", "2"), ("content-type", "odd/type")],
                )
                for base in (plain.url, url)
            ]
            assert (asks[1].status_code, asks[1].content) == (207, asks[0].content)
            assert asks[1].headers["x-odd"] == "1"
        (listed,) = client.get(url + "/v1/models").json()["data"]
        assert listed["id"] == "plain"
        assert client.get(url + "/v1/models/plain").json() == listed
        assert client.get(url + "/v1/models/other").text == "404: Not Found"  # the server's own
        assert client.post(url + "/v1/embeddings", json={}).status_code == 404
        assert client.get(url + COMPLETIONS).status_code == 405
        assert "makespan_requests_total" in client.get(url + "/metrics").text
        assert client.get(url + "/health").json() == {"status": "ok"}
        assert client.get(url + "/ready").status_code == 200


def test_bad_bodies_are_the_servers_to_refuse() -> None:
    with Process("agent", "--port", "0", "--name", "inner") as engine:
        engine_url = url_of(engine)
        with sidecar(engine_url) as agent:
            for body in (
                b"{",
                b"[]",
                b'{"model": "llama-65b"}',
                b'{"model": "gpt", "prompt": "a"}',
            ):
                direct, through = (
                    http.post(url + COMPLETIONS, content=body)
                    for url in (engine_url, url_of(agent))
                )
                assert 400 <= direct.status_code < 500
                assert (through.status_code, through.content) == (
                    direct.status_code,
                    direct.content,
                )
            told = state(url_of(agent))
            assert (told["engine"], told["max_model_len"]) == ("emulated", 2048)


LONG = {**PLAIN, "max_tokens": 5000, "stream": True}


@contextmanager
def full(upstream: Plain, url: str) -> Iterator[None]:
    """While one long request has the only slot."""
    with http.stream("POST", url + COMPLETIONS, json=LONG) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert upstream.seen()["running"] == 1
        yield


def test_what_is_held_is_recalled_and_what_runs_is_not(plain: Plain) -> None:
    with sidecar(plain.url, "--slots", "1") as agent, ThreadPoolExecutor(2) as pool:
        url = url_of(agent)
        with full(plain, url):
            held = [pool.submit(post, url, PLAIN, x_makespan_attempt=name) for name in ("a", "b")]
            eventually(lambda: state(url)["queued"] == 2)
            wanted = {"requests": ["a", "never", "b"], "most": 1}
            back = http.post(url + "/makespan/v1/recall", json=wanted).json()
            assert back["requests"] == ["a"]
            answer = held[0].result()
            assert (answer.status_code, answer.headers["x-makespan-recalled"]) == (503, "1")
            assert state(url)["queued"] == 1
        assert held[1].result().status_code == 200
        assert http.post(url + "/makespan/v1/recall", content=b"x").status_code == 400
    assert plain.seen()["answers"] == 2


def test_what_is_held_expires(plain: Plain) -> None:
    with sidecar(plain.url, "--slots", "1") as agent:
        url = url_of(agent)
        with full(plain, url):
            answer = post(url, PLAIN, x_makespan_deadline_ms="50")
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                504,
                "deadline_exceeded",
            )
        assert post(url, PLAIN, x_makespan_deadline_ms=str(1000 * PATIENCE_S)).status_code == 200
        assert outcomes(url, "expired") == 1


def test_a_client_that_leaves_stops_the_servers_work(plain: Plain) -> None:
    with sidecar(plain.url, "--slots", "1") as agent:
        url = url_of(agent)
        with full(plain, url), asking(url + COMPLETIONS, PLAIN):
            eventually(lambda: state(url)["queued"] == 1)  # leaves while it is held
        eventually(lambda: plain.seen()["aborted"] == 1)
        eventually(lambda: outcomes(url, "cancelled") == 2)
        told = state(url)
        assert (told["running"], told["queued"], told["kv_held"]) == (0, 0, 0)
        assert post(url, PLAIN).status_code == 200
    assert plain.seen()["answers"] == 2


def test_a_stream_that_breaks_ends_with_an_error_event(plain: Plain) -> None:
    with sidecar(plain.url) as agent:
        answer = post(url_of(agent), {**PLAIN, "stream": True}, x_cut="3")
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert json.loads(events[-1])["error"]["code"] == "worker_failed"
        assert state(url_of(agent))["running"] == 0


def test_an_engine_with_our_scheduler_gets_a_lead(plain: Plain) -> None:
    with sidecar(plain.url, "--slots", "8", engine="vllm") as agent:
        url = url_of(agent)
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda _: post(url, {**PLAIN, "stream": True}), range(80)))
        assert {answer.status_code for answer in answers} == {200}
        assert plain.seen()["peak"] == 9
        assert state(url)["engine"] == "vllm"


@pytest.mark.parametrize(
    ("said", "body", "told"),
    [
        ("bulk", PLAIN, 1),
        ("interactive", PLAIN, -1),
        ("default", PLAIN, None),
        ("bulk", {**PLAIN, "priority": -3}, -3),
    ],
)
def test_our_scheduler_inside_is_told_whose_turn_it_is(
    plain: Plain, said: str, body: dict[str, Any], told: int | None
) -> None:
    with sidecar(plain.url, engine="vllm") as agent:
        assert post(url_of(agent), body, **{"x-makespan-priority": said}).status_code == 200
    assert json.loads(plain.seen()["body"]) == body | ({} if told is None else {"priority": told})


def test_slots_and_memory_are_learnt_from_the_engines_metrics(plain: Plain) -> None:
    page = (
        'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 2.0\n'
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="640"} 1.0\n'
    )
    http.put(plain.url + "/metrics", content=page.encode())
    with sidecar(plain.url, "--slots", "8") as agent:
        url = url_of(agent)
        eventually(lambda: state(url)["slots"] == 3)
        assert state(url)["kv_tokens"] == 10_224
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: post(url, PLAIN), range(20)))
        assert {answer.status_code for answer in answers} == {200}
    assert plain.seen()["peak"] == 3


def test_releases_come_in_groups() -> None:
    """Under a threshold, far fewer prefills at the engine than one a request."""
    speed = 1.25  # rounds that are long beside what a busy machine delays
    cost = json.dumps(PROFILES["llama-65b-ascend"].cost.scaled(1 / speed).to_ms())
    body = {"model": "llama-65b", "prompt": "a", "ignore_eos": True, "stream": True}
    bodies = [{**body, "max_tokens": 30 + 37 * k % 91} for k in range(96)]

    def stages(policy: str) -> float:
        engine = ("--port", "0", "--speed", str(speed), "--slots", "16")
        with Process("agent", *engine, "--policy", "prefill-first") as upstream:
            inner = url_of(upstream)
            flags = ("--slots", "16", "--cost", cost, "--policy", policy)
            with sidecar(inner, *flags) as agent, ThreadPoolExecutor(48) as pool:
                url = url_of(agent)
                answers = list(pool.map(lambda ask: post(url, ask), bodies))
                assert {answer.status_code for answer in answers} == {200}, agent.lines
            return scrape(inner).total("makespan_prefill_insertions_total")

    with ThreadPoolExecutor(2) as both:
        one_by_one, in_groups = both.map(stages, ("prefill-first", "threshold"))
    print(f"prefill stages: {one_by_one:g} one by one, {in_groups:g} in groups")
    assert in_groups < 0.75 * one_by_one


def test_an_upstream_that_dies_and_comes_back(mortal: Plain) -> None:
    port = int(mortal.url.rsplit(":", 1)[1])
    with sidecar(mortal.url, "--slots", "1") as agent, ThreadPoolExecutor(4) as pool:
        url = url_of(agent)
        running = pool.submit(post, url, {**PLAIN, "max_tokens": 5000})
        eventually(lambda: mortal.seen()["running"] == 1)
        held = [pool.submit(post, url, PLAIN) for _ in range(3)]
        eventually(lambda: state(url)["queued"] == 3)
        with http.stream("GET", url + "/makespan/v1/state") as lines:
            mortal.kill()
            told = list(lines.iter_lines())  # it ends
        assert json.loads(told[0])["running"] == 1
        codes = [one.result().status_code for one in (running, *held)]
        assert set(codes) <= {502, 503}
        for path in ("/health", "/ready", "/makespan/v1/state", "/v1/models", "/echo/x"):
            assert http.get(url + path).status_code == 503
        assert post(url, PLAIN).status_code == 503
        again = Plain(port)
        try:
            eventually(lambda: http.get(url + "/health").status_code == 200)
            assert post(url, PLAIN).status_code == 200
            told_again = state(url)
            assert (told_again["running"], told_again["queued"]) == (0, 0)
        finally:
            again.kill()


def test_an_upstream_that_freezes_is_down_until_it_goes_on(mortal: Plain) -> None:
    with sidecar(mortal.url) as agent, ThreadPoolExecutor(2) as pool:
        url = url_of(agent)
        running = pool.submit(post, url, {**PLAIN, "max_tokens": 5000})
        eventually(lambda: mortal.seen()["running"] == 1)
        mortal.process.send_signal(signal.SIGSTOP)
        assert running.result().status_code in (502, 503)
        assert http.get(url + "/health").status_code == 503
        mortal.process.send_signal(signal.SIGCONT)
        eventually(lambda: http.get(url + "/health").status_code == 200)
        assert post(url, PLAIN).status_code == 200


def test_an_idle_upstream_that_freezes_is_not_waited_for_long(mortal: Plain) -> None:
    with sidecar(mortal.url) as agent:
        mortal.process.send_signal(signal.SIGSTOP)
        assert "none of 2 looks" in agent.wait_for(r"upstream is down (.*)")
        assert http.get(url_of(agent) + "/health").status_code == 503
        mortal.process.send_signal(signal.SIGCONT)
        eventually(lambda: http.get(url_of(agent) + "/health").status_code == 200)


def test_an_upstream_that_answers_nothing_beside_a_prompt_is_waited_for(mortal: Plain) -> None:
    with sidecar(mortal.url) as agent:
        assert post(url_of(agent), PLAIN, x_block="2.5").status_code == 200
        assert not any("upstream is down" in line for line in agent.lines)


def test_an_upstream_that_is_not_there_yet() -> None:
    port = free_ports(1)[0]
    flags = ("--port", "0", "--engine", "openai", "--upstream", f"http://127.0.0.1:{port}")
    with Process("agent", *flags) as agent:
        url = url_of(agent)
        agent.wait_for(r"upstream is (down)")
        assert http.get(url + "/health").status_code == 503
        server = Plain(port)
        try:
            agent.wait_for(r"upstream is (up)")
            assert post(url, PLAIN).status_code == 200
        finally:
            server.kill()


def test_a_wrong_upstream_is_explained(plain: Plain) -> None:
    for upstream, flags, why in (
        (plain.url + "/echo/deep", (), "answered 207"),
        (plain.url, ("--model", "other"), "it serves plain, and not --model other"),
    ):
        told = ("agent", "--port", "0", "--engine", "openai", "--upstream", upstream)
        with Process(*told, *flags) as agent:
            assert why in agent.wait_for(r"upstream is down (.*)")
            enough = plain.seen()["models"] + plain.seen()["echoed"] + 3  # looks
            eventually(lambda n=enough: plain.seen()["models"] + plain.seen()["echoed"] >= n)  # type: ignore[misc]
            assert sum("upstream is down" in line for line in agent.lines) == 1
    told = ("agent", "--port", "0", "--engine", "openai", "--upstream", plain.url + "/v1")
    with Process(*told) as agent:
        assert agent.process.wait(PATIENCE_S) == 2
        assert "upstream: " in agent.wait_for(r"(makespan agent: .*)")


def test_running_requests_end_before_the_sidecar_does(plain: Plain) -> None:
    with sidecar(plain.url, "--slots", "1") as agent, ThreadPoolExecutor(3) as pool:
        url = url_of(agent)
        asks = [pool.submit(post, url, {**PLAIN, "max_tokens": 300}) for _ in range(2)]
        eventually(lambda: state(url)["queued"] == 1)
        assert agent.stop() == 0
        assert [one.result().status_code for one in asks] == [200, 200]


def test_what_a_dying_upstream_has_not_begun_goes_elsewhere() -> None:
    """A gateway, two sidecars, an upstream each; one upstream is killed under load."""
    with ExitStack() as stack:
        servers = [Plain(), Plain()]
        for server in servers:
            stack.callback(server.kill)
        names = ("side-0", "side-1")
        agents = [
            stack.enter_context(sidecar(server.url, "--slots", "4", "--name", name))
            for server, name in zip(servers, names, strict=True)
        ]
        told = ",".join(url_of(agent) for agent in agents)
        flags = ("gateway", "--port", "0", "--worker", told)
        gateway = stack.enter_context(Process(*flags))
        url = gateway.wait_for(r"listening url=(\S+)")

        def up() -> list[str]:
            workers = http.get(url + "/makespan/v1/workers").json()["workers"]
            return sorted(worker["name"] for worker in workers if worker["up"])

        eventually(lambda: up() == [*names])
        pool = stack.enter_context(ThreadPoolExecutor(24))
        bodies = [{**PLAIN, "max_tokens": 400, "stream": k % 2 == 0} for k in range(24)]
        asks = [pool.submit(post, url, body) for body in bodies]
        eventually(lambda: all(server.seen()["running"] for server in servers))
        servers[0].kill()
        eventually(lambda: up() == ["side-1"])
        broken = 0
        for ask, body in zip(asks, bodies, strict=True):
            answer = ask.result()
            assert answer.status_code == 200
            if answer.text.count(" w") != body["max_tokens"]:
                assert body["stream"]
                assert "worker_failed" in answer.text
                broken += 1
        assert broken <= 4
        again = Plain(int(servers[0].url.rsplit(":", 1)[1]))
        stack.callback(again.kill)
        eventually(lambda: up() == [*names])
        answers = [post(url, PLAIN).headers["x-makespan-worker"] for _ in range(4)]
        assert set(answers) <= set(names)
        workers = http.get(url + "/makespan/v1/workers").json()["workers"]
        assert {worker["kind"] for worker in workers} == {"agent"}
