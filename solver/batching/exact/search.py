"""The optimum of `solver.batching.exact.mip` by search: 50 ms for eight requests on three slots.

By the formula of `solver.batching.exact.case` the makespan depends on two counts, prefill stages
and decode rounds. A state is how many tokens each request in a slot still has to make, and who
waits; a step decodes until some slots have fallen free, and runs a prefill stage. Rules that keep
an optimum:
- a stage comes as soon as the last of its slots is free: between, waiting changes nothing;
- once everybody who waits has a slot, nothing is worth waiting for;
- without a budget a stage fills all free slots (why: `EngineCase.most_bins`).

Branches are cut by what the rest takes at least, the terms of `engine_bound`, and where the same
state was reached no later. Ten requests on three slots take 2 s, twelve 40 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import ceil, inf

from solver.batching.exact.case import EngineCase, EngineSchedule, Placement
from solver.cost.model import CostModel

# A stage: decode rounds since the one before, and who enters.
Step = tuple[int, tuple[int, ...]]
# Tokens still to be made by each request in a slot, ascending; and who waits.
State = tuple[tuple[int, ...], tuple[int, ...]]


def solve(
    requests: Sequence[tuple[int, int]],
    slots: int,
    cost: CostModel,
    *,
    prefill_budget: float = inf,
) -> EngineSchedule:
    """The schedule with the shortest makespan, of requests as (prompt tokens, output tokens).

    Raises:
        ProblemError: if the input makes no sense, or the cost model has terms beyond the paper's.
        InfeasibleProblem: if a prompt is above the budget.
    """
    case = EngineCase.of(requests, slots, cost, prefill_budget)
    search = _Search(case)
    longest_first = sorted(range(case.requests), key=lambda i: -case.output[i])
    search.visit(((), tuple(longest_first)), 0.0, ())
    return case.schedule(_placements(case, search.best))


class _Search:
    """Depth first, with the best schedule so far.

    `best_s` and `spent_s` count seconds in stages and rounds, without those in tokens.
    """

    def __init__(self, case: EngineCase) -> None:
        self.case = case
        self.best: tuple[Step, ...] = ()
        self.best_s = inf
        self._reached_s: dict[State, float] = {}
        self._output, self._slots = case.output, case.slots
        self._alpha_p_s, self._alpha_d_s = case.cost.alpha_p_s, case.cost.alpha_d_s
        self._may_leave_free = case.budget_binds

    def visit(self, state: State, spent_s: float, steps: tuple[Step, ...]) -> None:
        """Try all that may follow `steps`, which have led to `state`."""
        if spent_s + self._least_s(state) >= self.best_s:
            return
        if self._reached_s.get(state, inf) <= spent_s:
            return
        self._reached_s[state] = spent_s
        _, waiting = state
        if not waiting:  # the bound is exact now
            self.best, self.best_s = steps, spent_s + self._least_s(state)
            return
        for step, after in self._steps(state):
            step_s = self._alpha_p_s + self._alpha_d_s * step[0]
            self.visit(after, spent_s + step_s, (*steps, step))

    def _least_s(self, state: State) -> float:
        """Seconds in stages and rounds that the rest takes at least."""
        left, waiting = state
        tokens = [*left, *[self._output[i] for i in waiting]]
        rounds = max(ceil(sum(tokens) / self._slots), *tokens)
        return self._alpha_p_s * ceil(len(waiting) / self._slots) + self._alpha_d_s * rounds

    def _steps(self, state: State) -> Iterator[tuple[Step, State]]:
        left, waiting = state
        for rounds in sorted({0, *left}):
            still = [tokens - rounds for tokens in left if tokens > rounds]
            free = self._slots - len(still)
            for entering in self._groups(waiting, free):
                running = sorted(still + [self._output[i] for i in entering])
                others = tuple([i for i in waiting if i not in entering])
                yield (rounds, entering), (tuple(running), others)
            if free >= len(waiting):
                return

    def _groups(self, waiting: tuple[int, ...], free: int) -> Iterator[tuple[int, ...]]:
        """Who may enter together on so many free slots."""
        most = min(free, len(waiting))
        if most == 0:
            return
        if not self._may_leave_free:
            yield from combinations(waiting, most)
            return
        for count in range(most, 0, -1):
            for group in combinations(waiting, count):
                if sum(self.case.prompt[i] for i in group) <= self.case.prefill_budget:
                    yield group


def _placements(case: EngineCase, steps: Sequence[Step]) -> list[Placement]:
    """Give the requests that enter slots that are free then."""
    free_at = [0] * case.slots
    chosen: dict[int, Placement] = {}
    now = 0
    for k, (rounds, entering) in enumerate(steps):
        now += rounds
        free = [slot for slot in range(case.slots) if free_at[slot] <= now]
        for i, slot in zip(entering, free, strict=False):
            chosen[i] = Placement(slot, k)
            free_at[slot] = now + case.output[i]
    return [chosen[i] for i in range(case.requests)]
