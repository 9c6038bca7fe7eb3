"""Servers of a few slots, of which nobody has told the gateway: it does not queue inside them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, repeat
from typing import Any

import pytest

from tests import http
from tests.helpers import Process
from tests.waiting import PATIENCE_S, eventually

SLOTS, CLIENTS, REQUESTS, PACE_S = 8, 40, 120, 0.04
# More wait than have slots only while answers take longer than clients need to ask again: after so
# many requests in vain they are to take twice as long, as the machine is slow.
PATIENT_REQUESTS = 200
# What may wait there: one is sent ahead of slots, and the limit may be a step beyond them.
MOST_WAITING = 3


@contextmanager
def fleet(*arguments: str) -> Iterator[tuple[str, list[str]]]:
    """A gateway that knows nothing of them, and two plain servers."""
    program = [sys.executable, "-m", "tests.plain_server", "0", str(SLOTS), *arguments]
    with ExitStack() as stack:
        servers = [stack.enter_context(Process(program=program)) for _ in range(2)]
        urls = [f"http://127.0.0.1:{server.wait_for(r'port (.+)')}" for server in servers]
        made = stack.enter_context(Process("gateway", "--port", "0", "--worker", ",".join(urls)))
        url = made.wait_for(r"listening url=(\S+)")
        eventually(lambda: all(one["up"] for one in workers(url)))
        yield url, urls


def workers(url: str) -> list[dict[str, Any]]:
    return list(http.get(url + "/makespan/v1/workers").json()["workers"])


async def ask(url: str, streamed: float, paces: Iterable[float]) -> None:
    """Many clients, each with one request after the other; a share of them streams."""
    async with http.AsyncClient(base_url=url) as client:
        requests = enumerate(paces)

        async def one_after_the_other() -> None:
            for k, pace_s in requests:
                body = {"model": "plain", "prompt": f"{k}: how many?", "max_tokens": 8}
                answer = await client.post(
                    "/v1/completions",
                    json={**body, "stream": k % 10 < 10 * streamed},
                    headers={"x-pace": str(pace_s)},
                )
                assert answer.status_code == 200

        await asyncio.gather(*(one_after_the_other() for _ in range(CLIENTS)))


async def ask_until(url: str, streamed: float, most_slots: int) -> float:
    """Without a pause, until no more are taken for any server's slots; the pace by then."""
    learnt, pace_s = False, PACE_S

    def paces() -> Iterator[float]:
        nonlocal pace_s
        for k in count(1):
            if learnt:
                return
            yield pace_s
            pace_s *= 2 if k % PATIENT_REQUESTS == 0 else 1

    asking = asyncio.create_task(ask(url, streamed, paces()))
    async with http.AsyncClient(base_url=url) as client, asyncio.timeout(PATIENCE_S):
        while not learnt:
            told = (await client.get("/makespan/v1/workers")).json()["workers"]
            learnt = all(one["slots"] <= most_slots for one in told)
            await asyncio.sleep(0.1)
    await asking
    return pace_s


@pytest.mark.parametrize(
    ("arguments", "streamed", "known"),
    [((), 0.5, "learnt"), (("tells",), 0.0, "engine")],
)
def test_little_waits_inside_a_server_whose_slots_nobody_has_told(
    arguments: tuple[str, ...], streamed: float, known: str
) -> None:
    with fleet(*arguments) as (url, servers):
        pace_s = asyncio.run(ask_until(url, streamed, SLOTS + 1))
        assert {one["slots_known"] for one in workers(url)} == {known}
        for server in servers:
            http.put(server + "/seen")
        asyncio.run(ask(url, streamed, repeat(pace_s, REQUESTS)))
        seen = [http.get(server + "/seen").json() for server in servers]
        assert all(one["waited"] <= MOST_WAITING for one in seen)
        assert all(one["peak"] == SLOTS for one in seen), "and no slot is left empty"
