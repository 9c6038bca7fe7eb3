"""Who goes where: round robin, least loaded and the plan, on workers of unequal speed.

Requests have GSM8K's lengths, known in advance; a worker's load is what they cost it. Prints the
finish over the lower bound, mean of 50 windows; with `--svg FILE` it draws one window.

    python -m tests.bench.bench_dispatch
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from router.agent.engines.emulated.text import count_tokens
from solver.packing.pipeline import first_plan
from solver.packing.plan import Method, evaluate
from solver.packing.problem import Problem
from tests.helpers import gsm8k

SPEEDS = (2.0, 1.0, 1.0, 0.5)
SIZES = ((16, 4), (64, 16), (200, 8), (500, 32))
Rule = Callable[[Problem], Sequence[int]]


def window(requests: int, workers: int, seed: int) -> Problem:
    """`requests` drawn from GSM8K, on workers whose speeds repeat SPEEDS."""
    rng = random.Random(seed)
    rows = rng.choices(gsm8k(), k=requests)
    work = np.array([0.0088 * count_tokens(q) / 68 + 0.00036 * length for q, length in rows])
    speeds = np.array([SPEEDS[j % len(SPEEDS)] for j in range(workers)])
    return Problem.of(work[:, None] / speeds)


def round_robin(problem: Problem) -> list[int]:
    """One after the other."""
    return [i % problem.workers for i in range(problem.requests)]


def least_loaded(problem: Problem) -> list[int]:
    """In order of arrival, to whoever has the least work."""
    load, chosen = problem.initial_s.copy(), []
    for cost in problem.cost_s:
        j = int(load.argmin())
        load[j] += cost[j]
        chosen.append(j)
    return chosen


def planned(problem: Problem) -> Sequence[int]:
    """Makespan's heuristic, all at once."""
    plan = first_plan(problem)
    assert plan is not None
    return plan.assignment


RULES: dict[str, Rule] = {
    "round robin": round_robin,
    "least loaded": least_loaded,
    "Makespan": planned,
}


def over_bound(problem: Problem, assignment: Sequence[int]) -> float:
    """Finish over the lower bound, as a fraction above 1."""
    plan = first_plan(problem)
    assert plan is not None
    finish = evaluate(problem, assignment, 0.0, Method.HEURISTIC).finish_s
    return finish / plan.finish_bound_s - 1


def table() -> None:
    """Print the mean gap of each rule at each size."""
    print(f"{'requests x workers':<20}" + "".join(f"{name:>15}" for name in RULES))
    for requests, workers in SIZES:
        windows = [window(requests, workers, seed) for seed in range(50)]
        gaps = [mean(over_bound(p, rule(p)) for p in windows) for rule in RULES.values()]
        cells = "".join(f"{gap:>15.1%}" for gap in gaps)
        print(f"{f'{requests} x {workers}':<20}{cells}")


def picture(path: Path) -> None:
    """Draw one window of 40 requests on four workers, as each rule packs it."""
    problem = window(40, 4, 3)
    plan = first_plan(problem)
    assert plan is not None
    packs = [(name, rule(problem)) for name, rule in RULES.items()]
    latest = max(evaluate(problem, a, 0.0, Method.HEURISTIC).finish_s for _, a in packs)
    scale = 560 / latest
    rows, y = [], 34.0
    for name, assignment in packs:
        finish = evaluate(problem, assignment, 0.0, Method.HEURISTIC).finish_s
        rows.append(f'<text x="8" y="{y - 8:.0f}" class="t">{name}: {finish:.2f} s</text>')
        for j in range(problem.workers):
            rows.append(f'<text x="8" y="{y + 11:.0f}">{SPEEDS[j]:g} x speed</text>')
            rows += _bars(problem, assignment, j, y, scale)
            y += 18
        y += 30
    bound = 90 + plan.finish_bound_s * scale
    line = f'<path d="M{bound:.1f} 20V{y - 30:.0f}" class="b"/>'
    label = (
        f'<text x="{bound + 5:.1f}" y="{y - 18:.0f}">lower bound {plan.finish_bound_s:.2f} s</text>'
    )
    path.write_text(_svg(y - 4, [*rows, line, label]), encoding="utf-8")


def _bars(problem: Problem, assignment: Sequence[int], j: int, y: float, scale: float) -> list[str]:
    x, bars = 90.0, []
    mine = [i for i in range(problem.requests) if assignment[i] == j]
    for i in sorted(mine, key=lambda i: -problem.cost_s[i, j]):
        width = problem.cost_s[i, j] * scale
        size = f'width="{max(0.5, width - 1):.1f}" height="14"'
        bars.append(f'<rect x="{x:.1f}" y="{y:.0f}" {size} class="r{i % 3}"/>')
        x += width
    return bars


def _svg(height: float, parts: Sequence[str]) -> str:
    style = (
        "text{font:12px sans-serif;fill:#667}.t{font-weight:bold;fill:#345}.r0{fill:#3a7ca5}"
        ".r1{fill:#5b9bc4}.r2{fill:#8dbbdb}.b{stroke:#d1495b;stroke-width:1.5;"
        "stroke-dasharray:5 3}@media(prefers-color-scheme:dark){.t{fill:#cde}text{fill:#9ab}}"
    )
    size = f'viewBox="0 0 680 {height:.0f}" width="680" height="{height:.0f}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    if "--svg" in sys.argv:
        picture(Path(sys.argv[sys.argv.index("--svg") + 1]))
    else:
        table()
