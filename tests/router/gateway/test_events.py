"""The dashboard's stream: nothing for nobody, the same for all, and nobody waits for the slow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from fastapi import HTTPException

from router.gateway.accounting.accounts import Accounts
from router.gateway.dashboard import events as module
from router.gateway.dashboard.events import (
    HEARTBEAT,
    MOST_WAITING,
    Events,
    Subscriber,
)
from router.gateway.dashboard.frames import Frame, Frames
from router.gateway.dashboard.watch import Watch, Watches
from router.gateway.explanations.request_log import RequestLog
from router.gateway.explanations.request_record import RequestRecord
from router.gateway.fleet.discovery.source import Endpoint
from router.http.asgi import Message, Scope
from router.http.connections import Connections
from router.http.drain import Drain
from router.wire import SlotReport
from solver.routing.problem import Job
from tests.router.gateway.fleet import half


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame in every few turns of the event loop."""
    for name in ("EVERY_S", "LARGE_EVERY_S", "LISTS_EVERY_S"):
        monkeypatch.setattr(module, name, 0.0)


class Counted(Frames):
    made = 0

    def fleet(self) -> Frame:
        self.made += 1
        return super().fleet()


class Client:
    """Reads the endpoint; `stuck`: takes the head and then nothing more."""

    def __init__(self, events: Events, *, slots: str = "", stuck: bool = False) -> None:
        self.sent: list[Message] = []
        self.told = asyncio.Event()
        self._gone, self._stuck = asyncio.Event(), stuck
        scope: Scope = {"type": "http", "query_string": f"slots={slots}".encode()}
        self.task = asyncio.create_task(events(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._stuck and self.sent:
            await asyncio.Event().wait()
        self.sent.append(message)
        self.told.set()
        await asyncio.sleep(0)

    async def leave(self) -> None:
        self._gone.set()
        await self.task

    async def frames(self, kind: str, least: int = 1) -> list[dict[str, Any]]:
        """At least so many events of one kind."""
        while True:
            text = b"".join(message.get("body", b"") for message in self.sent)
            parts = [part.split(b"\ndata: ") for part in text.split(b"\n\n") if part]
            found = [
                orjson.loads(part[1]) for part in parts if part[0] == b"event: " + kind.encode()
            ]
            if len(found) >= least:
                return found
            self.told.clear()
            await self.told.wait()


@asynccontextmanager
async def stream(workers: int = 2) -> AsyncIterator[tuple[Events, Counted, Watches, Drain]]:
    async with half(workers, plan_deadline_s=0) as made:
        watches, drain = Watches(made.workers, Connections()), Drain()
        watches.follow = lambda every_s: None  # type: ignore[method-assign]  # noqa: ARG005
        accounts = Accounts(made.metrics, 10)
        frames = Counted(
            made.workers, watches, made.dispatcher, accounts, made.metrics, ["dns://x:1"]
        )
        events = Events(frames, watches, drain)
        yield events, frames, watches, drain
        events.stop()


async def test_nothing_is_computed_while_nobody_reads() -> None:
    async with stream() as (events, frames, _, _):
        for _ in range(5):
            await asyncio.sleep(0)
        assert frames.made == 0
        client = Client(events)
        told = await client.frames("fleet", 3)
        assert [worker["name"] for worker in told[0]["workers"]] == ["w0", "w1"]
        lists = (await client.frames("lists"))[0]
        assert [lists[kind] for kind in ("plans", "requests", "tenants", "batches")] == [[]] * 4
        await client.leave()
        made = frames.made
        for _ in range(5):
            await asyncio.sleep(0)
        assert frames.made == made


async def test_all_subscribers_share_what_is_made_once() -> None:
    async with stream() as (events, frames, _, _):
        clients = [Client(events) for _ in range(5)]
        for client in clients:
            await client.frames("fleet", 10)
        assert frames.made < 5 * 10
        for client in clients:
            await client.leave()


async def test_single_slots_go_to_those_who_asked_for_them() -> None:
    async with stream() as (events, _, watches, _):
        seconds = {"prefill": 1.0, "decode": 2.0, "stalled": 0.0, "waiting": 0.0, "empty": 0.0}
        report = SlotReport(5.0, 4, seconds, 0.5, 4.0, 5.0, [(1, 0.0, 9.0)], [])
        watch = Watch()
        watches.of = lambda worker: watch if worker.name == "w1" else Watch()  # type: ignore[method-assign]
        curious, other = Client(events, slots="w1"), Client(events)
        await other.frames("fleet")
        watch.add(report, 105.0)
        (slots,) = await curious.frames("slots")
        assert slots == {
            "worker": "w1", "slots": 4, "since": 104.0, "until": 105.0,
            "held": [[1, 0.0, 9.0]], "fills": [],
        }  # fmt: skip
        assert (await curious.frames("fleet", 5))[-1]["workers"][1]["seconds"] == seconds
        assert not await other.frames("slots", 0)
        for client in (curious, other):
            await client.leave()


async def test_a_stuck_subscriber_is_let_go_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STUCK_S", 0.5)
    async with stream() as (events, _, _, _):
        stuck, client = Client(events, stuck=True), Client(events)
        await client.frames("fleet", 3 * MOST_WAITING)
        await stuck.task
        await client.leave()


async def test_a_slow_subscriber_loses_the_oldest() -> None:
    subscriber = Subscriber(frozenset())
    for k in range(MOST_WAITING + 3):
        subscriber.put(b"%d " % k)
    assert await subscriber.take() == b"".join(b"%d " % k for k in range(3, MOST_WAITING + 3))


async def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.0)
    assert await Subscriber(frozenset()).take() == HEARTBEAT
    assert HEARTBEAT.startswith(b":")


async def test_a_gateway_that_stops_ends_its_streams_and_begins_none() -> None:
    async with stream() as (events, _, _, drain):
        client = Client(events)
        await client.frames("fleet")
        drain.begin()
        await client.task
        assert client.sent[-1] == {"type": "http.response.body", "body": b""}
        with pytest.raises(HTTPException, match="shutting down"):
            await Client(events).task


async def test_there_is_an_end_to_subscribers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SUBSCRIBERS", 1)
    async with stream() as (events, _, _, _):
        first = Client(events)
        await first.frames("fleet")
        with pytest.raises(HTTPException, match="too many dashboards"):
            await Client(events).task
        await first.leave()


async def test_where_no_worker_is_up_it_is_told_where_they_are_to_be_found() -> None:
    async with stream() as (_, frames, _, _):
        assert "expected" not in frames.fleet()
        for worker in frames._workers:
            worker.health.lost("gone")
        assert frames.fleet()["expected"] == ["dns://x:1"]


async def test_a_worker_that_goes_goes_from_the_picture_too() -> None:
    async with half(2, plan_deadline_s=0) as made:
        watches = Watches(made.workers, Connections())
        accounts = Accounts(made.metrics, 10)
        frames = Frames(made.workers, watches, made.dispatcher, accounts, made.metrics, [])
        first, second = made.workers
        watches.follow(1.0)
        first.load.add("running", Job(50, 100.0), time.monotonic(), streamed=True)
        made.workers.update([Endpoint(second.url)])
        rows = {row["name"]: row["draining"] for row in frames.fleet()["workers"]}
        assert rows == {"w0": True, "w1": False}
        first.load.remove("running")
        made.workers.update([Endpoint(second.url)])
        assert [row["name"] for row in frames.fleet()["workers"]] == ["w1"]
        watches.follow(1.0)
        assert watches._tasks.keys() == watches._watches.keys() == {second}
        watches.stop()


def test_those_that_wait_do_not_crowd_out_those_that_have_gone_somewhere() -> None:
    log = RequestLog(10)
    for k in range(40):
        log.begin(RequestRecord(f"r{k}", "m", stream=False, received_s=float(k)))
        if k < 20:
            record = log.find(f"r{k}")
            assert record is not None
            record.worker = "w0"
            if k < 15:
                log.end(record)
    shown = [record.id for record in log.latest(8)]
    assert shown == ["r39", "r38", "r19", "r18", "r17", "r16", "r15", "r14"]
