"""Looks at plain servers: what is read of their metrics, whatever is wrong with these."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from router.gateway.fleet import reports as looks
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


def test_ranks_are_what_pages_tell_and_else_what_metrics_do() -> None:
    two = b"".join(
        b'vllm:num_requests_%b{engine="%d"} 1\n' % (name, k)
        for name in (b"running", b"waiting")
        for k in (0, 1)
    )

    async def metrics(call: Call) -> None:
        await call.answer(200, two, content_type="text/plain")

    async def info(call: Call) -> None:
        told = {"/server_info": b'{"dp_size": 3}', "/metrics": two}.get(call.path)
        await call.answer(404 if told is None else 200, told or b"")

    async def ranks(answer: Answer) -> list[int | None]:
        with FaultyServer(others=answer) as server:
            return [one.ranks for one in await looks_at(server.url, 3, wants=False)]

    assert asyncio.run(ranks(only_metrics(metrics))) == [None, 2, 2]
    assert asyncio.run(ranks(info)) == [None, 3, 3]
    assert asyncio.run(ranks(status(404))) == [None, 1, 1]


def test_a_server_without_such_metrics_is_asked_once() -> None:
    asked = 0

    async def other(call: Call) -> None:
        nonlocal asked
        asked += 1
        await call.answer(200, b"process_cpu_seconds_total 3\n", content_type="text/plain")

    look(other, 4)
    assert asked == 1
