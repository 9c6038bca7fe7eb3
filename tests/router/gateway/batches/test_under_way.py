"""Lines under way that are not to be run any more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from router.gateway.batches.files import Files
from router.gateway.batches.inside import Answer
from router.gateway.batches.lines import Waiting
from router.gateway.batches.under_way import UnderWay
from router.http.asgi import Receive, Scope, Send
from tests.router.gateway.batches.stores import ordered


class InMemory:
    """Files as far as lines read them."""

    async def read(self, *_: object) -> bytes:
        return b'{"body": {}}'


async def test_a_line_that_is_dropped_again_and_again_ends_in_good_order() -> None:
    begun, ended = asyncio.Event(), []

    async def endpoint(_: Scope, __: Receive, send: Send) -> None:
        assert isinstance(send, Answer)
        left = asyncio.Event()
        send.when_gone(left.set)
        begun.set()
        await left.wait()
        for _k in range(5):  # it tells a worker, say
            await asyncio.sleep(0)
        ended.append(True)

    under_way = UnderWay(
        cast("Files", InMemory()), ordered(), lambda _: endpoint, lambda *_: {}, lambda: None, print
    )
    batch: Any = SimpleNamespace(
        id="b", tenant="", key="", endpoint="/v1/completions", input_file=""
    )
    under_way.begin(Waiting("b", 1, 0, 0, 0, 0, 0.0), "a", batch)
    await begun.wait()
    while under_way.running:
        under_way.drop("b")
        await asyncio.sleep(0)
    assert ended == [True]
    assert under_way.results == []
