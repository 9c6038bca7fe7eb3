"""The packing model, compiled once per shape and patched with each window's numbers.

Building the Pyomo model of 500 requests on 32 workers and compiling it takes a tenth of a second,
longer than most deadlines; putting new numbers into the compiled form takes a few milliseconds. A
template has all pairs of a request and a worker, and a few requests too many: those that a window
does not have cost nothing. The model itself stays where it is defined; a template only remembers
where in the matrix each number of the data has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyomo.core as pyo

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.packing.milp.compile import Compiled, Program, compile_model
from solver.packing.problem import Problem

Build = Callable[[Problem, BoolArray, float], pyo.ConcreteModel]
# Compiled models are some megabytes each.
TEMPLATES = 16


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column is what: (k,) the pair of each x and its column, the y of workers, and t.

    `done` are the rows that say when workers are done, and the worker of each.
    """

    i: IntArray
    j: IntArray
    x: IntArray
    opened: dict[int, int]
    t: int
    done: tuple[IntArray, IntArray]

    @classmethod
    def of(cls, compiled: Compiled, model: pyo.ConcreteModel) -> Columns:
        """Of a model that has been compiled."""
        at = {id(var): k for k, var in enumerate(compiled.columns)}
        pairs = [(i, j, at[id(var)]) for (i, j), var in model.x.items()]
        i, j, x = np.array(pairs, dtype=np.intp).reshape(len(pairs), 3).T
        opened = {j: at[id(var)] for j, var in model.y.items()}
        done = rows_of(compiled, model.worker_done)
        return cls(i, j, x, opened, at[id(model.t)], done)

    @property
    def count(self) -> int:
        """How many columns there are."""
        return len(self.x) + len(self.opened) + 1

    def matrix(self, values: FloatArray, requests: int, workers: int) -> FloatArray:
        """(n, m) the values of x; requests beyond the first `requests` are left out."""
        share = np.zeros((requests, workers))
        real = self.i < requests
        share[self.i[real], self.j[real]] = values[self.x[real]]
        return share

    def values(self, assignment: IntArray, finish_s: float) -> FloatArray:
        """The columns' values for a plan; requests beyond it are with worker 0."""
        chosen = np.zeros(int(self.i.max()) + 1, dtype=np.intp)
        chosen[: len(assignment)] = assignment
        found = np.zeros(self.count)
        found[self.x] = chosen[self.i] == self.j
        for j, column in self.opened.items():
            found[column] = bool(np.any(assignment == j))
        found[self.t] = finish_s
        return found


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of the matrix that hold data: their positions, and whose they are."""

    at: IntArray
    i: IntArray
    j: IntArray


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled model, and where its data is; `requests` of them, some of which may be idle."""

    requests: int
    numbers: Program
    columns: Columns
    cost: Entries
    alone: Entries
    tokens: Entries
    memory: tuple[IntArray, IntArray]  # rows, and the worker of each

    def patched(self, problem: Problem, allowed: BoolArray, bound_s: float) -> Program:
        """The compiled model with this problem's numbers, restricted to the pairs `allowed`."""
        data, upper = self.numbers.data.copy(), self.numbers.row_upper.copy()
        for entries, matrix in (
            (self.cost, problem.cost_s),
            (self.alone, problem.alone_s),
            (self.tokens, np.broadcast_to(problem.kv_tokens[:, None], allowed.shape)),
        ):
            data[entries.at] = self._padded(np.where(allowed, matrix, 0.0))[entries.i, entries.j]
        rows, workers = self.columns.done
        used = allowed.any(axis=0)  # a worker that gets nothing does not count
        upper[rows] = np.where(used, -problem.initial_s, np.inf)[workers]
        rows, workers = self.memory
        upper[rows] = problem.kv_capacity[workers]
        lowest, most = self.numbers.col_lower.copy(), self.numbers.col_upper.copy()
        may = self._padded(allowed.astype(np.float64))
        may[problem.requests :, 0] = 1.0
        most[self.columns.x] = may[self.columns.i, self.columns.j]
        lowest[self.columns.t] = bound_s
        return replace(self.numbers, data=data, row_upper=upper, col_lower=lowest, col_upper=most)

    def _padded(self, matrix: FloatArray) -> FloatArray:
        padded = np.zeros((self.requests, matrix.shape[1]))
        padded[: len(matrix)] = matrix
        return padded


def template(build: Build, problem: Problem) -> Template:
    """The compiled model of the problem's shape; made the first time that it is asked for.

    No worker's backlog may be longer than the bound that it is patched with.
    """
    spans = problem.spans_s is not None
    return _template(
        build, rounded_up(problem.requests), problem.workers, spans, problem.memory_limited
    )


def rounded_up(requests: int) -> int:
    """Up to a quarter more, so that windows of similar sizes share a template."""
    step = max(8, 1 << max(0, requests.bit_length() - 3))
    return -(-requests // step) * step


@lru_cache(TEMPLATES)
def _template(build: Build, requests: int, workers: int, spans: bool, limited: bool) -> Template:
    ones = np.ones((requests, workers))
    problem = Problem.of(
        ones,
        span_s=ones if spans else None,
        kv_tokens=np.ones(requests),
        kv_capacity=np.full(workers, float(requests)) if limited else None,
    )
    model = build(problem, ones.astype(np.bool_), 0.0)
    compiled = compile_model(model)
    columns = Columns.of(compiled, model)
    numbers = compiled.numbers
    pair = np.full((len(compiled.columns), 2), -1)
    pair[columns.x] = np.stack((columns.i, columns.j), axis=1)
    column = np.repeat(np.arange(len(compiled.columns)), np.diff(numbers.starts))
    is_x = pair[column, 0] >= 0

    def entries(rows: IntArray) -> Entries:
        at = np.flatnonzero(is_x & np.isin(numbers.index, rows))
        return Entries(at, pair[column[at], 0], pair[column[at], 1])

    memory = rows_of(compiled, model.memory)
    return Template(
        requests,
        numbers,
        columns,
        cost=entries(columns.done[0]),
        alone=entries(rows_of(compiled, model.request_done)[0]),
        tokens=entries(memory[0]),
        memory=memory,
    )


def rows_of(compiled: Compiled, constraint: pyo.Constraint) -> tuple[IntArray, IntArray]:
    """The rows that an indexed constraint has become, and the index of each."""
    index = {row: j for j, row in constraint.items()}
    found = [(k, index[row]) for k, row in enumerate(compiled.rows) if row in index]
    rows, owners = np.array(found, dtype=np.intp).reshape(len(found), 2).T
    return rows, owners
