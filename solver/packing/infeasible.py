"""Problems that have no plan, and which request is to be named for it."""

from __future__ import annotations

import numpy as np

from solver.errors import InfeasibleProblem
from solver.packing.problem import Problem


def require_placeable(problem: Problem) -> None:
    """Refuse what cannot have a plan for a plain reason.

    Raises:
        InfeasibleProblem: naming a request that cannot be placed.
    """
    if problem.matrix_s is None and not problem.memory_limited:
        return
    fits = problem.eligible
    if problem.memory_limited:
        fits = fits & (problem.kv_tokens[:, None] <= problem.kv_capacity)
    homeless = np.flatnonzero(~fits.any(axis=1))
    if len(homeless):
        i = int(homeless[0])
        why = "does not fit into any eligible worker's memory"
        if not problem.eligible[i].any():
            why = "has no eligible worker"
        raise InfeasibleProblem(f"request {i} {why}", request=i)
    if problem.memory_limited and problem.kv_tokens.sum() > problem.kv_capacity.sum():
        raise jointly_infeasible(problem)


def jointly_infeasible(problem: Problem) -> InfeasibleProblem:
    """All requests together do not fit; named is who finds no room if the largest go first."""
    room, left_out = problem.kv_capacity.copy(), 0
    for i in np.argsort(-problem.kv_tokens, kind="stable").tolist():
        free = np.where(problem.eligible[i], room, -np.inf)
        j = int(free.argmax())
        left_out = i
        if free[j] < problem.kv_tokens[i]:
            break
        room[j] -= problem.kv_tokens[i]
    need, have = problem.kv_tokens.sum(), problem.kv_capacity.sum()
    return InfeasibleProblem(
        f"the requests do not fit into the workers' memory together: they need {need:g} tokens of "
        f"{have:g}, and request {left_out} finds no room beside the others",
        request=left_out,
    )
