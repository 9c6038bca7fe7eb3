"""``makespan bench plan``: how good the planner's plans are, and how fast they are there.

Gaps are relative to the best lower bound that any of the planners has proven for the instance.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import mean, median

import numpy as np
import orjson
from tqdm import tqdm

from router.lab.packing.instances import KINDS
from router.lab.packing.other_solvers import OtherSolver, SolverResult, cp_sat, milp_alone
from router.lab.plan import PACKING, improved
from router.settings.bench import BenchSettings
from router.solver_process import SolverProcess
from solver.errors import InfeasibleProblem
from solver.packing.bounds import packing_bound
from solver.packing.pipeline import first_plan, nothing_to_win
from solver.packing.plan import Method, Plan, evaluate
from solver.packing.problem import Problem

FAST = ((200, 8), (500, 32), (1319, 200), (10_000, 1000))
GRID = (
    ("equal", 16, 4), ("equal", 64, 16), ("equal", 200, 8), ("equal", 500, 32),
    ("equal", 1319, 200), ("equal", 10_000, 1000),
    ("loaded", 16, 4), ("loaded", 64, 16), ("loaded", 500, 32), ("loaded", 1319, 200),
    ("loaded", 10_000, 1000),
    ("two-way", 50, 16), ("four-way", 500, 32), ("affinity", 500, 32), ("hardware", 500, 32),
    ("memory", 200, 32), ("everything", 500, 32),
)  # fmt: skip
# From so many seconds on the other solvers run side by side, so that the table is there today.
LONG_S = 10.0
# What is asked of each class: requests, workers, and our seconds; CP-SAT gets ten times these.
HEAD_TO_HEAD = (
    ("equal", 64, 16, 0.05), ("loaded", 96, 32, 0.05), ("two-way", 50, 16, 0.1),
    ("two-way", 50, 8, 0.1), ("four-way", 500, 32, 0.05), ("affinity", 200, 8, 0.02),
    ("affinity", 500, 32, 0.15), ("hardware", 200, 8, 0.02), ("hardware", 500, 32, 0.15),
    ("noisy", 200, 8, 0.02), ("noisy", 500, 32, 0.15), ("memory", 64, 8, 0.05),
    ("memory", 200, 32, 0.05), ("everything", 200, 16, 0.05),
)  # fmt: skip
INSTANCES, TIME_FACTOR = 10, 10
# Two to four requests a worker, where packing is hardest.
SCARCE = (("equal", 32, 16), ("equal", 96, 32), ("equal", 256, 64), ("loaded", 32, 16),
          ("loaded", 96, 32), ("loaded", 500, 200))  # fmt: skip
SCARCES, SCARCE_S, LONG_LIMIT_S = 5, 0.05, 2.0
# As good: CP-SAT counts in tenths of milliseconds.
TOLERANCE = 1e-4


@dataclass(slots=True)
class Row:
    """What was found for an instance: finishes and seconds by planner and deadline."""

    name: str
    bound_s: float
    cells: dict[str, tuple[float | None, float]] = field(default_factory=dict)

    def gap(self, key: str) -> str:
        """How far above the bound, in percent; a dash where nothing was found."""
        finish, _ = self.cells.get(key, (None, 0.0))
        return "-" if finish is None else f"{(finish / self.bound_s - 1):.2%}"


class Bench:
    """The planners, warm."""

    def __init__(self, stack: ExitStack, solver: SolverProcess[Problem, Plan]) -> None:
        self._solver = solver
        self.others = [
            stack.enter_context(OtherSolver("MILP alone", milp_alone)),
            stack.enter_context(OtherSolver("CP-SAT", cp_sat)),
        ]
        self.late_s: list[float] = []

    async def pipeline(self, problem: Problem, deadline_s: float) -> tuple[Plan | None, float]:
        """Ours, as the gateway runs it; the best plan and the seconds that it took."""
        if not self._solver.ready():  # it has not given up its last problem yet
            await self._solver.warm()
        start = time.perf_counter()
        try:
            first = first_plan(problem, lambda: deadline_s - (time.perf_counter() - start))
        except InfeasibleProblem:
            return None, time.perf_counter() - start
        took = time.perf_counter() - start
        best = first
        if (first is None or not nothing_to_win(problem, first)) and took < deadline_s:
            best = (await improved(self._solver, problem, first, deadline_s, took)).plan
        took = time.perf_counter() - start
        self.late_s.append(took - deadline_s)
        return best, took


def bench_plan(settings: BenchSettings) -> None:
    """Print the tables."""
    with ExitStack() as stack:
        if settings.busy:
            stack.enter_context(_loaded_cores())
        tables = asyncio.run(_tables(settings, stack))
    if settings.json:
        print(orjson.dumps(tables).decode())


async def _tables(settings: BenchSettings, stack: ExitStack) -> dict[str, object]:
    solver = SolverProcess(PACKING)
    solver.start()
    try:
        await solver.warm()
        bench = Bench(stack, solver)
        say: Callable[[str], None] = (lambda _: None) if settings.json else tqdm.write
        out: dict[str, object] = {"fast": _fast(settings.cases, say)}
        out["scarce"] = await _scarce(bench, say)
        out["duel"] = await _duel(bench, say)
        out["grid"] = await _grid(bench, settings.deadlines, say)
        late = max(bench.late_s)
        say(f"\nlatest plan: {late * 1e3:.1f} ms after its deadline, of {len(bench.late_s)} plans")
        return out | {"late_s": late}
    finally:
        solver.stop()


def _fast(cases: int, say: Callable[[str], None]) -> list[dict[str, object]]:
    """CPU time and gap of the heuristic alone where nothing but load counts."""
    say(f"heuristic alone, {cases} instances each: CPU ms, gap to its own bound")
    say(f"{'':<24}{'p50':>8}{'p99':>8}{'gap p50':>10}{'gap max':>10}")
    rows: list[dict[str, object]] = []
    for kind in ("equal", "loaded"):
        for n, m in FAST:
            times, gaps = [], []
            for seed in _bar(range(cases), f"{kind} {n} x {m}"):
                problem = KINDS[kind](n, m, seed)
                start = time.thread_time()
                found = first_plan(problem)
                times.append((time.thread_time() - start) * 1e3)
                assert found is not None
                gaps.append(found.finish_gap_ratio)
            p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
            name = f"{kind} {n} x {m}"
            say(f"{name:<24}{p50:>8.2f}{p99:>8.2f}{median(gaps):>10.3%}{max(gaps):>10.3%}")
            rows.append({"name": name, "p50_ms": p50, "p99_ms": p99, "worst_gap": max(gaps)})
    return rows


async def _scarce(bench: Bench, say: Callable[[str], None]) -> list[dict[str, object]]:
    """Few requests a worker: our plan at a deadline over the best that anybody finds in seconds."""
    say(f"\ntwo to four requests a worker, {SCARCE_S * 1e3:.0f} ms, {SCARCES} instances each: over")
    say(f"the best known (ours and CP-SAT, {LONG_LIMIT_S:.0f} s each)")
    say(f"{'':<24}{'mean':>10}{'worst':>10}{'heuristic':>12}")
    rows: list[dict[str, object]] = []
    for kind, n, m in SCARCE:
        over, plain = [], []
        for seed in _bar(range(SCARCES), f"{kind} {n} x {m}"):
            problem = KINDS[kind](n, m, seed)
            first = first_plan(problem)
            found, _ = await bench.pipeline(problem, SCARCE_S)
            with_long_limit, _ = await bench.pipeline(problem, LONG_LIMIT_S)
            assert first is not None
            assert found is not None
            assert with_long_limit is not None
            other = _finish(problem, bench.others[1].run(problem, LONG_LIMIT_S))
            best = min(with_long_limit.finish_s, found.finish_s, other or np.inf)
            over.append(found.finish_s / best - 1)
            plain.append(first.finish_s / best - 1)
        name = f"{kind} {n} x {m}"
        say(f"{name:<24}{mean(over):>10.3%}{max(over):>10.3%}{mean(plain):>12.3%}")
        rows.append({"name": name, "mean": mean(over), "worst": max(over)})
    return rows


async def _duel(bench: Bench, say: Callable[[str], None]) -> list[dict[str, object]]:
    """Ours against CP-SAT with ten times the time."""
    say(
        f"\nours against CP-SAT with {TIME_FACTOR} times the time, {INSTANCES} instances each: "
        "gap to the"
    )
    say("best bound, and where ours is at least as good")
    say(f"{'':<24}{'ours':>8}{'gap':>10}{'worst':>10}{'CP-SAT':>10}{'as good':>10}{'proven':>10}")
    rows: list[dict[str, object]] = []
    for kind, n, m, deadline in HEAD_TO_HEAD:
        await bench.pipeline(KINDS[kind](n, m, INSTANCES), LONG_LIMIT_S)  # the model of this shape
        ours, theirs, good, proven = [], [], 0, 0
        for seed in _bar(range(INSTANCES), f"{kind} {n} x {m}"):
            problem = KINDS[kind](n, m, seed)
            found, _ = await bench.pipeline(problem, deadline)
            other = bench.others[1].run(problem, deadline * TIME_FACTOR)
            finish = _finish(problem, other) or np.inf
            bound = max(packing_bound(problem), other.bound_s if other else 0.0)
            bound = max(bound, found.finish_bound_s if found else 0.0)
            mine = found.finish_s if found else np.inf
            ours.append(mine / bound - 1)
            theirs.append(finish / bound - 1)
            good += mine <= finish * (1 + TOLERANCE)
            proven += found is not None and found.finish_s <= bound * (1 + TOLERANCE)
        name = f"{kind} {n} x {m}"
        say(
            f"{name:<24}{deadline * 1e3:>5.0f} ms{mean(ours):>10.3%}{max(ours):>10.3%}"
            f"{mean(theirs):>10.3%}{good:>6} / {INSTANCES}{proven:>6} / {INSTANCES}"
        )
        row = {"name": name, "gap": mean(ours), "worst": max(ours), "cp_sat": mean(theirs)}
        rows.append(row | {"as_good": good, "proven": proven})
    return rows


async def _grid(
    bench: Bench, deadlines: Sequence[float], say: Callable[[str], None]
) -> list[dict[str, object]]:
    """Every kind and size, at every deadline: heuristic, MILP alone, pipeline, CP-SAT."""
    names = ["pipeline", *(other.name for other in bench.others)]
    say("\ngap to the best bound at each deadline (one instance each; - : nothing found)")
    header = "".join(f"{f'{name} {_seconds(d)}':>18}" for name in names for d in deadlines)
    say(f"{'':<24}{'heuristic':>12}{'CPU ms':>9}{header}")
    rows: list[dict[str, object]] = []
    for kind, n, m in _bar(GRID, "grid"):
        await bench.pipeline(KINDS[kind](n, m, INSTANCES), 0.5)  # the model of this shape
        problem, name = KINDS[kind](n, m, 0), f"{kind} {n} x {m}"
        row = Row(name, packing_bound(problem))
        start = time.thread_time()
        first = first_plan(problem)
        cpu = (time.thread_time() - start) * 1e3
        row.cells["heuristic"] = (first.finish_s if first else None, cpu / 1e3)
        for deadline in deadlines:
            found, took = await bench.pipeline(problem, deadline)
            row.cells[f"pipeline {deadline}"] = (found.finish_s if found else None, took)
            row.bound_s = max(row.bound_s, found.finish_bound_s if found else 0.0)
        await _run_others(row, bench.others, problem, deadlines)
        gaps = "".join(f"{row.gap(f'{name} {d}'):>18}" for name in names for d in deadlines)
        say(f"{name:<24}{row.gap('heuristic'):>12}{cpu:>9.2f}{gaps}")
        rows.append({"name": row.name, "bound_s": row.bound_s, "cells": row.cells})
    return rows


async def _run_others(
    row: Row, others: Sequence[OtherSolver], problem: Problem, deadlines: Sequence[float]
) -> None:
    """At each deadline; once one has proven its optimum, more time changes nothing."""
    last: dict[str, SolverResult | None] = {}
    for deadline in sorted(deadlines):
        running = []
        for other in others:
            before = last.get(other.name)
            if other.name in last and (before is None or before.proven):
                continue
            task = asyncio.create_task(asyncio.to_thread(other.run, problem, deadline))
            running.append((other.name, task))
            if deadline < LONG_S:
                await task
        for name, task in running:
            last[name] = await task
        for name, found in last.items():
            if found is not None:
                row.cells[f"{name} {deadline}"] = (_finish(problem, found), found.took_s)
                row.bound_s = max(row.bound_s, found.bound_s * (1 - TOLERANCE / 10))


def _finish(problem: Problem, found: SolverResult | None) -> float | None:
    if found is None or found.assignment is None:
        return None
    return evaluate(problem, found.assignment, 0.0, Method.MILP).finish_s


def _seconds(value: float) -> str:
    return f"{value * 1e3:g} ms" if value < 1 else f"{value:g} s"


def _bar(items: Sequence[object] | range, what: str) -> Iterator:  # type: ignore[type-arg]
    return iter(tqdm(items, desc=what, disable=None, leave=False))


@contextmanager
def _loaded_cores() -> Iterator[None]:
    """All cores at work on something else."""
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_spin, daemon=True) for _ in range(multiprocessing.cpu_count())
    ]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()


def _spin() -> None:
    while True:
        sum(range(10_000))
