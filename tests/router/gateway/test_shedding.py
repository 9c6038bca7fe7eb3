"""Requests that certainly miss a target are refused at once; all others are placed as ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from math import inf

import pytest

from router.gateway.accounting.slo import Felt
from router.gateway.admission.shedding import Shedding
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.recaller import Recaller
from router.gateway.planning.ticket import Placement, Ticket
from router.http.apis import COMPLETIONS
from router.http.connections import Connections
from router.http.errors import OutOfReachError
from router.http.outline import outline
from router.http.schemas import CompletionRequest
from router.settings.gateway import GatewaySettings
from solver.batching.targets import NO_TARGETS, Targets
from tests.router.gateway.fleet import COST, Half, half, state, ticket
from tests.waiting import PATIENCE_S, until

ROUND_S = COST.decode_s(1)
USUAL = Targets(2.0, 0.1)
SERVED = Felt(ttft_s=1.0, tpot_s=1.0, all_s=99.0, tokens=99)


def wanting(targets: Targets) -> Ticket:
    made = ticket("a")
    made.job = replace(made.job, targets=targets)
    return made


def asking(**fields: object) -> CompletionRequest:
    body = {"model": "llama-65b", "prompt": [7] * 70, "max_tokens": 300, "stream": True} | fields
    return outline(json.dumps(body).encode(), COMPLETIONS)


class Asked(Recaller):
    """Notes who is to be taken back, and from where."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers, Connections())
        self.asked: list[tuple[str, Ticket, int]] = []

    def take_back(self, worker: Worker, tickets: Sequence[Ticket], most: int) -> None:
        self.asked += [(worker.name, one, most) for one in tickets]


@dataclass
class Shed:
    """A dispatcher, and what stands before it."""

    half: Half
    shedding: Shedding
    recaller: Asked

    async def place(self, targets: Targets, **fields: object) -> tuple[Ticket, Placement]:
        one = wanting(targets)
        async with asyncio.timeout(PATIENCE_S):
            return one, await self.shedding.place(one, asking(**fields))

    def idle(self) -> bool:
        """Nothing waits, nor is anything left over of what was refused."""
        return self.half.dispatcher.unsent == len(self.half.dispatcher._rolling) == 0


@asynccontextmanager
async def shed(workers: int = 1, admission: str = "shed", slots: int = 16) -> AsyncIterator[Shed]:
    """Equal workers of the paper's speed."""
    async with half(workers, slots=slots) as made:
        for worker in made.workers:
            worker.update_state(state(worker.name, slots=slots))
        own: dict[str, object] = {"worker": "http://w:1", "admission": admission}
        tuning = GatewaySettings(**own)  # type: ignore[arg-type]
        recaller = Asked(made.workers)
        shedding = Shedding(tuning, made.workers, made.dispatcher, recaller)
        yield Shed(made, shedding, recaller)


async def test_what_no_worker_could_ever_keep_is_refused_by_its_header() -> None:
    for targets, name in (
        (Targets(2.0, ROUND_S * 0.9), "x-makespan-tpot-ms"),
        (Targets(COST.prefill_s(70) * 0.9, 0.1), "x-makespan-ttft-ms"),
    ):
        async with shed() as made:
            with pytest.raises(OutOfReachError, match=f"'{name}' sets another") as refused:
                await made.place(targets)
            assert (refused.value.status, refused.value.code) == (503, "target_out_of_reach")
            headers = dict(refused.value.headers())
            assert headers[b"x-should-retry"] == b"false"
            assert headers[b"retry-after"] == b"60"
            assert made.idle()


async def test_by_default_it_is_served_late() -> None:
    async with shed(admission="queue") as made:
        _, placement = await made.place(Targets(1e-6, 1e-6))
        assert placement.worker.name == "w0"


async def test_what_may_be_kept_and_what_has_no_target_is_placed() -> None:
    async with shed() as made:
        for targets, fields in (
            (USUAL, {}),
            (NO_TARGETS, {}),
            (Targets(2.0, ROUND_S), {}),
            (Targets(2.0, ROUND_S * 0.9), {"max_tokens": 1}),  # no second token, no time between
        ):
            await made.place(targets, **fields)
        assert made.idle()


async def test_who_waits_goes_once_the_target_is_out_of_reach() -> None:
    """With a slot free again the next is in time; bulk work waits on."""
    async with shed(2) as made:
        made.half.fill()
        patient = asyncio.create_task(made.shedding.place(wanting(NO_TARGETS), asking()))
        with pytest.raises(OutOfReachError, match="within 100 ms any more") as refused:
            await made.place(Targets(0.1, 0.1))
        assert b"x-should-retry" not in dict(refused.value.headers())
        assert refused.value.retry_after_s > 0
        assert made.half.dispatcher.unsent == 1
        assert not patient.done()
        made.half.empty()
        await patient
        await made.place(USUAL)
        assert made.idle()


async def test_a_client_that_leaves_while_it_waits_leaves_nothing() -> None:
    async with shed() as made:
        made.half.fill()
        waiting = asyncio.create_task(made.shedding.place(wanting(USUAL), asking()))
        await until(lambda: made.half.dispatcher.unsent == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert made.idle()


async def test_a_cost_model_is_believed_once_it_has_met_its_engine() -> None:
    """Only an emulated engine is what its cost model says; and what was done can be done again."""
    hard = Targets(2.0, ROUND_S * 0.9)
    async with shed() as made:
        (worker,) = made.half.workers
        worker.update_state(replace(state("w0"), engine="openai"))
        await made.place(hard)
        made.shedding.saw(worker, SERVED._replace(tpot_s=None, ttft_s=None))  # not in a stream
        await made.place(hard)
        made.shedding.saw(worker, SERVED)
        with pytest.raises(OutOfReachError):
            await made.place(hard)
        made.shedding.saw(
            worker, SERVED._replace(tpot_s=ROUND_S * 0.8, tokens=5)
        )  # its first event was late
        with pytest.raises(OutOfReachError):
            await made.place(hard)
        made.shedding.saw(worker, SERVED._replace(tpot_s=ROUND_S * 0.8))
        await made.place(hard)


async def test_of_a_worker_without_an_agent_nothing_is_certain() -> None:
    async with shed() as made:
        (worker,) = made.half.workers
        worker.state = None
        made.shedding.saw(worker, SERVED)
        await made.place(Targets(1.0, 1e-6))


async def test_only_who_must_go_on_is_surely_in_the_way() -> None:
    """One slot, held by an answer of 10,000 tokens: five minutes at least, or a single token."""
    lasting = {"ignore_eos": True}
    for fields in (
        lasting,
        {},
        {**lasting, "stop": "x"},
        {**lasting, "stop_token_ids": [2]},
        {**lasting, "stream": False},
        {**lasting, "n": 2},
    ):
        async with shed(slots=1) as made:
            running, placement = await made.place(NO_TARGETS, max_tokens=10_000, **fields)
            placement.worker.load.progress(running, 1)
            if fields == lasting:
                with pytest.raises(OutOfReachError) as refused:
                    await made.place(USUAL)
                assert 250 < refused.value.retry_after_s < inf
            else:
                await made.place(USUAL)  # into the lead: it may begin at any moment
            made.half.dispatcher.release(running, placement.worker)
            made.shedding.left(running, placement.worker)
            await made.place(USUAL)


async def test_who_has_not_begun_in_time_is_taken_back_from_an_agent() -> None:
    """Not who has begun or is gone by then, nor from a server that gives nothing back."""
    soon = Targets(0.1, 0.1)
    async with shed(slots=8) as made:
        (worker,) = made.half.workers
        begun, _ = await made.place(soon)
        worker.load.progress(begun, 1)  # each before the loop turns: before its time is over
        gone, _ = await made.place(soon)
        made.half.dispatcher.release(gone, worker)
        made.shedding.left(gone, worker)
        patient, _ = await made.place(NO_TARGETS)
        waiting, _ = await made.place(soon)  # whose time is over last
        await until(lambda: bool(made.recaller.asked))
        assert made.recaller.asked == [("w0", waiting, 1)]
        worker.state = None
        await made.place(soon)
        await asyncio.sleep(0.15)
        assert len(made.recaller.asked) == 1
        assert patient in worker.load.not_begun()


async def test_who_has_not_begun_may_be_overtaken() -> None:
    async with shed(slots=1) as made:
        await made.place(NO_TARGETS, max_tokens=10_000, ignore_eos=True)
        await made.place(USUAL)
