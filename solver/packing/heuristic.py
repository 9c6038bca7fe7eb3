"""A first plan in milliseconds: longest first, and a repair of what that leaves.

`pack_related` is the fast path where costs are work times slowness and nothing else binds (see
`solver.packing.related`). `longest_first` takes any problem: each request, longest first, goes to
the worker where it would end earliest if it came after what the window has put there before;
`solver.packing.search` then descends from there. All are deterministic, and none promises to find a
plan where memory is tight.
"""

from __future__ import annotations

from operator import add

import numpy as np

from solver.arrays import FloatArray, IntArray
from solver.packing.problem import Problem, SecondsLeft
from solver.packing.related import Packing

# Noise in the order of placing, relative to the work; the golden ratio's multiples spread evenly.
NOISE, GOLDEN = 0.3, 0.6180339887498949
# Rows of so few workers are quicker as lists than as numpy arrays.
FEW_WORKERS = 64
# Beyond so many pairs of a request and a worker, making lists takes milliseconds itself.
MANY_PAIRS = 1 << 16


def pack_related(
    problem: Problem, bound_s: float, target_s: float, noise: FloatArray
) -> IntArray | None:
    """Pack to finish by `target_s`, placing in the order of work times ``1 + noise``.

    `noise` is (n,), at least 0. None if the costs are not work times slowness, or memory would not
    hold what comes out. That may miss the target, and knows nothing of spans.
    """
    related = problem.related
    if related is None:
        return None
    order = np.argsort(-related.work_s * (1.0 + noise), kind="stable")
    capacity = (max(target_s, bound_s) - problem.initial_s) / related.slowness
    packing = Packing(related.work_s.tolist(), capacity.tolist())
    packing.place(order.tolist())
    packing.repair()
    found = np.array(packing.assignment(), dtype=np.intp)
    if problem.memory_limited:
        used = np.bincount(found, problem.kv_tokens, problem.workers)
        if np.any(used > problem.kv_capacity):
            return None
    return found


def even_noise(requests: int) -> FloatArray:
    """(n,) the noise of a first attempt."""
    multiples = GOLDEN * np.arange(requests, dtype=np.float64)
    return NOISE * np.asarray(multiples % 1.0, dtype=np.float64)


def longest_first(
    problem: Problem, left_s: SecondsLeft | None = None, order: IntArray | None = None
) -> IntArray | None:
    """Assign every request, or return None if memory ran out on the way; hurries without time.

    `order` (n,) is another one than longest first.
    """
    if order is not None:
        return _place(problem, order, left_s)
    size = problem.cost_s.min(axis=1)
    placed = _place(problem, np.argsort(-size, kind="stable"), left_s)
    if placed is None and problem.memory_limited:  # large requests first leave fewer gaps in memory
        placed = _place(problem, np.argsort(-problem.kv_tokens, kind="stable"), left_s)
    return placed


def _place(problem: Problem, order: IntArray, left_s: SecondsLeft | None) -> IntArray | None:
    if problem.workers > FEW_WORKERS or problem.requests * problem.workers > MANY_PAIRS:
        return _place_by_rows(problem, order, left_s)
    alone, kv = problem.alone_s.tolist(), problem.kv_tokens.tolist()
    cost = problem.cost_s.tolist()
    limited, room = problem.memory_limited, problem.kv_capacity.tolist()
    added, assignment = [0.0] * problem.workers, [0] * problem.requests
    for i in order.tolist():
        finish = list(map(add, added, alone[i]))
        if limited:
            need = kv[i]
            finish = [
                end if free >= need else np.inf for end, free in zip(finish, room, strict=True)
            ]
        earliest = min(finish)
        if earliest == np.inf:
            return None
        j = finish.index(earliest)
        assignment[i] = j
        added[j] += cost[i][j]
        room[j] -= kv[i]
    return np.array(assignment, dtype=np.intp)


def _place_by_rows(
    problem: Problem, order: IntArray, left_s: SecondsLeft | None
) -> IntArray | None:
    """As `_place`; once time has run out, many look for their worker at a time."""
    alone, cost, kv = problem.alone_s, problem.cost_s, problem.kv_tokens
    room, limited = problem.kv_capacity.copy(), problem.memory_limited
    added = np.zeros(problem.workers)
    assignment = np.empty(problem.requests, dtype=np.intp)
    at, step = 0, 1
    while at < len(order):
        if step == 1 and at % 64 == 63 and left_s is not None and left_s() <= 0:
            step = 2 * problem.workers
        rows = order[at : at + step]
        at += step
        finish = added + alone[rows]
        if limited:
            finish[room < kv[rows, None]] = np.inf
        for i, j, end in zip(rows, finish.argmin(axis=1), finish.min(axis=1), strict=True):
            if limited and room[j] < kv[i]:  # others of its step took the room
                end = np.where(room < kv[i], np.inf, added + alone[i])  # noqa: PLW2901
                j, end = end.argmin(), end.min()  # noqa: PLW2901
            if end == np.inf:
                return None
            assignment[i] = j
            added[j] += cost[i, j]
            room[j] -= kv[i]
    return assignment
