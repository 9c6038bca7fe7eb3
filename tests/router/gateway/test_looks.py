"""Looks at plain servers: what is read of their metrics, whatever is wrong with these."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from router.gateway.fleet import reports as looks
from router.gateway.fleet.kv.sources import MOST_RANKS
from router.gateway.fleet.reports import PlainLook, reports
from router.http.connections import Connections
from router.observe.engine_metrics import Signals
from tests.faulty_server import STREAM_HEAD, Answer, Call, FaultyServer, chunk, status

PAGE = b"vllm:num_requests_running 3\nvllm:num_requests_waiting 1\n"


def only_metrics(answer: Answer) -> Answer:
    async def others(call: Call) -> None:
        await (answer if call.path == "/metrics" else status(404))(call)

    return others


async def page(call: Call) -> None:
    await call.answer(200, PAGE, content_type="text/plain")


async def endless(call: Call) -> None:
    await call.send(STREAM_HEAD)
    while True:
        await call.send(chunk(PAGE * 1000))


async def reset(call: Call) -> None:
    call.reset()


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "PROBE_INTERVAL_S", 0.0)


async def looks_at(url: str, times: int, *, wants: bool) -> list[PlainLook]:
    connections, found = Connections(), list[PlainLook]()
    connections.open()
    try:
        async with aclosing(reports(connections, url, 1.0, lambda: wants)) as told:
            async for one in told:
                assert isinstance(one, PlainLook)
                found.append(one)
                if len(found) == times:
                    return found
    finally:
        await connections.close()
    raise AssertionError("it ended")


def look(answer: Answer, times: int, *, wants: bool = True) -> list[PlainLook]:
    """So many looks at a server that answers this at ``/metrics``."""
    with FaultyServer(others=only_metrics(answer)) as server:
        return asyncio.run(looks_at(server.url, times, wants=wants))


def test_metrics_are_read_where_they_would_tell_something() -> None:
    assert [one.signals for one in look(page, 2)] == [Signals(3, 1)] * 2
    assert [one.signals for one in look(page, 2, wants=False)] == [None] * 2


@pytest.mark.parametrize("answer", [endless, reset, status(404), status(500)])
def test_whatever_is_wrong_with_metrics_the_server_serves(answer: Answer) -> None:
    assert all(one.models and one.signals == Signals() for one in look(answer, 3))


def running(ranks: int) -> Answer:
    page = b"".join(b'vllm:num_requests_running{engine="%d"} 1\n' % k for k in range(ranks))

    async def metrics(call: Call) -> None:
        await call.answer(200, page, content_type="text/plain")

    return only_metrics(metrics)


async def info(call: Call) -> None:
    await call.answer(*(200, b'{"dp_size": 3}') if call.path == "/server_info" else (404,))


@pytest.mark.parametrize(
    ("answer", "ranks"),
    [(running(1), 1), (running(2), 2), (running(100), MOST_RANKS), (info, 3), (status(404), 1)],
)
def test_ranks_are_what_pages_tell_and_else_what_metrics_do(answer: Answer, ranks: int) -> None:
    with FaultyServer(others=answer) as server:
        found = asyncio.run(looks_at(server.url, 3, wants=False))
    assert [one.ranks for one in found] == [None, ranks, ranks]


def test_a_server_without_such_metrics_is_asked_once() -> None:
    asked = 0

    async def other(call: Call) -> None:
        nonlocal asked
        asked += 1
        await call.answer(200, b"process_cpu_seconds_total 3\n", content_type="text/plain")

    look(other, 4)
    assert asked == 1
