"""Plans of batches from a process of their own: the heuristic's at once, and what betters it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random

from router.gateway.batches.planned import Planned, Seen
from router.gateway.batches.searching import Searching
from router.observe.metrics import GatewayMetrics
from solver.cost.profiles import PROFILES
from solver.packing.plan import Method
from solver.routing.backlog import Backlog
from solver.routing.bulk_plan import Asked, BulkPlan, better_plans, check, plan_of, supersedes
from solver.routing.kinds import Kind, Length
from solver.routing.problem import WorkerView
from tests.router.gateway.test_planned_order import lines
from tests.solver.routing.test_backlog import Line
from tests.waiting import until

COST = PROFILES["llama-2-70b-a100-tp4"].cost


def views(count: int) -> list[WorkerView]:
    speeds = (0.5, 1.0, 2.0)
    return [
        WorkerView(COST.scaled(1 / speeds[j % 3]), 32, 0, 3.0 * (j % 5), 0.0, None, room=32)
        for j in range(count)
    ]


def asked() -> Asked:
    """Models that some workers have each, lines that begin alike: what a heuristic packs badly."""
    rng = Random(3)
    models = {
        "m0": frozenset({0, 1, 2, 3}),
        "m1": frozenset({2, 3, 4, 5}),
        "m2": frozenset({0, 4, 5, 6, 7}),
        "m3": frozenset({1, 3, 5, 7}),
        "m4": None,
    }
    kinds = [
        Kind(
            "b",
            rng.randint(700, 1500),
            inf,
            k,
            600,
            rng.choice(list(models)),
            "",
            rng.randint(1, 6),
        )
        for k in range(60)
    ]
    backlog: Backlog[Line] = Backlog()
    backlog.add([Line(k, rng.choice(kinds)) for k in range(1000)])

    def expected(kind: Kind) -> Length:
        return Length(100.0 * int(str(kind.label)), 50.0)

    found = backlog.ask(views(8), expected, 0.0, eligible=models.__getitem__)
    assert found is not None
    return found


def test_better_plans_are_better_one_by_one_and_hold_the_same_lines() -> None:
    question = asked()
    found: list[BulkPlan] = []
    for plan in better_plans(question, None, None):
        found.append(plan)
        if len(found) == 2:
            break  # what comes after takes its time
    first, second = found
    assert first.method is Method.HEURISTIC
    assert supersedes(second, first)
    assert second.gained_s > first.gained_s == 0.0
    assert second.whole.bound_s == first.whole.bound_s <= second.whole.finish_s
    for plan in found:
        check(question, plan)
        held: dict[Kind, int] = {}
        for own in plan.schedule.lists:
            for piece in own:
                for kind, count in piece.kinds.items():
                    held[kind] = held.get(kind, 0) + count
        assert held == question.counts


async def test_the_loop_has_the_heuristics_plan_and_then_a_better_one() -> None:
    searching = Searching(GatewayMetrics())
    try:
        await until(searching.ready)  # it loads what it needs
        found: list[BulkPlan] = []
        searching.plan(asked(), found.append)
        assert not searching.ready()  # one after the other
        await until(lambda: len(found) > 1)
        assert found[0].method is Method.HEURISTIC
        assert found[-1].schedule.finish_s < found[0].schedule.finish_s
    finally:
        searching.stop()


class Late:
    """A planner that answers when it is told to."""

    def __init__(self) -> None:
        self.is_ready, self.asked = False, list[Asked]()
        self.follow: Callable[[BulkPlan], None] | None = None

    def ready(self) -> bool:
        return self.is_ready

    def plan(self, asked: Asked, follow: Callable[[BulkPlan], None]) -> None:
        self.asked.append(asked)
        self.follow = follow

    def stop(self) -> None:
        pass


def test_until_there_is_a_plan_lines_go_to_whoever_has_room_each_once() -> None:
    fleet, planner = views(12), Late()
    seen = Seen([f"w{j}" for j in range(12)], fleet, [{"m": 1}] * 12)
    planned = Planned(
        lambda: seen, lambda *_: Length(100.0, 50.0), lambda: 0, lambda: 0.0, planner=planner
    )
    for size in range(1, 6):
        planned.add(lines(40, batch=f"b{size}", length=400 * size))
    first = planned.take(50)
    assert len(first) == 50
    assert not planner.asked  # it was not ready
    planner.is_ready = True
    second = planned.take(50)
    assert len(planner.asked) == 1
    assert sum(planner.asked[0].counts.values()) == 150
    batch = next(iter(planner.asked[0].counts)).batch  # all lines of another may have begun
    assert planned.outlook(batch) == {}
    assert planner.follow is not None
    planner.follow(plan_of(planner.asked[0]))  # of lines that have begun since, too
    assert planned.outlook(batch)["planner"] == "heuristic"
    taken = [*first, *second]
    for line in taken:
        planned.ended(line, 10, 10)
    while more := planned.take(1000):
        taken += more
        for line in more:
            planned.ended(line, 10, 10)
    assert len({(one.batch, one.number) for one in taken}) == len(taken) == 200
