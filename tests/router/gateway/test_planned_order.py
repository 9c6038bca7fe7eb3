"""Lines of batches in the order of a plan: for which worker, how many, and what is told of it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from router.gateway.batches.lines import Waiting
from router.gateway.batches.planned import MOST_KINDS, MOST_PREFIXES, Planned, Seen
from router.gateway.planning.eligible import Eligible
from solver.cost.profiles import PROFILES
from solver.routing.kinds import Length
from solver.routing.problem import WorkerView
from tests.router.gateway.fleet import half, ticket

COST = PROFILES["llama-65b-ascend"].cost
MODELS = {"m": 1}


class Fleet:
    """Two workers, of which the second is half as fast."""

    def __init__(self, slots: int = 8) -> None:
        self.names = ["fast", "slow"]
        self.models = [MODELS, MODELS]
        self.busy = [0, 0]
        self.slots, self.now, self.learned = slots, 0.0, 0

    def __call__(self) -> Seen[str]:
        views = [
            WorkerView(COST.scaled(speed), self.slots, busy, 0.0, 0.0, None, room=self.slots)
            for speed, busy in zip((1.0, 2.0), self.busy, strict=False)
        ]
        return Seen(self.names, views[: len(self.names)], self.models[: len(self.names)])


def order(fleet: Fleet) -> Planned[str]:
    return Planned(
        fleet,
        lambda _, prompt, limit, __: Length(float(limit or 100), prompt / 10),
        lambda: fleet.learned,
        lambda: fleet.now,
    )


def lines(count: int, batch: str = "b", model: str = "m", **more: int) -> list[Waiting]:
    ends_s = time.time() + 3600
    one: dict[str, Any] = {"offset": 0, "length": 600, "prefix": 0, "tokens": 100, **more}
    return [Waiting(batch, k, expires_s=ends_s, model=model, **one) for k in range(1, count + 1)]


def test_each_worker_gets_what_it_can_begin_and_no_more_until_lines_end() -> None:
    fleet = Fleet()
    planned = order(fleet)
    planned.add(lines(100))
    first = planned.take(1000)
    given = [planned.worker(line) for line in first]
    assert (given.count("fast"), given.count("slow")) == (8, 8)
    assert planned.take(1000) == []  # it has some
    planned.ended(first[0], 10, 10)
    assert [planned.worker(line) for line in planned.take(1000)] == [given[0]]
    fleet.busy = [20, 0]  # clients have filled it
    for line in first[1:]:
        planned.ended(line, 10, 10)
    again = [planned.worker(line) for line in planned.take(1000)]
    assert set(again) == {"slow"}


def test_beside_what_clients_wait_for_some_slots_are_left_free() -> None:
    for busy, expected in ((0, 16 + 1), (1, 14 - 1), (10, 14 - 10), (16, 1)):
        fleet = Fleet(slots=16)
        fleet.names, fleet.busy = ["fast"], [busy]
        planned = order(fleet)
        planned.add(lines(100))
        assert len(planned.take(1000)) == expected


def test_every_line_is_given_once_and_lost_ones_leave_their_place() -> None:
    planned = order(Fleet())
    planned.add(lines(60))
    seen: list[int] = []
    while taken := planned.take(7):
        assert len(taken) <= 7
        seen += [line.number for line in taken]
        for line in taken:
            planned.lost(line)
    assert sorted(seen) == list(range(1, 61))
    assert planned.waiting("b") == 0


def test_lines_that_come_back_wait_again() -> None:
    planned = order(Fleet())
    planned.add(lines(10))
    taken = planned.take(10)
    planned.add(taken)
    assert planned.waiting("b") == 10
    again: list[int] = []
    while taken := planned.take(100):
        for line in taken:
            again.append(line.number)
            planned.ended(line, 1, 1)
    assert sorted(again) == list(range(1, 11))


def test_an_outlook_is_never_below_its_bound_and_comes_nearer() -> None:
    fleet = Fleet()
    planned = order(fleet)
    assert planned.outlook("b") == {}
    planned.add(lines(400))
    planned.add(lines(50, batch="c"))
    planned.take(16)
    before = planned.outlook("b")
    assert before["planned_finish_s"] >= before["lower_bound_s"] > 0
    fleet.now += 1.0
    after = planned.outlook("b")
    assert after["planned_finish_s"] <= before["planned_finish_s"] - 0.99
    planned.drop("b")
    assert planned.outlook("b") == {}
    assert planned.outlook("c")["planned_finish_s"] > 0


def test_a_model_that_nobody_has_goes_out_to_be_refused_and_holds_up_nobody() -> None:
    planned = order(Fleet())
    planned.add(lines(3, batch="odd", model="nobody"))
    planned.add(lines(20))
    taken = planned.take(12)
    assert [line.batch for line in taken].count("odd") == 3
    assert all(planned.worker(line) is None for line in taken if line.batch == "odd")


def test_a_batch_is_due_by_the_time_that_it_is_when_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned, now_s = order(Fleet()), time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 8 * 3600)  # it has slept
    planned.add(lines(20_000))
    planned.take(10)
    told = planned.outlook("b")
    assert told["late_s"] == pytest.approx(told["planned_finish_s"] - 3600, abs=1)


def test_a_batch_for_several_models_is_planned_for_those_who_have_each() -> None:
    fleet = Fleet()
    fleet.models = [{"m": 1}, {"other": 1}]
    both = order(fleet)
    both.add(lines(50) + [replace(one, number=50 + one.number) for one in lines(20, model="other")])
    for line in both.take(1000):
        assert both.worker(line) == ("fast" if line.model == "m" else "slow")
    alone = order(fleet)
    alone.add(lines(70))
    alone.take(1000)
    assert both.outlook("b")["lower_bound_s"] < alone.outlook("b")["lower_bound_s"]


def test_a_worker_gets_only_models_that_it_has_and_another_fleet_another_plan() -> None:
    fleet = Fleet()
    fleet.models = [{"m": 1}, {"other": 1}]
    planned = order(fleet)
    planned.add([*lines(30), *lines(30, batch="o", model="other")])
    for line in planned.take(1000):
        assert planned.worker(line) == ("fast" if line.model == "m" else "slow")
    fleet.names, fleet.models = ["slow"], [{"other": 1, "m": 1}]
    planned.drop("o")
    assert {planned.worker(line) for line in planned.take(1000)} <= {"slow"}


def test_lines_that_begin_alike_go_to_one_worker() -> None:
    fleet = Fleet()
    planned = order(fleet)
    for prefix in range(1, 13):
        planned.add(lines(12, batch=f"b{prefix % 2}", prefix=prefix, length=2000))
    homes: dict[int, set[str | None]] = {}
    while taken := planned.take(100):
        for line in taken:
            homes.setdefault(line.prefix, set()).add(planned.worker(line))
            planned.ended(line, 1, 1)
    assert sum(len(found) == 1 for found in homes.values()) >= 9  # but for those at the end


def test_what_a_plan_looks_at_is_bounded_whatever_a_file_has() -> None:
    planned = order(Fleet())
    for k in range(1, 3000):
        planned.add(lines(1, prefix=k, length=300 + 40 * k, tokens=k))
    kinds = planned._kinds.values()
    assert len({kind.prefix for kind in kinds}) <= MOST_PREFIXES + 1
    assert len(kinds) <= MOST_KINDS + 20  # sizes that are told apart roughly


async def test_a_line_goes_where_the_plan_says_as_long_as_that_worker_is_well() -> None:
    async with half(3) as gateway:
        workers, eligible = gateway.workers.available(), Eligible()
        eligible.look(workers)
        line = ticket("line")
        line.near = workers[1]
        assert eligible.among(line, workers) == frozenset({1})
        assert eligible.among(ticket("other"), workers) is None
        line.excluded.add(workers[1])  # it has failed it
        assert eligible.among(line, workers) == frozenset({0, 2})
        left = [workers[0], workers[2]]
        eligible.look(left)
        assert eligible.among(line, left) is None
