"""How many rounds of a decode stage are over is as if they were counted, however times grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from solver.batching.sequence import Reason, Sequence, Stage
from solver.cost.model import Action, CostModel
from solver.sim.stage_rounds import rounds_by

# Seconds a cached token: none, what real engines have, and what is lost beside a round's own time.
gammas = st.one_of(st.floats(0.0, 1e-4), st.floats(0.0, 1e-12), st.sampled_from([1e-49, 5e-324]))


@given(gammas, st.integers(1, 200), st.integers(1, 10**6), st.integers(1, 5000), st.floats(0, 1))
def test_rounds_are_those_that_counting_finds(
    gamma: float, batch: int, context: int, rounds: int, part: float
) -> None:
    cost = CostModel(0.01, 1e-4, 0.02, 1e-4, gamma)
    decode = tuple(Sequence(str(k), 1, 1.0, 1, 0.0) for k in range(batch))
    stage = Stage(Action.DECODE, Reason.ENGINE_IDLE, (), decode, context * batch, 2 * rounds)
    before_s, after_s = stage.duration_s(cost, rounds - 1), stage.duration_s(cost, rounds)
    inside_s = before_s + (after_s - before_s) * (0.01 + 0.98 * part)
    assert rounds_by(stage, cost, inside_s) == (rounds - 1, rounds)
    assert rounds_by(stage, cost, after_s)[1] == rounds, "it ends then, and none begins"
