"""Plans seen all at once cost what they cost one by one, and no less with more placed before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from solver.arrays import FloatArray, IntArray
from solver.routing.assign import Settled, assign, follow, settle
from solver.routing.check import check
from solver.routing.joint import Question
from solver.routing.objective import TERMS, Pairs
from solver.routing.turns import Turns, first
from tests.solver.routing.windows import question, questions

seeds = st.integers(0, 1 << 32)
# Sequences, seconds of prefill and prompt tokens.
placed = st.tuples(st.integers(0, 8), st.floats(0.0, 3.0), st.integers(0, 6000))


def drawn(turns: Turns, seed: int) -> IntArray:
    """Somewhere allowed, at random: (n,)."""
    chances = np.random.default_rng(seed).random((turns.n, turns.m))
    allowed = True if turns.allowed is None else turns.allowed
    return np.asarray(np.where(allowed, chances, -1.0).argmax(axis=1))


def one_by_one(question: Question, workers: IntArray) -> FloatArray:
    """(n,) what each costs when it is its turn."""
    pairs, costs = Pairs(question.requests, question.load), []
    placed = np.zeros((3, pairs.m))
    for i, j in enumerate(workers.tolist()):
        costs.append(sum(float(term[j]) for term in pairs.terms(i, slice(None), placed)))
        placed[:, j] += pairs.sizes(i, j)
    return np.array(costs)


@given(question=questions(), seed=seeds)
def test_all_at_once_and_one_by_one_are_the_same(question: Question, seed: int) -> None:
    turns = Turns(question.requests, question.load)
    plans = np.array([drawn(turns, seed), drawn(turns, seed + 1)])
    totals = [one_by_one(question, plan).sum() for plan in plans]
    np.testing.assert_allclose(turns.totals(plans), totals)


@given(question=questions())
def test_a_first_plan_is_settled_already(question: Question) -> None:
    plan = assign(question.requests, question.load)
    turns = first(question.requests, question.load, plan.planned)
    settled = settle(turns, np.array(plan.workers[: plan.planned], dtype=np.intp))
    again = follow(question.requests, question.load, settled, plan.bound_s)
    assert (again.workers, again.go, again.planned) == (plan.workers, plan.go, plan.planned)
    np.testing.assert_allclose(again.costs_s, plan.costs_s)


@given(question=questions(), count=st.integers(1, 6), placed=placed)
def test_the_first_of_a_plan_are_valued_as_in_the_whole_of_it(
    question: Question, count: int, placed: tuple[float, ...]
) -> None:
    whole = Turns(question.requests, question.load)
    few = first(question.requests, question.load, min(count, whole.n))
    before = np.tile(np.array(placed)[:, None], whole.m)
    for i in range(few.n):
        found = few.costs(i, slice(None), before)
        np.testing.assert_allclose(found, whole.costs(i, slice(None), before))


@given(question=questions(), seed=seeds)
def test_a_settled_plan_stays_and_says_what_it_costs(question: Question, seed: int) -> None:
    turns = Turns(question.requests, question.load)
    plan = settle(turns, drawn(turns, seed))
    alike(plan, settle(turns, plan.workers))
    assert plan.total_s == pytest.approx(one_by_one(question, plan.workers).sum())
    alike(settle(turns, drawn(turns, seed + 1)), settle(turns, drawn(turns, seed + 1), plan))


@example(question=question(4, 3, 512), seed=1)  # who comes to have no slot was shut out elsewhere
@example(question=question(4, 3, 601), seed=1)
@given(question=questions(), seed=seeds)
def test_whatever_is_wished_a_settled_plan_keeps_the_rules(question: Question, seed: int) -> None:
    turns = Turns(question.requests, question.load)
    plan = settle(turns, drawn(turns, seed))
    check(question, follow(question.requests, question.load, plan, 0.0))


def alike(plan: Settled, other: Settled) -> None:
    assert (plan.workers == other.workers).all()
    assert (plan.go == other.go).all()
    np.testing.assert_allclose(plan.costs, other.costs)
    assert (plan.open == other.open).all()


@pytest.mark.parametrize("term", range(len(TERMS)), ids=TERMS)
@given(question=questions(), some=placed, more=placed)
def test_no_term_falls_with_what_is_placed_before(
    term: int, question: Question, some: tuple[float, ...], more: tuple[float, ...]
) -> None:
    turns = Turns(question.requests, question.load)
    i, j = (index.ravel() for index in np.indices((turns.n, turns.m)))
    before = np.tile(np.array(some)[:, None], len(i))
    after = before + np.array(more)[:, None]
    little = turns.terms(i, j, before)[term]
    terms = turns.terms(i, j, after)
    rounding = 1e-9 * np.sum(terms, axis=0)  # one term is what another leaves of a sum
    assert (terms[term] >= little - rounding).all()
