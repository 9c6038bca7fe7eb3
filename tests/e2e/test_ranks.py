"""An engine of several ranks behind one address is planned as its ranks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests import http
from tests.faulty_server import Call, FaultyServer, good, status
from tests.helpers import Process
from tests.ranked_server import RankedServer
from tests.waiting import eventually


class Gateway(Process):
    """Before these servers."""

    def __init__(self, *servers: FaultyServer, flags: tuple[str, ...] = ()) -> None:
        workers = ",".join(server.url for server in servers)
        super().__init__("gateway", "--port", "0", "--worker", workers, *flags)
        self.url = self.wait_for(r"listening url=(\S+)")

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = http.get(self.url + "/makespan/v1/workers").json()["workers"]
        return found

    def ranks(self) -> list[int | None]:
        return [one["rank"] for one in self.workers() if one["up"]]

    def known(self) -> list[int]:
        return [one["cache"]["blocks"]["known"] for one in self.workers()]

    def ask(self, prompt: str = "a", **headers: str) -> str:
        """Who answers it."""
        body = {"model": "m", "prompt": prompt, "max_tokens": 2, "stream": True}
        answer = http.post(self.url + "/v1/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-makespan-worker"])


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[RankedServer, Gateway]]:
    with RankedServer() as server, Gateway(server) as gateway:
        eventually(lambda: gateway.ranks() == [0, 1])
        yield server, gateway


def test_ranks_share_the_load_and_each_is_named_and_told_of(
    two: tuple[RankedServer, Gateway],
) -> None:
    server, gateway = two
    server.named.clear()
    answer, server.most_waiting = server.answer, 0

    async def once_all_are_there(call: Call) -> None:
        while server.most_waiting < 8:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await answer(call)

    server.answer = once_all_are_there
    with ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(lambda k: gateway.ask(f"{k} clips"), range(8)))
    server.answer = answer
    assert server.named == {"0": 4, "1": 4}, "a rank of its own for each, and none without"
    netloc = server.url.removeprefix("http://")
    assert Counter(asked) == {f"{netloc}#0": 4, f"{netloc}#1": 4}
    assert [one["name"] for one in gateway.workers()] == [f"{netloc}#0", f"{netloc}#1"]
    text = http.get(gateway.url + "/metrics").text
    assert f'makespan_worker_up{{worker="{netloc}#1"}} 1.0' in text


def test_a_rank_that_a_client_names_is_no_matter(two: tuple[RankedServer, Gateway]) -> None:
    server, gateway = two
    server.named.clear()
    gateway.ask("clips", **{"x-data-parallel-rank": "99"})
    assert server.named.total() == 1
    assert server.named.keys() <= {"0", "1"}


def test_prompts_go_to_the_rank_that_holds_their_beginning(
    two: tuple[RankedServer, Gateway],
) -> None:
    server, gateway = two
    eventually(lambda: all(rank.heard for rank in server.ranks))
    documents = [f"document {k} " * 900 for k in range(4)]
    held = [0, 0]
    for k, document in enumerate(documents):
        held[k % 2] += server.ranks[k % 2].store(document)
    eventually(lambda: gateway.known() == held)
    assert [one["cache"]["knowledge"] for one in gateway.workers()] == ["exact", "exact"]
    for _ in range(2):
        for k, document in enumerate(documents):
            assert gateway.ask(f"{document} question").endswith(f"#{k % 2}")


def test_who_has_no_page_of_ranks_tells_by_its_metrics() -> None:
    with RankedServer(3, tells=False) as server, Gateway(server) as gateway:
        eventually(lambda: gateway.ranks() == [0, 1, 2])


def test_ranks_that_come_and_go_are_followed_and_who_refuses_them_is_one_again() -> None:
    with RankedServer(3) as server, Gateway(server) as gateway:
        eventually(lambda: gateway.ranks() == [0, 1, 2])
        models, server.models = server.models, status(503)
        eventually(lambda: gateway.ranks() == [])
        server.count, server.models = 2, models
        eventually(lambda: gateway.ranks() == [0, 1])
        server.refuses = True
        assert gateway.ask().endswith(("#0", "#1")), "its client does not hear of it"
        eventually(lambda: gateway.ranks() == [None])
        server.named.clear()
        assert gateway.ask() == server.url.removeprefix("http://")
        assert server.named == {None: 1}


def test_what_a_client_does_wrong_is_its_answer_and_says_nothing_of_ranks(
    two: tuple[RankedServer, Gateway],
) -> None:
    server, gateway = two
    answer, server.answer = server.answer, status(400)
    body = {"model": "m", "prompt": "a"}
    assert http.post(gateway.url + "/v1/completions", json=body).status_code == 400
    server.answer = answer
    server.named.clear()
    gateway.ask()
    assert None not in server.named


def test_who_is_failed_by_one_rank_goes_to_another_address() -> None:
    """The ranks of the one that fails are one server: none of them is tried after another."""
    with RankedServer() as bad, FaultyServer(good) as well:
        bad.answer = status(500)
        with Gateway(bad, well, flags=("--retries", "1")) as gateway:
            eventually(lambda: gateway.ranks() == [0, 1, None])
            for k in range(6):
                before = bad.calls
                assert gateway.ask(f"{k}") == well.url.removeprefix("http://")
                assert bad.calls - before <= 1
            assert bad.calls > 0
