"""Bounds on what is in a gateway and waits in it, each refusal with the time of a place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from router.gateway.planning import room as rooms
from router.gateway.planning.room import Room
from router.gateway.planning.ticket import Placement, Ticket
from router.http.errors import NoCapacityError
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets
from tests.router.gateway.fleet import Half, half, state, ticket
from tests.waiting import until

SOON = Targets(0.001, 0.1)


def wanting(key: str, targets: Targets = SOON, **fields: object) -> Ticket:
    made = ticket(key)
    made.job = replace(made.job, targets=targets)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@asynccontextmanager
async def crowded(
    count: int = 20, *, admission: str = "timely", **settings: object
) -> AsyncIterator[tuple[Half, Room]]:
    """All slots are held, and so many wait for one; the first have waited for some time."""
    async with half(2, admission=admission, **settings) as made:  # type: ignore[arg-type]
        made.fill()
        places = [asyncio.create_task(made.dispatcher.place(wanting(str(k)))) for k in range(count)]
        await until(lambda: made.dispatcher.unsent == count)
        made.dispatcher.room._looked_s = 0.0
        yield made, made.dispatcher.room
        for one in places:
            one.cancel()
        await asyncio.gather(*places, return_exceptions=True)
        assert not room_of(made)._gates


def room_of(made: Half) -> Room:
    return made.dispatcher.room


def refused(room: Room, one: Ticket) -> NoCapacityError:
    with pytest.raises(NoCapacityError) as error:
        room.check(one)
    assert dict(error.value.headers())[b"retry-after"].isdigit()
    assert 1 <= error.value.retry_after_s < 1e5
    return error.value


async def test_who_would_begin_late_is_refused_beyond_a_burst() -> None:
    async with crowded() as (_, room):
        room.check(wanting("a"))  # the first that finds others waiting: a burst
        await asyncio.sleep(0.01)
        error = refused(room, wanting("b"))
        assert "more requests waiting than can begin in time" in str(error)
        assert error.status == 503
        room.check(wanting("c", Targets(3600.0, 0.1)))
        room.check(wanting("d", NO_TARGETS))
        room.check(wanting("e", priority=Priority.INTERACTIVE))  # goes before them all
        later = [refused(room, wanting(str(k))).retry_after_s for k in range(40)]
        assert max(later) > error.retry_after_s, "they do not come all at once"


async def test_by_admission_queue_they_wait() -> None:
    async with crowded(admission="queue") as (_, room):
        for k in range(5):
            room.check(wanting(str(k)))
            await asyncio.sleep(0.005)


async def test_what_waits_is_bounded_by_tokens() -> None:
    async with crowded(admission="queue", max_unsent_tokens=8_000) as (made, room):
        assert made.dispatcher._unsent.tokens == 20 * 370
        room.check(wanting("a"))
        assert "too many tokens" in str(refused(room, wanting("b", job=ticket("", 1000.0).job)))


async def test_a_request_larger_than_the_bound_may_be_the_only_one() -> None:
    async with half(1, max_unsent_tokens=100) as made:
        room_of(made).check(wanting("a"))
        assert isinstance(await made.dispatcher.place(wanting("a")), Placement)


async def test_what_is_in_the_gateway_is_bounded_by_requests() -> None:
    async with half(1, max_requests=10) as made:
        room = room_of(made)
        room.check_requests(9)
        with pytest.raises(NoCapacityError, match="too many requests") as error:
            room.check_requests(10)
        assert error.value.retry_after_s >= 1


async def test_models_on_workers_of_their_own_wait_for_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "LOOK_S", -1.0)
    async with crowded() as (made, room):
        (one, other) = made.workers
        other.update_state(replace(state("w1"), model="other"))
        other.load = type(other.load)()
        room.check(wanting("a", model="other"))
        room.check(wanting("b"))
        await asyncio.sleep(0.01)
        room.check(wanting("c", model="other"))
        refused(room, wanting("d"))
        assert {part.models for part in room._parts} == {
            frozenset(one.models), frozenset(other.models),
        }  # fmt: skip
