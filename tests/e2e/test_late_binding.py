"""What waits, moves, expires and goes first, with real processes."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests import http
from tests.e2e.test_gateway import TEXT
from tests.helpers import Process, scrape
from tests.ports import free_ports
from tests.waiting import eventually

SLOTS = 16
FAILURES = 5  # in a row until nobody is sent to a worker


class Site:
    """A gateway before agents, of which some start later."""

    def __init__(self, stack: ExitStack, count: int) -> None:
        self._stack = stack
        self.ports = free_ports(count)
        urls = ",".join(f"http://127.0.0.1:{port}" for port in self.ports)
        gateway = stack.enter_context(Process("gateway", "--port", "0", "--worker", urls))
        self.gateway = gateway
        self.url = gateway.wait_for(r"listening url=(\S+)")
        self.pool = stack.enter_context(ThreadPoolExecutor(64))

    def start(self, index: int, speed: float = 20.0, slots: int = SLOTS) -> Process:
        flags = ("--port", str(self.ports[index]), "--name", f"a{index}")
        more = ("--speed", str(speed), "--slots", str(slots))
        agent = self._stack.enter_context(Process("agent", *flags, *more))
        eventually(lambda: any(w["name"] == f"a{index}" and w["up"] for w in self.workers()))
        return agent

    def hold(self, index: int, agent: Process) -> None:
        """Stop it for now, so that it joins when it is let go."""
        agent.process.send_signal(signal.SIGSTOP)
        eventually(lambda: not self.workers()[index]["up"])

    def workers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = http.get(self.url + "/makespan/v1/workers").json()["workers"]
        return rows

    def ask(self, tokens: int, name: str = "x", **headers: str) -> Future[httpx.Response]:
        body = {**TEXT, "max_tokens": tokens, "ignore_eos": True}
        body["prompt"] = headers.pop("prompt", TEXT["prompt"])
        body["stream"] = headers.pop("stream", "") == "yes"
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        sent["x-request-id"] = name
        url = self.url + "/v1/completions"
        content = json.dumps(body).encode()
        return self.pool.submit(http.post, url, content=content, headers=sent)

    def told(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = http.get(f"{self.url}/makespan/v1/requests/{name}").json()
        return found

    def metric(self, name: str) -> float:
        return scrape(self.url).total(name)

    def settle(self) -> None:
        """Nothing is left over anywhere."""
        assert not any("Traceback" in line for line in self.gateway.lines)
        up = [worker for worker in self.workers() if worker["up"]]
        assert [(worker["in_flight"], worker["backlog_s"]) for worker in up] == [(0, 0.0)] * len(up)
        assert self.metric("makespan_unsent_requests") == 0

        def idle() -> bool:
            agents = [worker["agent"] for worker in self.workers() if worker["up"]]
            return all(agent["running"] + agent["queued"] == 0 for agent in agents)

        eventually(idle)


@pytest.fixture
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, 2)


def test_a_worker_that_joins_takes_over_what_has_not_begun(site: Site) -> None:
    """Unsent requests and queued ones go to it, running ones stay; nothing is lost or doubled."""
    site.start(0, speed=0.5)
    joining = site.start(1)
    site.hold(1, joining)
    names = [f"r{k}" for k in range(30)]
    kinds = ["yes", ""]
    answers = [site.ask(100, name, stream=kinds[k % 2]) for k, name in enumerate(names)]
    eventually(lambda: site.workers()[0]["agent"]["queued"] == 2)
    assert site.workers()[0]["in_flight"] == SLOTS + SLOTS // 8
    assert site.metric("makespan_unsent_requests") == 30 - SLOTS - SLOTS // 8
    joining.process.send_signal(signal.SIGCONT)
    for answer in answers:
        assert answer.result().status_code == 200
        assert "x-makespan-recalled" not in answer.result().headers
        text = answer.result().text
        counted = text.count('"index":0') == 100 or '"completion_tokens":100' in text
        assert counted
    told = [site.told(name) for name in names]
    where = Counter(row["worker"] for row in told)
    moved = [row for row in told if row["recalled"]]
    assert where["a0"] == SLOTS
    assert len(moved) == 2 == site.metric("makespan_recalled_total")
    assert {row["worker"] for row in moved} == {"a1"}
    assert not any(row["failed_workers"] for row in told)
    assert {row["outcome"] for row in told} == {"completed"}
    agents = [scrape(f"http://127.0.0.1:{port}") for port in site.ports]
    ended = [agent.total("makespan_requests_total") for agent in agents]
    assert ended == [SLOTS + 2, 14]
    site.settle()


def test_requests_of_one_id_are_told_apart(site: Site) -> None:
    site.start(0, speed=0.5)
    joining = site.start(1)
    site.hold(1, joining)
    answers = [site.ask(100, "same") for _ in range(20)]
    eventually(lambda: site.workers()[0]["agent"]["queued"] == 2)
    joining.process.send_signal(signal.SIGCONT)
    assert {answer.result().status_code for answer in answers} == {200}
    assert site.metric("makespan_recalled_total") == 2, site.gateway.lines
    site.settle()


def test_a_deadline_that_passes_before_work_begins_ends_with_504(site: Site) -> None:
    """At the gateway and in the agent's queue; one that has begun goes on."""
    site.start(0, speed=0.5, slots=8)
    running = [site.ask(180, f"run{k}", x_makespan_deadline_ms="8000") for k in range(8)]
    eventually(lambda: site.workers()[0]["agent"]["running"] == 8)
    late = [site.ask(10, "late0", x_makespan_deadline_ms="6000")]
    eventually(lambda: site.workers()[0]["agent"]["queued"] == 1)  # the lead
    late += [site.ask(10, f"late{k}", x_makespan_deadline_ms="700") for k in range(1, 4)]
    for answer in late:
        assert answer.result().status_code == 504
        assert answer.result().json()["error"]["code"] == "deadline_exceeded"
    assert [site.told(f"late{k}")["worker"] for k in range(4)] == ["a0", None, None, None]
    assert {site.told(f"late{k}")["outcome"] for k in range(4)} == {"expired"}
    assert {answer.result().status_code for answer in running} == {200}
    assert site.metric('makespan_requests_total{model="llama-65b",outcome="expired"}') == 4
    site.settle()


def test_priorities_go_first_at_the_gateway_and_at_the_agent(site: Site) -> None:
    site.start(0, speed=0.7, slots=8)
    running = [site.ask(150, f"run{k}") for k in range(8)]
    eventually(lambda: site.workers()[0]["agent"]["running"] == 8)
    bulk = [site.ask(40, f"bulk{k}", x_makespan_priority="bulk") for k in range(8)]
    eventually(lambda: site.metric("makespan_unsent_requests") == 7)
    urgent = [site.ask(40, f"int{k}", x_makespan_priority="interactive") for k in range(8)]
    for answer in [*running, *bulk, *urgent]:
        assert answer.result().status_code == 200
    names = [f"{kind}{k}" for kind in ("bulk", "int") for k in range(8)]
    sent = {name: site.told(name)["times"]["sent_at"] for name in names}
    last_urgent = max(sent[f"int{k}"] for k in range(8))
    assert sum(sent[f"bulk{k}"] > last_urgent for k in range(8)) >= 6
    told = site.told("bulk7")
    assert (told["priority"], told["deadline_s"], told["recalled"]) == ("bulk", None, 0)
    assert told["planned"] >= 1  # more often, unless the slots are free at once on a busy machine


def test_a_killed_workers_unsent_requests_are_served_by_the_other(site: Site) -> None:
    dying = site.start(0, speed=0.5, slots=8)
    answers = [site.ask(200, f"k{k}") for k in range(20)]
    eventually(lambda: site.workers()[0]["agent"]["running"] == 8)
    site.start(1, speed=20.0)
    dying.process.kill()
    assert {answer.result().status_code for answer in answers} == {200}
    site.settle()


def test_unsent_requests_that_nobody_may_serve_any_more_get_503(site: Site) -> None:
    dying = site.start(0, speed=1.0, slots=8)
    answers = [site.ask(1000, f"k{k}") for k in range(20)]
    eventually(lambda: site.metric("makespan_unsent_requests") == 11)
    dying.process.kill()
    statuses = Counter(answer.result().status_code for answer in answers)
    # The kernel shuts a dying process's connections before its door, so one more may be let in
    # where nobody listens any longer; whoever finds it shut has not been sent anywhere.
    sent, left = statuses[502], statuses[503]
    assert (sent + left, 9 <= sent < 9 + FAILURES) == (20, True), statuses
    errors = Counter(site.told(f"k{k}")["error"] for k in range(20))
    assert errors["No worker that serves 'llama-65b' is up."] == left
    assert not any("refused" in error for error in errors)


def test_long_prefixes_stick_to_a_worker_and_save_its_prefill(site: Site) -> None:
    for k in range(2):
        site.start(k, speed=10.0)
    shared = [f"document {d} " * 150 for d in range(4)]
    homes: dict[int, set[str]] = {d: set() for d in range(4)}
    cached = []
    for k in range(24):
        d = k % 4
        answer = site.ask(3, f"p{k}", prompt=shared[d] + f"question {k}").result()
        homes[d].add(answer.headers["x-makespan-worker"])
        cached.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert all(len(home) == 1 for home in homes.values()), homes
    assert cached[:4] == [0] * 4
    assert min(cached[4:]) > 300
    told = site.told("p23")
    chosen = next(row for row in told["choice"]["candidates"] if row["chosen"])
    assert chosen["cached_tokens"] == pytest.approx(told["cached_tokens"], rel=0.05)
    assert site.metric("makespan_cached_prompt_tokens_total") == sum(cached)


def test_a_cache_does_not_overload_its_worker(site: Site) -> None:
    for k in range(2):
        site.start(k, speed=5.0, slots=8)
    prompt = "the same document " * 150
    site.ask(3, "first", prompt=prompt).result()
    answers = [site.ask(100, f"q{k}", prompt=prompt + str(k)) for k in range(16)]
    where = Counter(answer.result().headers["x-makespan-worker"] for answer in answers)
    assert min(where.values()) >= 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-makespan-priority", "urgent"),
        ("x-makespan-priority", "1"),
        ("x-makespan-deadline-ms", "soon"),
        ("x-makespan-deadline-ms", "0"),
        ("x-makespan-deadline-ms", "nan"),
        ("x-makespan-tenant", "t" * 129),
    ],
)
def test_bad_headers_are_refused_by_name(one: Site, name: str, value: str) -> None:
    answer = one.ask(3, **{name: value}).result()
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name


@pytest.fixture(scope="module")
def one() -> Iterator[Site]:
    with ExitStack() as stack:
        made = Site(stack, 1)
        made.start(0)
        yield made


def test_agents_refuse_what_is_no_recall_and_ignore_unknown_names(one: Site) -> None:
    url = f"http://127.0.0.1:{one.ports[0]}/makespan/v1/recall"
    assert http.post(url, json={"requests": ["nobody"]}).json() == {"requests": []}
    assert http.post(url, json={"requests": "all"}).status_code == 400
