"""Lower bounds that no feasible schedule can beat (README section 3).

A bound that a schedule beats is a defect, however close it looks, so each one here is a plain
relaxation: its docstring says of what.
"""

from __future__ import annotations

import numpy as np

from solver.arrays import FloatArray
from solver.packing.problem import Problem


def packing_bound(problem: Problem) -> float:
    """Seconds before which the new work of `problem` cannot be finished, wherever it goes.

    Every request must be eligible somewhere.
    """
    if problem.requests == 0:
        return 0.0
    related = problem.related
    if related is not None:
        work, speed = related.work_s, 1.0 / related.slowness
    else:
        speed = relative_speeds(problem)
        # Request i costs worker j at least work[i] / speed[j], whatever the matrix looks like.
        work = (problem.cost_s * speed).min(axis=1)
    if problem.related_form is not None:
        longest = float((problem.initial_s + work.max() / speed).min())
    else:
        longest = float(problem.alone_s.min(axis=1).max())
    spread = _fill(problem.initial_s, speed, float(work.sum()))
    return max(longest, spread, _sharing_bound(problem, speed, work))


def relative_speeds(problem: Problem) -> FloatArray:
    """(m,) a speed per worker, the fastest about 1: exact if costs are `work / speed`."""
    least = problem.cost_s.min(axis=1, keepdims=True)
    dear = least[:, 0] > 0  # what costs nothing somewhere says nothing of speeds
    ratio = problem.cost_s[dear] / least[dear]
    if not len(ratio):
        return np.ones(problem.workers)
    if np.isfinite(ratio).all():
        return np.asarray(1.0 / np.median(ratio, axis=0), dtype=np.float64)
    ratio[~np.isfinite(ratio)] = np.nan
    idle = np.all(np.isnan(ratio), axis=0)
    ratio[:, idle] = 1.0  # a worker that may serve nothing: its speed does not matter
    return np.asarray(1.0 / np.nanmedian(ratio, axis=0), dtype=np.float64)


def _fill(initial: FloatArray, speed: FloatArray, work: float) -> float:
    """The time T at which ``sum(speed * max(0, T - initial))`` reaches `work`: work made liquid."""
    order = np.argsort(initial)
    start, rate = initial[order], speed[order].cumsum()
    done = (speed[order] * start).cumsum()
    level = (work + done) / rate  # T if just the first k workers take part
    open_until = np.append(start[1:], np.inf)
    return float(level[int(np.argmax(level <= open_until))])


def _sharing_bound(problem: Problem, speed: FloatArray, work: FloatArray) -> float:
    """Pigeonhole: of the k*m + 1 largest requests, some worker gets k + 1."""
    m = problem.workers
    largest = np.sort(work)[::-1]
    best = 0.0
    for k in range(1, 4):
        if problem.requests <= k * m:
            break
        together = float(largest[k * m - k : k * m + 1].sum())
        best = max(best, float((problem.initial_s + together / speed).min()))
    return best
