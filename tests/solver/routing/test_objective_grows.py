"""Every term of the objective grows, or stays, with what was placed before: bounds rest on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.routing.joint import Question
from solver.routing.objective import TERMS
from solver.routing.turns import Turns
from tests.solver.routing.windows import questions

# Sequences, seconds of prefill and prompt tokens.
placed = st.tuples(st.integers(0, 8), st.floats(0.0, 3.0), st.integers(0, 6000))


@pytest.mark.parametrize("term", range(len(TERMS)), ids=TERMS)
@given(question=questions(), some=placed, more=placed)
def test_no_term_falls(
    term: int,
    question: Question,
    some: tuple[float, ...],
    more: tuple[float, ...],
) -> None:
    turns = Turns(question.requests, question.load)
    i, j = turns.pairs()
    first = np.tile(np.array(some)[:, None], len(i))
    both = first + np.array(more)[:, None]
    before = turns.terms(i, j, turns.seen(j, first))[term]
    after = turns.terms(i, j, turns.seen(j, both))[term]
    assert (after >= before * (1 - 1e-9)).all()
