"""A window of one request: plain numbers and arrays come to the same decision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.routing import assign as assigning
from solver.routing.assign import assign
from solver.routing.columns import Load, Requests
from solver.routing.joint import Question
from solver.routing.objective import ALL, Pairs
from solver.routing.single import FEW, value
from tests.solver.routing.windows import question

ALONE = st.builds(question, st.just(1), st.integers(1, FEW), st.integers(0, 1 << 32))


@given(ALONE)
@settings(deadline=None, max_examples=60)
def test_plain_numbers_are_those_of_the_arrays_to_the_last_bit(asked: Question) -> None:
    costs, able = value(asked.requests, asked.load)
    pairs, nothing = Pairs(asked.requests, asked.load), np.zeros((3, len(able)))
    assert costs == pairs.costs(ALL, ALL, nothing)[0].tolist()
    assert able == pairs.is_open(ALL, nothing).tolist()


@given(ALONE)
@settings(deadline=None, max_examples=60)
def test_the_decision_is_the_same(asked: Question) -> None:
    alone = assign(asked.requests, asked.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assigning, "is_single", _never)
        usual = assign(asked.requests, asked.load)
    assert (alone.workers, alone.go, alone.planned) == (usual.workers, usual.go, usual.planned)
    assert (alone.total_s, alone.bound_s) == (usual.total_s, usual.bound_s)
    assert alone.cost_s.tolist() == usual.cost_s.tolist()


def _never(_: Requests, __: Load) -> bool:
    return False
