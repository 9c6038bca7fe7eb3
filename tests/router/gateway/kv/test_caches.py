"""Whose publishers are followed, as pages tell of them, one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from router.gateway.fleet.kv import caches
from router.gateway.fleet.kv.caches import Caches, WorkerCache
from router.gateway.fleet.kv.sources import Source
from router.gateway.fleet.kv.stream import Knowledge, Stream
from router.http.connections import Connections
from router.kv_wire import Load
from tests.router.gateway.kv.publisher import Publisher
from tests.waiting import PATIENCE_S

# Nobody is there: what is said of a publisher comes by `tell`.
ONE = Source(0, "tcp://127.0.0.1:1", None)
OTHER = replace(ONE, endpoint="tcp://127.0.0.1:2")


@dataclass(eq=False)
class Server:
    """What it has been found to publish, each time."""

    url: str
    heard: list[Mapping[int, Stream]] = field(default_factory=list)

    def hear_caches(self, streams: Mapping[int, Stream], *, reports: bool) -> None:  # noqa: ARG002
        self.heard.append(streams)

    def push_load(self, rank: int, load: Load, now: float) -> None:  # noqa: ARG002
        raise AssertionError("nobody pushes")


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Pages:
    """What each server's page says when it is looked at, the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: dict[str, list[list[Source] | None]] = {}
        self.looks = 0
        monkeypatch.setattr(caches, "find_sources", self._find)
        for name in ("UNANSWERED_S", "ANSWERED_S", "NONE_S"):
            monkeypatch.setattr(caches, name, 0.005)

    async def _find(
        self,
        _: Connections,
        url: str,
        *,
        agent: bool,  # noqa: ARG002
    ) -> list[Source] | None:
        self.looks += 1
        told = self.told[url]
        return told.pop(0) if len(told) > 1 else told[0]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    return Pages(monkeypatch)


def test_a_page_is_asked_until_it_answers_and_that_is_said_once(
    pages: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        server, followed = Server("http://a"), Caches(Connections(), lambda: None)
        pages.told[server.url] = [None, None, None, [ONE]]
        followed.follow(server, agent=False)
        await until(lambda: server.heard)
        assert pages.looks >= 4
        await followed.close()

    asyncio.run(check())
    assert [one.levelno for one in caplog.records].count(logging.WARNING) == 1


def test_publishers_that_change_go_and_come_are_followed(pages: Pages) -> None:
    async def check() -> None:
        server, followed = Server("http://a"), Caches(Connections(), lambda: None)
        pages.told[server.url] = [[ONE], [ONE], None, [ONE], [OTHER], [], None, [ONE]]
        followed.follow(server, agent=False)
        await until(lambda: len(server.heard) == 4)
        assert [len(one) for one in server.heard] == [1, 1, 0, 1]
        await followed.close()

    asyncio.run(check())


def tell(streams: Mapping[int, Stream]) -> WorkerCache:
    """Its publisher has been heard from the beginning on."""
    (stream,) = streams.values()
    stream.linked()
    list(stream.live(*Publisher().change(1)))
    return WorkerCache([stream])


def test_two_workers_that_tell_of_one_publisher_are_both_guessed(pages: Pages) -> None:
    async def check() -> None:
        servers = [Server(f"http://{name}") for name in "abc"]
        followed = Caches(Connections(), lambda: None)
        for server, source in zip(servers, (ONE, ONE, OTHER), strict=True):
            pages.told[server.url] = [[source]]
            followed.follow(server, agent=False)
        await until(lambda: all(server.heard for server in servers))
        told = [tell(server.heard[0]) for server in servers]
        await until(lambda: told[0].knowledge is Knowledge.ESTIMATED)
        assert [one.knowledge.value for one in told] == ["estimated", "estimated", "exact"]
        assert ["another worker" in one.why for one in told] == [True, True, False]
        followed.forget(servers[1])
        await until(lambda: told[0].knowledge is Knowledge.EXACT)
        await followed.close()

    asyncio.run(check())
