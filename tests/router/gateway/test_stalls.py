"""Requests at an agent that has fallen silent, without an agent."""

from __future__ import annotations

import asyncio

import pytest

from router.gateway.fleet import stalls
from router.gateway.fleet.stalls import Lifeline, WorkerSilent


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience ends with the next turn of the event loop."""
    monkeypatch.setattr(stalls, "GIVE_UP_S", 0.0)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_is_there_when_it_is_lost_and_who_comes_later_is_given_up() -> None:
    held = Lifeline()

    async def request() -> None:
        async with held.hold():
            await asyncio.Event().wait()

    early = asyncio.create_task(request())
    await turns()
    assert not early.done()
    held.lose()
    for one in (early, asyncio.create_task(request())):
        with pytest.raises(WorkerSilent):
            await one


async def test_who_is_found_again_in_time_goes_on() -> None:
    held = Lifeline()
    async with held.hold() as heard:
        held.lose()
        held.find()
        heard()
        await turns()


async def test_every_byte_counts_from_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Lifeline()
    async with held.hold() as heard:
        held.lose()
        monkeypatch.setattr(stalls, "GIVE_UP_S", 3600.0)
        heard()
        await turns()


async def test_what_ends_for_another_reason_is_left_alone() -> None:
    held = Lifeline()
    with pytest.raises(TimeoutError):
        async with held.hold():
            raise TimeoutError

    async def request() -> None:
        async with held.hold():
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await turns()
    task.cancel()
    held.lose()
    with pytest.raises(asyncio.CancelledError):
        await task
