"""Bounds on what is in a gateway and waits in it, each refusal with the time of a place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from router.gateway.admission.relay import Relay
from router.gateway.app import create_app
from router.gateway.planning import room as rooms
from router.gateway.planning.room import Room
from router.gateway.planning.ticket import Placement, Ticket
from router.http.bodies import BodyMemory, Held
from router.http.errors import NoCapacityError
from router.settings.commands import load
from router.settings.gateway import GatewaySettings
from router.settings.keys import Key, hash_of
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets
from solver.routing.portions import Portions
from solver.routing.problem import Job
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
        assert made.dispatcher._unsent.tokens.total == 20 * 370
        room.check(wanting("a"))
        assert "too many tokens" in str(refused(room, wanting("b", job=ticket("", 1000.0).job)))


async def test_a_request_larger_than_the_bound_may_be_the_only_one() -> None:
    async with half(1, max_unsent_tokens=100) as made:
        room_of(made).check(wanting("a"))
        assert isinstance(await made.dispatcher.place(wanting("a")), Placement)


async def test_what_is_in_the_gateway_is_bounded_by_requests() -> None:
    async with half(1, max_requests=10) as made:
        room, here = room_of(made), Portions()
        here.add("", 9)
        room.check_requests(here, "")
        here.add("", 1)
        with pytest.raises(NoCapacityError, match="too many requests") as error:
            room.check_requests(here, "")
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


MOST = 10_000


class Bound:
    """One of the bounds on what is here, as a tenant comes upon it with so much at a time."""

    def __init__(self, made: Half, room: Room) -> None:
        self.made, self.room = made, room
        self.here = Portions()
        self.memory = BodyMemory(MOST, room.bodies_full)

    def requests(self, tenant: str, more: int) -> None:
        for _ in range(more):
            self.room.check_requests(self.here, tenant)
            self.here.add(tenant, 1)

    def tokens(self, tenant: str, more: int) -> None:
        one = wanting(tenant, NO_TARGETS, job=Job(1, more - 1.0, tenant=tenant))
        self.room.check(one)
        self.made.dispatcher._unsent.add(one)

    def bodies(self, tenant: str, more: int) -> None:
        Held(self.memory, tenant).take(more)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["requests", "tokens", "bodies"])
@pytest.mark.parametrize("floods", [1, 2, 5])
@pytest.mark.parametrize("at_a_time", [MOST // 100, MOST // 20])
async def test_no_tenant_fills_what_others_want_a_little_of(
    kind: str, floods: int, at_a_time: int
) -> None:
    bounds = {"max_requests": MOST, "max_unsent_tokens": MOST}
    async with half(1, admission="queue", **bounds) as made:
        come = getattr(Bound(made, room_of(made)), kind)
        had, refusals = dict.fromkeys(map(str, range(floods)), 0), list[NoCapacityError]()
        for _ in range(200):
            for tenant in had:
                try:
                    come(tenant, at_a_time)
                    had[tenant] += at_a_time
                except NoCapacityError as error:
                    refusals.append(error)
        assert refusals, "it is full for them"
        if kind != "requests":  # of which those that fit are let in
            assert max(had.values()) - min(had.values()) <= at_a_time
        assert sum(had.values()) >= MOST / 2, "nor is much of it kept empty"
        told_s = max(one.retry_after_s for one in refusals)
        come("idle", MOST // 500)
        with pytest.raises(NoCapacityError) as refused_too:
            come("idle", MOST)
        again_s = refused_too.value.retry_after_s
        assert again_s <= max(2, told_s / 10), "what others were told is no matter"


async def test_who_waits_behind_nobody_of_its_own_is_not_late_by_what_others_have() -> None:
    """By `timely`, of each other tenant's line counts what is as long as its own."""
    async with crowded() as (made, room):
        room.check(wanting("a"))
        await asyncio.sleep(0.01)
        refused(room, wanting("b"))
        idle = wanting("c", job=replace(wanting("").job, tenant="idle"))
        room.check(idle)
        place = asyncio.create_task(made.dispatcher.place(idle))
        await until(lambda: made.dispatcher.unsent == 21)
        room.check(wanting("d", job=idle.job))  # a burst of its own
        await asyncio.sleep(0.01)
        later = refused(room, wanting("e", job=idle.job))
        assert later.retry_after_s < refused(room, wanting("f")).retry_after_s
        place.cancel()
        await asyncio.gather(place, return_exceptions=True)


def test_every_bound_goes_by_the_weights_of_keys(tmp_path: Path) -> None:
    """As they are when somebody comes, of whatever the gateway bounds."""
    file = tmp_path / "keys.toml"
    tenants = {"three": 3.0, "one": 1.0}
    keys = [Key(sha256=hash_of(name), tenant=name, weight=w) for name, w in tenants.items()]
    file.write_text("\n".join(key.to_toml() for key in keys))
    told = load(GatewaySettings, ["--worker", "http://w:1", "--keys", str(file)])
    relay = create_app(told).router.default
    assert isinstance(relay, Relay)
    bounds = {
        "requests": relay._accounts.here,
        "tokens": relay._dispatcher.room._unsent.tokens,
        "bodies": relay._memory.portions,
        "answers": relay._kept._portions,
    }
    for name, held in bounds.items():
        found = dict.fromkeys(tenants, 0)
        for tenant in ("one", "three"):
            held.add(tenant, 1)
        for tenant in tenants:
            while held.may_have(tenant, found[tenant] + 1, 8000):
                found[tenant] += 1
        ratio = {tenant: more / (8000 - more) for tenant, more in found.items()}
        assert ratio["three"] == pytest.approx(3 * ratio["one"], rel=0.01), name
