"""The MILP's process may be late, killed or wrong: then the incumbent is used."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import numpy as np
import pytest

from router.gateway import planner as module
from router.gateway.planner import Planner
from router.metrics import GatewayMetrics
from solver.check import check
from solver.plan import first_plan_or_queue
from solver.types import Method, Plan, Problem

# Unrelated times: the heuristic finishes after 77 s, the optimum is 62; the MILP needs 10 ms.
POOR = Problem.of(np.random.default_rng(12).integers(10, 60, (8, 3)))


@pytest.fixture
async def planner() -> AsyncIterator[Planner]:
    made = Planner(0.9, GatewayMetrics())
    made.start()
    yield made
    made.stop()


def restarts(planner: Planner) -> float:
    value = planner._metrics.registry.get_sample_value("makespan_planner_restarts_total")
    assert value is not None
    return value


async def solved(planner: Planner) -> Plan:
    """Plan until the child has the word; every plan on the way is good."""
    for _ in range(300):
        problem, plan = await planner.plan(POOR)
        check(problem, plan)
        if plan.method is Method.MILP:
            return plan
        await asyncio.sleep(0.05)
    raise AssertionError("the child never answered")


async def test_milp_improves_on_the_heuristic(planner: Planner) -> None:
    _, first = first_plan_or_queue(POOR)
    assert first.method is Method.HEURISTIC
    plan = await solved(planner)
    assert plan.finish_s < first.finish_s
    assert restarts(planner) == 0


async def test_a_killed_child_is_replaced_and_counted(planner: Planner) -> None:
    await solved(planner)
    assert planner._process is not None
    planner._process.kill()
    problem, plan = await planner.plan(POOR)
    check(problem, plan)
    await solved(planner)
    assert restarts(planner) == 1


async def forever(never: asyncio.Future[None]) -> Plan | Exception | None:
    await never
    return None


async def test_a_stuck_child_is_replaced(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    await solved(planner)
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    planner._asking = asyncio.create_task(forever(never))
    monkeypatch.setattr(module, "STUCK_S", 0.0)
    _, plan = await planner.plan(POOR)
    assert plan.method is Method.HEURISTIC
    assert restarts(planner) == 1
    never.set_result(None)
    monkeypatch.undo()
    await solved(planner)


async def test_restarting_a_stopped_child_does_not_stall_the_loop(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await solved(planner)
    assert planner._process is not None
    assert planner._process.pid is not None
    os.kill(planner._process.pid, signal.SIGSTOP)
    _, plan = await planner.plan(POOR)
    assert plan.method is Method.HEURISTIC
    monkeypatch.setattr(module, "END_S", 3600.0)  # to wait for it would never end
    planner._restart("stuck")
    await solved(planner)


async def test_a_late_answer_is_not_waited_for() -> None:
    planner = Planner(0.0005, GatewayMetrics())
    planner.start()
    _, plan = await planner.plan(POOR)
    assert plan.method is Method.HEURISTIC
    planner.stop()


async def test_a_wrong_answer_is_refused(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = first_plan_or_queue(POOR)
    lie = Plan(first.assignment, 0.1, 0.1, 0.1, 0.1, 0.1, Method.MILP)
    monkeypatch.setattr(module, "_exchange", lambda *_: lie)
    _, plan = await planner.plan(POOR)
    assert plan == first


async def test_without_a_deadline_there_is_no_child() -> None:
    planner = Planner(0.0, GatewayMetrics())
    planner.start()
    assert planner._process is None
    _, plan = await planner.plan(POOR)
    assert plan.method is Method.HEURISTIC
    planner.stop()
