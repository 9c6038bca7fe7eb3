"""Which requests are worth taking back from a queue."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from solver.cost.profiles import PROFILES
from solver.packing.problem import Problem
from solver.routing.problem import Job, WorkerView, build_problem
from solver.routing.recall import ROUND_TRIP_S, find_recalls

COST = PROFILES["llama-65b-ascend"].cost


def view(in_flight: int, backlog_s: float, speed: float = 1.0, slots: int = 8) -> WorkerView:
    return WorkerView(COST.scaled(1 / speed), slots, in_flight, backlog_s, 0.0, None)


def test_an_idle_worker_takes_over_what_queues_at_a_loaded_one() -> None:
    problem = build_problem([Job(50, 100.0)] * 4, [view(12, 30.0), view(0, 0.0)])
    assert {i for i, _ in find_recalls(problem, [0] * 4, [1] * 4, [0, 8])} == {0, 1, 2, 3}


def test_nobody_moves_where_there_is_no_room_or_no_right() -> None:
    jobs, workers = [Job(50, 100.0)] * 4, [view(12, 30.0), view(0, 0.0)]
    assert find_recalls(build_problem(jobs, workers), [0] * 4, [1] * 4, [0, 0]) == []
    only_here = build_problem(jobs, workers, [frozenset((0,))] * 4)
    assert find_recalls(only_here, [0] * 4, [1] * 4, [0, 8]) == []
    assert find_recalls(build_problem([Job(50, 100.0, 9)], workers), [0], [9], [0, 8]) == []


def test_no_more_move_than_there_are_slots_and_the_last_in_line_first() -> None:
    problem = build_problem([Job(50, 100.0)] * 6, [view(14, 30.0), view(6, 2.0)])
    assert [i for i, _ in find_recalls(problem, [0] * 6, [1] * 6, [0, 2])] == [5, 4]


def test_a_slow_worker_does_not_take_what_ends_sooner_at_home() -> None:
    problem = build_problem([Job(50, 300.0)], [view(9, 3.0), view(0, 0.0, speed=0.1)])
    assert find_recalls(problem, [0], [1], [0, 8]) == []


def test_a_gain_below_the_cost_of_moving_is_none() -> None:
    for gain_s, moved in ((ROUND_TRIP_S / 2, 0), (1.0, 1)):
        problem = Problem.of([[0.1, 0.1]], [2.0, 1.8 - gain_s - 0.05])
        assert len(find_recalls(problem, [0], [1], [0, 1])) == moved, gain_s


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400)), min_size=1, max_size=20),
    st.lists(st.integers(0, 60), min_size=3, max_size=3),
    st.lists(st.integers(0, 8), min_size=3, max_size=3),
)
def test_each_moves_at_most_once_away_from_home_and_ends_sooner(
    queued: list[tuple[int, int]], backlog: list[int], free: list[int]
) -> None:
    home = [h for h, _ in queued]
    jobs = [Job(50, float(length)) for _, length in queued]
    views = [view(8 - free[j] + home.count(j), float(backlog[j])) for j in range(3)]
    problem = build_problem(jobs, views)
    found = find_recalls(problem, home, [1] * len(jobs), free)
    assert len({i for i, _ in found}) == len(found)
    for j in range(3):
        assert sum(k == j for _, k in found) <= free[j]
    for i, j in found:
        assert home[i] != j
        stays_s = max(problem.initial_s[home[i]], problem.span_s[i, home[i]])
        assert problem.alone_s[i, j] + ROUND_TRIP_S < stays_s
