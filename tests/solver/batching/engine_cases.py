"""Tiny engines for which the optimum is known: seeded cases, and two ways to check a schedule.

Both know nothing of bins, bounds or dominance: one tries all that an engine can do, round by round,
the other does what a schedule says.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from math import inf

from solver.batching.exact.case import EngineSchedule
from solver.cost.model import CostModel

Requests = list[tuple[int, int]]
# Tokens still to be made in each busy slot, ascending; and who waits.
State = tuple[tuple[int, ...], tuple[int, ...]]

# LLaMA-65B on eight Ascend 64 GB (arXiv:2502.15763 section V-A).
LLAMA_65B = CostModel(alpha_p_s=0.025, beta_p_s=0.00013, alpha_d_s=0.029, beta_d_s=0.00021)


def engine_cases(seed: int, count: int, requests: int = 8) -> list[Requests]:
    """(prompt tokens, output tokens) of each request, drawn uniformly; meant for three slots."""
    rng = random.Random(seed)
    return [
        [(rng.randint(20, 150), rng.randint(5, 60)) for _ in range(requests)] for _ in range(count)
    ]


def best_by_trying(
    requests: Sequence[tuple[int, int]], slots: int, cost: CostModel, budget: float = inf
) -> float:
    """The shortest makespan, by Dijkstra's algorithm over all states of the engine.

    An engine prefills some of those who wait, or makes one token in each busy slot.
    """
    start: State = ((), tuple(range(len(requests))))
    best = {start: 0.0}
    todo = [(0.0, start)]
    while todo:
        now, (busy, waiting) = heapq.heappop(todo)
        if now > best[busy, waiting]:
            continue
        if not busy and not waiting:
            return now
        for group in _subsets(waiting, slots - len(busy)):
            prompt = sum(requests[i][0] for i in group)
            if prompt <= budget:
                after = tuple(sorted([*busy, *(requests[i][1] for i in group)]))
                state = (after, tuple(i for i in waiting if i not in group))
                _reach(state, now + cost.prefill_s(prompt), best, todo)
        if busy:
            state = (tuple(left - 1 for left in busy if left > 1), waiting)
            _reach(state, now + cost.decode_s(len(busy)), best, todo)
    raise AssertionError("no schedule")


def _subsets(waiting: tuple[int, ...], most: int) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(waiting, count) for count in range(1, most + 1))


def _reach(
    state: State, now: float, best: dict[State, float], todo: list[tuple[float, State]]
) -> None:
    if now < best.get(state, inf):
        best[state] = now
        heapq.heappush(todo, (now, state))


def replay(
    requests: Sequence[tuple[int, int]],
    slots: int,
    cost: CostModel,
    schedule: EngineSchedule,
    budget: float = inf,
) -> float:
    """Seconds that it takes to do what `schedule` says; asserts that an engine can."""
    now, left = 0.0, dict.fromkeys(range(slots), 0)
    entered: list[int] = []
    for k, rounds in enumerate(schedule.rounds):
        entering = [i for i, place in enumerate(schedule.placements) if place.bin == k]
        entered += entering
        prompt = sum(requests[i][0] for i in entering)
        assert 0 < prompt <= budget
        now += cost.prefill_s(prompt)
        for i in entering:
            slot = schedule.placements[i].slot
            assert left[slot] == 0
            left[slot] = requests[i][1]
        for _ in range(rounds):
            now += cost.decode_s(sum(tokens > 0 for tokens in left.values()))
            left = {slot: max(0, tokens - 1) for slot, tokens in left.items()}
    assert sorted(entered) == list(range(len(requests)))
    assert not any(left.values())
    return now
