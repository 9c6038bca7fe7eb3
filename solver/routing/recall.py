"""Which requests that queue at a worker are taken back, because elsewhere they would end sooner.

Rules:
- only requests that have not begun are moved, and only to workers that could start them now;
- a move must bring the request's end forward by more than it costs: `ROUND_TRIP_S`, in which two
  messages go to the agents and the request is planned again, and the share `DOUBT` of what it would
  wait, since both ends are predictions and a request that wanders is worse than one that waits;
- the last in line is considered first: it gains most, and who stands before it loses nothing.

Must not know: clocks, connections, how requests are taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from solver.packing.problem import Problem

ROUND_TRIP_S = 0.05
DOUBT = 0.1


def find_recalls(
    problem: Problem, home: Sequence[int], sequences: Sequence[int], free_slots: Sequence[int]
) -> list[tuple[int, int]]:
    """(request, new worker) of those worth moving.

    Row i of `problem` is a request that queues at worker ``home[i]``, which is among its backlog;
    rows are in the order in which workers will take them. It needs ``sequences[i]`` slots.
    """
    position = problem.initial_s.copy()  # when the last one at each worker will be done
    added = np.zeros(problem.workers)
    left = np.array(free_slots)
    found: list[tuple[int, int]] = []
    for i in range(problem.requests - 1, -1, -1):
        h, cost, span = home[i], problem.cost_s[i], problem.span_s[i]
        behind = problem.initial_s[h] - position[h]
        stays_s = max(position[h], span[h] - cost[h] - behind)
        position[h] -= min(cost[h], position[h])
        ends = np.maximum(problem.initial_s + added + cost, span + added)
        ends[left < sequences[i]] = np.inf
        ends[h] = np.inf
        j = int(ends.argmin())
        if ends[j] + ROUND_TRIP_S + DOUBT * stays_s < stays_s:
            found.append((i, j))
            added[j] += cost[j]
            left[j] -= sequences[i]
    return found
