"""Plans come out as if every pair were valued anew in each turn, and few pairs are."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.arrays import FloatArray
from solver.cost.model import CostModel
from solver.routing.asked import Asked
from solver.routing.assign import Assignment, assign, in_turn, plan_in_turn
from solver.routing.columns import numbers
from solver.routing.few import FewPairs, Placed, SomePairs
from solver.routing.found import Cost, FewInTurn, ManyInTurn
from solver.routing.objective import ALL, Index, Pairs
from solver.routing.problem import WorkerView
from tests.solver.routing.windows import window


class Plain(ManyInTurn):
    """Values everybody anew in each turn."""

    def least(self, i: int, shut: FloatArray | None = None) -> Cost:
        costs = self._arrays.costs(i, ALL, np.array(self.placed).T)
        if shut is not None:
            costs = np.where(shut == inf, inf, costs)
        j = int(costs.argmin())
        return costs.item(j), j


def alike(asked: Asked, kinds: int) -> Asked:
    """On workers of so many kinds that differ in nothing else: costs that are equal."""
    workers = range(len(asked.known))
    known = [asked.known[j % kinds] for j in workers]
    requests, prefill_s = ([sent[j % kinds] for j in workers] for sent in asked.lately)
    return replace(asked, known=known, lately=(requests, prefill_s), placed=None, cached=None)


COST, ON = CostModel(0.02, 0.0003, 0.03, 0.001), range(16)
WINDOWS = st.builds(window, st.integers(1, 64), st.integers(1, 20), st.integers(0, 1 << 32))
ANY = WINDOWS | st.builds(alike, WINDOWS, st.integers(1, 3))


def told(plan: Assignment) -> tuple[object, ...]:
    """All of it."""
    return plan.workers, plan.go, plan.costs_s, plan.planned, plan.bound_s


@given(ANY)
@settings(max_examples=80)
def test_a_plan_is_as_if_all_were_valued_in_each_turn_to_the_last_bit(asked: Asked) -> None:
    plain = told(in_turn(Plain(Pairs(asked.requests, asked.load))))
    assert told(assign(asked.requests, asked.load)) == plain
    assert told(plan_in_turn(asked)) == plain


@given(ANY)
@settings(max_examples=30)
def test_in_plain_numbers_too_however_many_they_are(asked: Asked) -> None:
    plain = told(in_turn(Plain(Pairs(asked.requests, asked.load))))
    assert told(in_turn(FewInTurn(FewPairs(asked)))) == plain


@given(ANY)
@settings(max_examples=60)
def test_nothing_is_planned_where_nobody_is_open_and_only_there(asked: Asked) -> None:
    assert asked.open == (plan_in_turn(asked).planned > 0)


@given(ANY, st.data())
@settings(max_examples=60)
def test_nobody_costs_less_where_more_is_placed_by_not_one_bit(
    asked: Asked, data: st.DataObject
) -> None:
    """What the least that is known rests upon."""
    pairs = Pairs(asked.requests, asked.load)
    placed, costs = np.zeros((3, pairs.m)), pairs.costs_at_first()
    for _ in range(6):
        j = data.draw(st.integers(0, pairs.m - 1))
        placed[:, j] += pairs.sizes(data.draw(st.integers(0, pairs.n - 1)), j)
        after = pairs.costs(ALL, ALL, placed)
        assert (after >= costs).all()
        costs = after


@pytest.mark.parametrize("kinds", [1, 3, 16])
@pytest.mark.parametrize("seed", range(4))
def test_few_pairs_are_valued_more_than_once(
    kinds: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 requests on 16 idle workers, each of which takes some: beside n m at first."""
    views = [WorkerView(COST.scaled(1 + j % kinds), 32, 0, 0.0, 0.0, None, room=36) for j in ON]
    asked = replace(alike(window(64, len(ON), seed), 1), known=list(map(numbers, views)))
    valued = [0, 0]
    in_arrays, alone = Pairs.costs, SomePairs.cost

    def costs(self: Pairs, i: Index, j: Index, placed: FloatArray) -> FloatArray:
        found = in_arrays(self, i, j, placed)
        valued[0] += found.size
        return found

    def cost(self: SomePairs, i: int, j: int, placed: Placed) -> float:
        valued[1] += 1
        return alone(self, i, j, placed)

    monkeypatch.setattr(Pairs, "costs", costs)
    monkeypatch.setattr(SomePairs, "cost", cost)
    assign(asked.requests, asked.load)
    assert 0 < valued[1] <= 64 * 16 / 4
    assert valued[0] <= 64 * 16 * 3 / 2
