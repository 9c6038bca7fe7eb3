"""Looks at plain servers: what is read of their metrics, whatever is wrong with these."""

from __future__ import annotations

import asyncio
import time
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


def test_a_server_that_another_has_followed_unseen_may_have_ranks() -> None:
    asked = list[str]()

    async def later(call: Call) -> None:
        if call.path == "/server_info":
            asked.append(call.path)
        await (info(call) if len(asked) > 1 else call.answer(404))

    with FaultyServer(others=later) as server:
        found = asyncio.run(looks_at(server.url, looks.NO_RANKS_EVERY + 2, wants=False))
    assert (found[-3].ranks, found[-1].ranks, len(asked)) == (1, 3, 2)


def telling(*pages: bytes) -> tuple[Answer, list[bytes]]:
    """Answers these pages, the last one again and again, and those that it has answered."""
    answered = list[bytes]()

    async def metrics(call: Call) -> None:
        answered.append(pages[min(len(answered), len(pages) - 1)])
        told = answered[-1]
        await call.answer(200 if told else 500, told, content_type="text/plain")

    return metrics, answered


def test_a_server_without_such_metrics_is_asked_seldom() -> None:
    metrics, answered = telling(b"process_cpu_seconds_total 3\n")
    look(metrics, looks.MUTE_EVERY + 1)
    assert len(answered) == 2


@pytest.mark.parametrize("at_first", [b"", b"process_cpu_seconds_total 3\n"])
def test_metrics_that_tell_nothing_at_first_are_read_later(at_first: bytes) -> None:
    metrics, _ = telling(at_first, PAGE)
    found = look(metrics, 2 * looks.MUTE_EVERY)
    assert found[0].signals == Signals()
    assert found[-1].signals == Signals(3, 1)


def test_what_metrics_say_is_of_when_they_were_asked() -> None:
    told_s = list[float]()

    async def metrics(call: Call) -> None:
        told_s.append(time.monotonic())
        await page(call)

    (found,) = look(metrics, 1)
    assert found.asked_s <= told_s[0]
