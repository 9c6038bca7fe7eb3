"""Whoever sends to a worker, it gets what it can start soon, and all requests come to it."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from router.settings.keys import Key, hash_of
from solver.routing.rolling import lead
from tests import http
from tests.e2e.clients import Ask, ask_all
from tests.e2e.test_chaos import SLOTS, Agent, requests, stop_agents
from tests.e2e.test_processes import check
from tests.helpers import Process, scrape
from tests.ports import free_ports
from tests.waiting import eventually

MOST = SLOTS + lead(SLOTS, 1)
PORT = r"^port (\d+)$"


class Gateway(Process):
    """A gateway that knows nothing of others, or of its `peers`."""

    def __init__(self, workers: Sequence[str], *flags: str, port: int = 0) -> None:
        super().__init__("gateway", "--worker", ",".join(workers), "--port", str(port), *flags)
        self.url = self.wait_for(r"listening url=(\S+)")
        eventually(lambda: all(up for up, _ in self.workers()))

    def told(self, what: str) -> list[int]:
        """A figure of each worker."""
        told = http.get(self.url + "/makespan/v1/workers").json()["workers"]
        return [one[what] for one in told]

    def hears(self) -> int:
        """How many others tell it what they send."""
        told = http.get(self.url + "/makespan/v1/workers").json()["peers"]
        return sum(one["up"] for one in told)

    def workers(self) -> list[tuple[bool, int]]:
        """Of each whether it is up, and what its agent has, from whomever."""
        told = http.get(self.url + "/makespan/v1/workers").json()["workers"]
        states = [(one["up"], one["agent"]) for one in told]
        return [(up, state["running"] + state["queued"] if state else 0) for up, state in states]

    def unsent(self) -> float:
        return scrape(self.url).values["makespan_unsent_requests{}"]


@pytest.fixture(scope="module")
def gateways() -> Iterator[list[Gateway]]:
    """Three before the same two agents."""
    with ExitStack() as stack:
        agents = [Agent(port) for port in free_ports(2)]
        stack.callback(stop_agents, agents)
        urls = [agent.url for agent in agents]
        yield [stack.enter_context(Gateway(urls)) for _ in range(3)]


def long_ones(name: str, number: int) -> list[Ask]:
    made = requests(number, random.Random(name))
    for k, ask in enumerate(made):
        ask.id = f"{name}-{k}"
        ask.body |= {"n": 1, "stream": True, "max_tokens": 40, "ignore_eos": True}
    return made


def test_agents_are_not_filled_beyond_what_they_can_start_soon(gateways: list[Gateway]) -> None:
    asks = [long_ones(f"full-{k}", 60) for k in range(len(gateways))]
    held: list[int] = []

    async def all_of_it() -> None:
        async with asyncio.TaskGroup() as group:
            sends = [
                group.create_task(ask_all(gateway.url, mine, len(mine)))
                for gateway, mine in zip(gateways, asks, strict=True)
            ]
            while not all(send.done() for send in sends):
                held.extend(n for _, n in await asyncio.to_thread(gateways[0].workers))
                await asyncio.sleep(0.05)

    asyncio.run(all_of_it())
    for mine in asks:
        check(mine)
    assert max(held) == MOST, "it is full, and no more"
    for gateway in gateways:
        told = scrape(gateway.url)
        for standing in ("ejected", "down"):  # on a busy machine looks are late: that is suspect
            name = f'makespan_worker_health_changes_total{{standing="{standing}"}}'
            assert not told.values.get(name), "to be full is no failure"
        suspected = [text for text in gateway.lines if "worker is suspect" in text]
        assert not [text for text in suspected if "503" in text or "full" in text]


def test_who_comes_late_has_its_share_while_others_wait(gateways: list[Gateway]) -> None:
    first, late = gateways[:2]
    many, few = long_ones("many", 150), long_ones("few", 12)

    async def all_of_it() -> float:
        async with asyncio.TaskGroup() as group:
            send = group.create_task(ask_all(first.url, many, len(many)))
            while await asyncio.to_thread(first.unsent) < len(many) / 2:
                assert not send.done()
            await ask_all(late.url, few, len(few))
            return await asyncio.to_thread(first.unsent)

    left = asyncio.run(all_of_it())
    check([*many, *few])
    assert left > 0, "they have not waited for the last of those who came before"


@contextmanager
def plain_servers(number: int) -> Iterator[list[str]]:
    with ExitStack() as stack:
        program = (sys.executable, "-m", "tests.plain_server")
        servers = [stack.enter_context(Process(program=program)) for _ in range(number)]
        yield [f"http://127.0.0.1:{one.wait_for(PORT)}" for one in servers]


def test_processes_do_not_overfill_servers_that_tell_nothing() -> None:
    slots, processes, clients = 4, 3, 48
    with plain_servers(2) as urls:
        flags = ("--processes", str(processes), "--plain-slots", str(slots), "--port", "0")
        with Process("gateway", *flags, "--worker", ",".join(urls)) as gateway:
            url = gateway.wait_for(r"listening url=(\S+)")
            eventually(
                lambda: (
                    sum("worker is up" in line for line in list(gateway.lines))
                    == len(urls) * processes
                )
            )
            body = {"model": "plain", "prompt": "a", "max_tokens": 20}

            def ask(_: int) -> int:
                with http.Client() as client:
                    return client.post(url + "/v1/completions", json=body).status_code

            with ThreadPoolExecutor(clients) as pool:  # asyncio's own has six on two cores
                assert set(pool.map(ask, range(4 * clients))) == {200}
        peaks = [http.get(one + "/seen").json()["peak"] for one in urls]
    # In the moment in which one sends, each other may, too.
    assert slots <= max(peaks) <= slots + lead(slots, 1) + processes - 1, peaks


@contextmanager
def peers(workers: Sequence[str], number: int, *flags: str) -> Iterator[list[Gateway]]:
    """So many that tell each other what they send."""
    ports = free_ports(number)
    named = ("--peers", ",".join(f"http://127.0.0.1:{port}" for port in ports))
    with ExitStack() as stack:
        made = [stack.enter_context(Gateway(workers, *named, *flags, port=port)) for port in ports]
        eventually(lambda: all(one.hears() == number - 1 for one in made))
        yield made


def slow(url: str) -> AbstractContextManager[object]:
    """An answer that has begun, and goes on for as long as its client stays."""
    body = {"model": "plain", "prompt": "How many clips? " * 100, "max_tokens": 999, "stream": True}
    return http.stream("POST", url + "/v1/completions", json=body, headers={"x-pace": "0.2"})


@pytest.mark.parametrize("processes", [1, 2])
def test_peers_see_each_others_load_at_plain_servers_until_it_ends(processes: int) -> None:
    several = ("--processes", str(processes))
    with plain_servers(2) as urls, peers(urls, 2, *several) as (one, other):
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(slow(one.url))
            eventually(lambda: sum(one.told("in_flight")) == 5)
            sent = one.told("in_flight")
            eventually(lambda: all_tell(other, "elsewhere", sent))
            assert all_tell(other, "in_flight", [0, 0])
            assert all_tell(one, "elsewhere", [0, 0])
            assert min(other.told("backlog_s")) > 0
        eventually(lambda: all_tell(other, "elsewhere", [0, 0]))
        assert other.hears() == 1


def all_tell(gateway: Gateway, what: str, figures: list[int]) -> bool:
    """Whichever of its processes answers: each hears by itself, and not in the same moment."""
    return all(gateway.told(what) == figures for _ in range(8))


def test_what_a_peer_had_is_nothing_once_it_is_gone() -> None:
    with plain_servers(1) as urls, peers(urls, 2) as (one, other):
        with slow(one.url):
            eventually(lambda: other.told("elsewhere") == [1])
            one.process.kill()
            eventually(lambda: other.told("elsewhere") == [0])
        assert other.hears() == 0
        down = 'makespan_peers{state="down"}'
        eventually(lambda: scrape(other.url).values.get(down) == 1)
        assert scrape(other.url).values['makespan_peer_lines_total{what="heard"}'] > 0


def test_peers_share_plain_servers_and_nobody_waits_for_who_is_not_there() -> None:
    """Each gets its part, and all is answered."""
    slots, number = 4, 3
    with plain_servers(2) as urls, peers(urls, number, "--plain-slots", str(slots)) as made:
        body = {"model": "plain", "prompt": "a", "max_tokens": 20}

        def ask(k: int) -> int:
            return http.post(made[k % number].url + "/v1/completions", json=body).status_code

        with ThreadPoolExecutor(48) as pool:
            assert set(pool.map(ask, range(4 * 48))) == {200}
        peaks = [http.get(one + "/seen").json()["peak"] for one in urls]
        eventually(lambda: all(sum(one.told("elsewhere")) == 0 for one in made))
    alone = slots + lead(slots, 1)
    assert slots <= max(peaks) < number * alone, "less than of those that know nothing"


def test_what_is_sent_is_told_to_gateways_alone(tmp_path: Path) -> None:
    """By their secret, be there keys or not; and nowhere without peers."""
    page, secret = "/makespan/v1/sends", tmp_path / "secret"
    secret.write_text("a" * 32)
    keys = tmp_path / "keys.toml"
    keys.write_text(Key(sha256=hash_of("mk-one"), tenant="one").to_toml())
    with plain_servers(1) as urls:
        named, guarded = ("--keys", str(keys)), ("--secret-file", str(secret))
        with Gateway(urls) as alone:
            assert http.post(alone.url + page).status_code == 404
        with peers(urls, 2, *guarded) as (one, _):
            for wrong in ("", "b" * 32):
                answer = http.post(one.url + page, headers={"x-makespan-secret": wrong})
                assert answer.status_code == 401
                assert "a" * 32 not in answer.text
        ports = free_ports(2)
        told_peers = ("--peers", ",".join(f"http://127.0.0.1:{port}" for port in ports))
        flags = ("gateway", "--worker", urls[0], *told_peers, *named)
        with ExitStack() as stack:
            own = (*flags, *guarded, "--port")
            both = [stack.enter_context(Process(*own, str(port))) for port in ports]
            for made in both:
                made.wait_for("(a peer is heard)")
            answer = http.post(f"http://127.0.0.1:{ports[0]}{page}")
            assert answer.status_code == 401
            assert "--secret-file" in answer.text
        with Process(*flags, "--port", "0") as refused:
            refused.wait_for("(peers: where clients need keys gateways need a secret)")
