"""Few requests on few workers: plain numbers and arrays come to the same plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.routing import assign as assigning
from solver.routing.assign import assign
from solver.routing.columns import Load, Requests
from solver.routing.few import MOST_WORKERS, NOTHING, FewPairs
from solver.routing.joint import Question
from solver.routing.objective import ALL, Pairs
from tests.solver.routing.windows import question

# Those that are decided on in plain numbers: one request, or a handful.
FEW = st.builds(question, st.just(1), st.integers(1, MOST_WORKERS), st.integers(0, 1 << 32)) | (
    st.builds(question, st.integers(1, 16), st.integers(1, 2), st.integers(0, 1 << 32))
)


@given(FEW)
@settings(deadline=None, max_examples=60)
def test_plain_numbers_are_those_of_the_arrays_to_the_last_bit(asked: Question) -> None:
    few, pairs = FewPairs(asked.requests, asked.load), Pairs(asked.requests, asked.load)
    nothing = np.zeros((3, pairs.m))
    found = [few.costs(i, [NOTHING] * pairs.m) for i in range(pairs.n)]
    assert found == pairs.costs(ALL, ALL, nothing).tolist()
    may = pairs.is_open(ALL, nothing).tolist()
    assert [few.is_open(j, NOTHING) for j in range(pairs.m)] == may


@given(FEW)
@settings(deadline=None, max_examples=60)
def test_the_plan_is_the_same(asked: Question) -> None:
    few = assign(asked.requests, asked.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assigning, "are_few", _never)
        usual = assign(asked.requests, asked.load)
    assert (few.workers, few.go, few.planned) == (usual.workers, usual.go, usual.planned)
    assert few.cost_s.tolist() == usual.cost_s.tolist()
    assert few.bound_s == usual.bound_s


def _never(_: Requests, __: Load) -> bool:
    return False
