"""Requests at an agent that has fallen silent, without an agent."""

from __future__ import annotations

import asyncio

import pytest

from router.gateway.fleet import stalls
from router.gateway.fleet.stalls import StallGuard, Watched, WorkerStalled
from router.http.asgi import Responder
from router.http.errors import Headers


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout ends with the next turn of the event loop."""
    monkeypatch.setattr(stalls, "STALL_TIMEOUT_S", 0.0)


class Slow(Responder):
    """A client that takes what it gets, when it likes."""

    def start(self, status: int, headers: Headers) -> None: ...

    def write(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    async def drain(self) -> None: ...


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_is_there_when_it_is_lost_and_who_comes_later_is_given_up() -> None:
    stall_guard = StallGuard()

    async def request() -> None:
        with Watched(stall_guard):
            await asyncio.Event().wait()

    early = asyncio.create_task(request())
    await turns()
    assert not early.done()
    stall_guard.arm()
    for one in (early, asyncio.create_task(request())):
        with pytest.raises(WorkerStalled):
            await one


async def test_who_is_found_again_in_time_goes_on() -> None:
    stall_guard = StallGuard()
    with Watched(stall_guard) as on_progress:
        stall_guard.arm()
        stall_guard.disarm()
        on_progress()
        await turns()


async def test_every_byte_counts_from_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    stall_guard = StallGuard()
    with Watched(stall_guard) as on_progress:
        stall_guard.arm()
        monkeypatch.setattr(stalls, "STALL_TIMEOUT_S", 3600.0)
        on_progress()
        await turns()


async def test_a_client_that_takes_no_more_is_no_silence_of_the_worker() -> None:
    stall_guard, out = StallGuard(), Slow()
    with Watched(stall_guard, out=out) as on_progress, Watched(stall_guard) as of_another:
        on_progress()
        began = stall_guard.heard_s
        assert stall_guard.stalled_s(began + 9.0) == 9.0
        out.paused = True
        assert stall_guard.stalled_s(began + 50.0) == 0.0
        out.paused = False
        assert stall_guard.stalled_s(began + 53.0) == 3.0, "since it was last seen to be held"
        out.paused = True
        of_another()
        began = stall_guard.heard_s
        assert stall_guard.stalled_s(began + 7.0) == 7.0, "whose client takes all there is"


async def test_what_ends_for_another_reason_is_left_alone() -> None:
    stall_guard = StallGuard()
    with pytest.raises(TimeoutError), Watched(stall_guard):
        raise TimeoutError

    async def request() -> None:
        with Watched(stall_guard):
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await turns()
    task.cancel()
    stall_guard.arm()
    with pytest.raises(asyncio.CancelledError):
        await task
