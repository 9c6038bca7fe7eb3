"""Work that is relayed takes turns by shares where it waits, and is charged for engine time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from router.gateway.admission.relayed_work import RelayedWork, Work
from router.http.usage import Usage
from solver.routing.charges import slot_seconds
from tests.router.gateway.fleet import Half, half
from tests.waiting import until

SLOTS, MODEL = 4, "llama-65b"


class Ours:
    """Its own fleet, what has been served, and whose work has been sent in which order."""

    def __init__(self, made: Half) -> None:
        self.made, self.served, self.sent = made, Counter[str](), list[str]()
        self.work = RelayedWork(made.workers, made.dispatcher.shares, self._serve)
        self.places = sum(worker.slots + 1 for worker in made.workers)
        self.there: list[Work] = []

    def _serve(self, tenant: str, slot_s: float) -> None:
        self.served[tenant] += slot_s  # type: ignore[assignment]

    async def ask(self, tenant: str, tokens: float = 100.0, model: str = MODEL) -> Work | None:
        work = Work(tenant, model, None, tokens)
        if await self.work.place(work, waits=True) is None:
            return None
        self.sent.append(tenant)
        self.there.append(work)
        return work

    def end(self, work: Work, usage: Usage | None = None, *, served: bool = True) -> None:
        assert work.worker is not None
        self.there.remove(work)
        self.work.end(work, usage, served=served)
        self.work.left(work.worker)

    def asks(self, tenants: Sequence[str]) -> list[asyncio.Task[Work | None]]:
        return [asyncio.create_task(self.ask(name)) for name in tenants]

    @property
    def waiting(self) -> int:
        return sum(map(len, self.work._lines.values()))


@asynccontextmanager
async def ours(workers: int = 1) -> AsyncIterator[Ours]:
    async with half(workers, slots=SLOTS) as made:
        made.dispatcher.shares.see("known before")
        yield Ours(made)


@pytest.mark.anyio
async def test_it_takes_turns_by_weight_and_nobody_passes_a_flood_in_its_server() -> None:
    async with ours(2) as one:
        one.made.dispatcher.shares.weight = lambda name: 3.0 if name == "three" else 1.0
        tasks = one.asks(["flood"] * 60)
        await until(lambda: len(one.sent) == one.places)
        tasks += one.asks(["three"] * 60 + ["one"] * 60)
        await until(lambda: one.waiting == 180 - one.places)
        before = len(one.sent)
        while len(one.sent) < before + 40:
            sent = len(one.sent)
            one.end(one.there[0], Usage(100, 0))
            await until(lambda sent=sent: len(one.sent) == sent + 1)  # type: ignore[misc]
        then = Counter(one.sent[before:])
        assert one.sent[before] != "flood"
        assert then["three"] == pytest.approx(3 * then["one"], abs=4)
        assert one.waiting == 180 - len(one.sent)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert one.waiting == 0
        assert not one.made.dispatcher.shares.contended


@pytest.mark.anyio
async def test_one_tenant_alone_goes_at_once_and_nothing_waits_that_makes_nothing() -> None:
    async with half(1, slots=SLOTS) as made:
        alone = Ours(made)
        await asyncio.gather(*alone.asks(["a"] * 50))
        assert (len(alone.sent), alone.waiting) == (50, 0)
        made.dispatcher.shares.see("b")
        asked = Work("b", MODEL, None, 0.0)
        worker = await alone.work.place(asked, waits=False)
        assert worker is not None
        alone.work.end(asked, None, served=True)
        assert not alone.served


@pytest.mark.anyio
async def test_it_is_charged_for_its_tokens_or_for_its_time() -> None:
    async with ours() as one:
        (worker,) = one.made.workers
        shares = one.made.dispatcher.shares
        told, silent, failed = [await one.ask(name) for name in ("told", "silent", "failed")]
        assert told
        assert silent
        assert failed
        one.end(told, Usage(1000, 0, 400))
        silent.sent_s -= 30.0
        one.end(silent)
        one.end(failed, served=False)
        slot_s = slot_seconds(worker.cost, SLOTS, 600.0, 0.0)
        assert one.served == {"told": pytest.approx(slot_s), "silent": pytest.approx(30.0, abs=5)}
        levels = shares.levels(silent.sent_s + 30.0)
        assert levels["told"] == pytest.approx(slot_s, rel=0.1)
        assert levels["silent"] == pytest.approx(30.0, abs=5)
        assert levels["failed"] < slot_s / 10


@pytest.mark.anyio
async def test_who_leaves_while_it_waits_leaves_nothing_and_whom_nobody_serves_hears_of_it() -> (
    None
):
    async with ours() as one:
        assert await one.ask("a", model="unknown") is None
        await asyncio.gather(*one.asks(["a"] * one.places))
        gone, stays = one.asks(["b", "c"])
        await until(lambda: one.waiting == 2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        one.end(one.there[0])
        assert (await stays) is not None
        many = one.asks(["d"] * 20)
        await until(lambda: one.waiting == 20)
        for task in many:  # and before it hears of it others end
            task.cancel()
        for work in list(one.there):
            one.end(work)
        await asyncio.gather(*many, return_exceptions=True)
        assert (one.waiting, one.work._at.total()) == (0, 0)
        await asyncio.gather(*one.asks(["a"] * one.places))
        leaves = one.asks(["d"] * 2)
        await until(lambda: one.waiting == 2)
        one.end(one.there[0])
        await asyncio.sleep(0)  # its turn has come, and it has not heard of it
        leaves[0].cancel()
        await until(lambda: one.waiting == 1)
        await asyncio.gather(leaves[0], return_exceptions=True)
        assert one.work._at.total() == one.places
        one.made.workers.update(())
        assert await asyncio.wait_for(leaves[1], timeout=60) is None
