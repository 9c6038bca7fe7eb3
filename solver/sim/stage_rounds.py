"""How many of a stage's decode rounds are over at some time: rounds get longer as contexts grow."""

from __future__ import annotations

from solver.batching.sequence import Stage
from solver.cost.model import CostModel, root


def rounds_by(stage: Stage, cost: CostModel, passed_s: float) -> tuple[int, int]:
    """Rounds that are over `passed_s` after a stage began, and that are over or have begun."""
    grows = cost.gamma_d_s * len(stage.decode) / 2  # a round, over half the one before
    first = stage.duration_s(cost, 1) - grows
    exact = root(passed_s, first, grows)
    begun = max(1, round(exact))
    if stage.duration_s(cost, begun) < passed_s:  # it has been rounded down
        begun += 1
    return int(exact), begun
