"""``makespan plan``: problems from files, answers for programs and for people."""

from __future__ import annotations

import json
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import commands
from router.lab.packing.instances import KINDS

FIELDS = {
    "assignment", "makespan_s", "lower_bound_s", "gap_ratio", "method", "solve_s", "status",
}  # fmt: skip


def run(tmp_path: Path, problem: object, *flags: str) -> subprocess.CompletedProcess[str]:
    """What the command says and how it ends, in this process."""
    path = tmp_path / "problem.json"
    path.write_text(problem if isinstance(problem, str) else json.dumps(problem))
    command = ["plan", "--problem", str(path), *flags]
    status = 0
    with redirect_stdout(StringIO()) as told, redirect_stderr(StringIO()) as complaint:
        try:
            commands.run(command)
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(command, status, told.getvalue(), complaint.getvalue())


def answer(tmp_path: Path, problem: object, *flags: str) -> dict[str, Any]:
    done = run(tmp_path, problem, "--json", *flags)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() >= FIELDS
    return found


def test_the_cheapest_assignment_of_two(tmp_path: Path) -> None:
    found = answer(tmp_path, {"cost_s": [[1, 9], [9, 1]]})
    assert found["assignment"] == [0, 1]
    assert (found["makespan_s"], found["gap_ratio"], found["status"]) == (1.0, 0.0, "optimal")


def test_every_field_counts(tmp_path: Path) -> None:
    equal = [[4, 4, 4]] * 3
    full = {
        "cost_s": equal,
        "initial_s": [0, 0, 7],
        "eligible": [[True, True, True], [True, False, False], [True, True, True]],
        "prefix_saving_s": [[0, 0, 0], [0, 0, 0], [0, 0, 3.5]],
        "kv_tokens": [5, 5, 5],
        "kv_capacity": [8, 8, None],
        "weight": [1, 4, 1],
        "due_s": [None, 5, None],
    }
    found = answer(tmp_path, full)
    assert found["assignment"] == [1, 0, 2]
    assert found["makespan_s"] == pytest.approx(7.5)


def test_a_search_that_needs_the_solver(tmp_path: Path) -> None:
    problem = KINDS["affinity"](60, 8, 0)
    found = answer(tmp_path, {"cost_s": problem.cost_s.tolist()}, "--deadline", "1.5")
    load = [0.0] * 8
    for i, j in enumerate(found["assignment"]):
        load[j] += problem.cost_s[i, j]
    assert max(load) == pytest.approx(found["makespan_s"])
    assert found["lower_bound_s"] <= found["makespan_s"] <= 1.01 * found["lower_bound_s"]
    assert found["gap_ratio"] == pytest.approx(found["makespan_s"] / found["lower_bound_s"] - 1)


@pytest.mark.parametrize(
    ("problem", "request_index", "why"),
    [
        ({"cost_s": [[1, 1], [None, None]]}, 1, "no eligible worker"),
        ({"cost_s": [[1], [1]], "eligible": [[True], [False]]}, 1, "no eligible worker"),
        ({"cost_s": [[1], [1]], "kv_tokens": [2, 9], "kv_capacity": [5]}, 1, "memory"),
        ({"cost_s": [[1, 1]] * 3, "kv_tokens": [6, 6, 6], "kv_capacity": [9, 9]}, 2, "together"),
    ],
)
def test_the_infeasible_is_said_to_be_so(
    tmp_path: Path, problem: object, request_index: int, why: str
) -> None:
    done = run(tmp_path, problem, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert (found["status"], found["assignment"]) == ("infeasible", None)
    assert found["request"] == request_index
    assert why in found["message"]
    told = run(tmp_path, problem)
    assert told.returncode == 1
    assert told.stdout.startswith("infeasible: ")


@pytest.mark.parametrize(
    ("problem", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ({}, "cost_s is missing"),
        ({"cost_s": [[1]], "costs": 1}, "unknown field 'costs'"),
        ({"cost_s": [[1], [2, 3]]}, "cost_s"),
        ({"cost_s": [[-1]]}, "cost_s: must be >= 0"),
        ({"cost_s": None}, "cost_s is missing"),
        ({"cost_s": [[1e300]]}, "cost_s: numbers beyond 1e+12"),
        ({"cost_s": [["x"]]}, "cost_s: not an array of numbers"),
        ({"cost_s": [[1, 2]], "initial_s": [1]}, "initial_s: shape"),
        ({"cost_s": [[1]], "eligible": [["no"]]}, "eligible: must be true or false"),
        ({"cost_s": [[1]], "prefix_saving_s": [[2]]}, "prefix_saving_s: more than the cost"),
        ({"cost_s": [[1]], "weight": [[1]]}, "weight: shape"),
        ({"cost_s": [[1]], "kv_tokens": [None]}, "kv_tokens"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, problem: object, complaint: str) -> None:
    done = run(tmp_path, problem)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_people_see_each_worker(tmp_path: Path) -> None:
    done = run(tmp_path, {"cost_s": [[3, 3], [3, 3], [2, 2]], "initial_s": [1, 0]})
    assert done.returncode == 0
    assert "3 requests on 2 workers, optimal" in done.stdout
    assert "█" in done.stdout


def test_a_bound_of_nothing_proves_nothing(tmp_path: Path) -> None:
    cost = [[1, 0, 2], [0, 0, 2], [0, 2, 0], [0, 0, 1], [2, 1, 0], [2, 0, 0]]
    tight = {"kv_tokens": [10, 8, 10, 8, 3, 2], "kv_capacity": [22, 11, 12]}
    found = answer(tmp_path, {"cost_s": cost, **tight})
    assert (found["makespan_s"], found["status"]) == (1.0, "optimal")


def test_there_is_a_plan_at_any_deadline(tmp_path: Path) -> None:
    cost = np.random.default_rng(0).uniform(0.1, 10, (400, 100)).tolist()
    found = answer(tmp_path, {"cost_s": cost}, "--deadline", "0")
    assert len(found["assignment"]) == 400


def test_no_request_is_no_problem(tmp_path: Path) -> None:
    assert answer(tmp_path, {"cost_s": [], "initial_s": [1.0]})["assignment"] == []
