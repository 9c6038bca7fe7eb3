"""The solver's process may be late, killed, stuck or wrong: then the plan found before is used."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
import pytest

from router import solver_process
from router.lab.plan import PACKING
from router.solver_process import Search, SolverProcess
from solver.errors import InfeasibleProblem
from solver.packing.check import check
from solver.packing.pipeline import first_plan_or_queue
from solver.packing.plan import Method, Plan
from solver.packing.problem import Problem
from solver.routing import joint
from solver.routing.assign import assign
from solver.routing.check import check as check_joint
from tests.solver.routing.windows import question
from tests.waiting import PATIENCE_S, until

# Unrelated times: the heuristic finishes after 77 s, the optimum is 62; the MILP needs 10 ms.
POOR = Problem.of(np.random.default_rng(12).integers(10, 60, (8, 3)))
# Each of them fits, and so does their sum, but no two of three on one worker.
TOO_MUCH = Problem.of(np.ones((3, 2)), kv_tokens=[6, 6, 6], kv_capacity=[10, 10])


class Planner:
    """As `makespan plan` does it: the heuristic's plan, and a better one if it comes in time."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s, self.restarts = deadline_s, 0
        self.solver = SolverProcess(PACKING, self._restarted)

    def _restarted(self) -> None:
        self.restarts += 1

    async def plan(self, problem: Problem) -> tuple[Problem, Plan]:
        deadline = time.monotonic() + self.deadline_s
        problem, first = first_plan_or_queue(problem)
        if not self.solver.ready():
            return problem, first
        return problem, await self.solver.improve(problem, first, deadline) or first


@pytest.fixture
async def planner() -> AsyncIterator[Planner]:
    made = Planner(0.9)
    made.solver.start()
    await made.solver.warm()
    yield made
    made.solver.stop()


def restarts(planner: Planner) -> int:
    return planner.restarts


def replaced(planner: Planner, pid: int) -> bool:
    return planner.solver.pid not in (None, pid)


async def solved(planner: Planner) -> Plan:
    """Plan until the child has the word; every plan on the way is good."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            problem, plan = await planner.plan(POOR)
            check(problem, plan)
            if plan.method is not Method.HEURISTIC:
                return plan
            await asyncio.sleep(0.05)


async def test_the_solver_improves_on_the_heuristic(planner: Planner) -> None:
    _, first = first_plan_or_queue(POOR)
    assert first.method is Method.HEURISTIC
    plan = await solved(planner)
    assert plan.finish_s < first.finish_s
    while plan.finish_s > 62.0:  # a busy machine may not have come to the optimum in time
        plan = await solved(planner)
    assert plan.finish_s == 62.0
    assert restarts(planner) == 0


async def test_a_killed_child_is_replaced_and_counted(planner: Planner) -> None:
    assert planner.solver.pid is not None
    os.kill(planner.solver.pid, signal.SIGKILL)
    problem, plan = await planner.plan(POOR)
    check(problem, plan)
    await solved(planner)
    assert restarts(planner) == 1


async def test_a_dead_child_is_noticed_though_nobody_asks(planner: Planner) -> None:
    pid = planner.solver.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: planner.solver.pid != pid and planner.solver.ready())
    assert restarts(planner) == 1


async def test_a_child_that_dies_at_work_costs_only_what_it_would_have_found(
    planner: Planner,
) -> None:
    assert planner.solver.pid is not None
    os.kill(planner.solver.pid, signal.SIGSTOP)
    planning = asyncio.create_task(planner.plan(POOR))
    await asyncio.sleep(0.1)
    os.kill(planner.solver.pid, signal.SIGKILL)
    problem, plan = await planning
    check(problem, plan)
    assert plan.method is Method.HEURISTIC
    await solved(planner)
    assert restarts(planner) == 1


async def test_what_a_dead_child_held_is_closed_before_any_garbage_is_collected(
    planner: Planner,
) -> None:
    def held() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()
    gc.disable()
    try:
        before = held()
        for at_work in (False, True):
            pid = planner.solver.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            planning = asyncio.create_task(planner.plan(POOR)) if at_work else None
            await asyncio.sleep(0.1)
            os.kill(pid, signal.SIGKILL)
            if planning is not None:
                await planning
            await until(partial(replaced, planner, pid))
            await until(planner.solver.ready)
        await until(lambda: held() <= before)
    finally:
        gc.enable()


async def test_a_stuck_child_is_left_at_the_deadline_and_replaced(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planner.solver.pid is not None
    os.kill(planner.solver.pid, signal.SIGSTOP)
    _, plan = await planner.plan(POOR)
    assert plan.method is Method.HEURISTIC
    assert not planner.solver.ready()
    monkeypatch.setattr(solver_process, "STUCK_S", 0.0)
    monkeypatch.setattr(solver_process, "END_S", 3600.0)  # to wait for it would never end
    assert not planner.solver.ready()
    assert restarts(planner) == 1
    monkeypatch.undo()
    await solved(planner)


async def test_a_late_answer_is_not_waited_for() -> None:
    planner = Planner(0.0005)
    planner.solver.start()
    _, plan = await planner.plan(POOR)
    assert plan.method is Method.HEURISTIC
    planner.solver.stop()


async def test_the_best_so_far_counts_at_the_deadline(planner: Planner) -> None:
    """Far too large to be solved in time: what was found until then is used, and better."""
    rng = np.random.default_rng(0)
    large = Problem.of(rng.uniform(5, 20, (120, 12)))
    _, first = first_plan_or_queue(large)
    _, plan = await planner.plan(large)
    while plan.method is Method.HEURISTIC:  # on a busy machine a deadline may pass before any news
        _, plan = await planner.plan(large)
    check(large, plan)
    assert plan.finish_s < first.finish_s
    assert plan.finish_bound_s > first.finish_bound_s


async def test_a_wrong_answer_is_refused(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = first_plan_or_queue(POOR)
    lie = Plan(first.assignment, 0.1, 0.1, 0.1, 0.1, 0.1, Method.MILP)
    for answer in (lie, ValueError("the solver has failed")):

        def exchange(_: object, __: object, tell: Callable[[object], None], ___: object) -> None:
            tell(answer)  # noqa: B023
            tell(None)

        monkeypatch.setattr(solver_process, "_exchange", exchange)
        _, plan = await planner.plan(POOR)
        assert plan == first


async def test_what_cannot_be_is_proven(planner: Planner) -> None:
    with pytest.raises(InfeasibleProblem, match="together"):
        await planner.solver.improve(TOO_MUCH, None, time.monotonic() + PATIENCE_S)
    assert planner.solver.ready()


async def test_it_starts_when_it_is_first_asked_whether_it_is_ready() -> None:
    """And with another search: joint plans of windows."""
    search = Search(joint.warm_up, joint.improvements, check_joint, joint.supersedes)
    solver = SolverProcess(search)
    solver.stop()  # there is nothing to stop
    solver = SolverProcess(search)
    before = solver.pid
    assert before is None
    assert not solver.ready()
    assert solver.pid is not None
    await until(solver.ready)
    asked = next(
        asked for asked in map(window, range(1000)) if list(joint.improvements(asked, None))
    )
    first = assign(asked.requests, asked.load)
    plan = await solver.improve(asked, first, time.monotonic() + PATIENCE_S)
    assert plan is not None
    check_joint(asked, plan)
    assert joint.supersedes(plan, first)
    solver.stop()


def window(seed: int) -> joint.Question:
    return question(6, 3, seed)


async def test_where_no_child_can_start_there_is_none_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_room(_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    solver = SolverProcess(PACKING)
    with monkeypatch.context() as patched:
        patched.setattr(SpawnProcess, "start", no_room)
        patched.setattr(solver_process, "AGAIN_S", 0.0)
        assert not any(solver.ready() for _ in range(3))
        assert solver.pid is None
    try:
        await until(solver.ready)
    finally:
        solver.stop()
