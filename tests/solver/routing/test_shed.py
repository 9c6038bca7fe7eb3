"""What certainly misses: no engine, whatever its policy, does better than the floor says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.batching.sequence import Sequence, Stage
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.routing.shed import UNKNOWN, Floor, Held, Miss, Seen, find_miss, last_call_s

PAPER = CostModel(alpha_p_s=0.025, beta_p_s=0.00013, alpha_d_s=0.029, beta_d_s=0.00021)
MIXING = CostModel(0.020, 0.0001, 0.015, 0.0001, 0.00001, 0.022, 0.00009, 0.0001)
FAST = replace(PAPER, alpha_d_s=0.009)
ROUND_S, PREFILL_S = PAPER.decode_s(1), PAPER.prefill_s(1)
IDLE = Floor.of(PAPER, 4, 1)
NEW = "new"


@dataclass
class Engine:
    """A batcher in virtual time, and when each sequence got its slot, and made which token."""

    cost: CostModel
    slots: int
    policy: str
    budget: float
    now: float = 0.0
    left: dict[str, int] = field(default_factory=dict)
    tokens_s: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        policy = POLICIES[self.policy]()
        self.batcher = Batcher(self.slots, inf, self.cost, policy, 0.0, prefill_budget=self.budget)

    def add(self, key: str, prompt: int, output: int, priority: Priority) -> None:
        self.left[key] = output
        one = Sequence(key, prompt, float(output), output, self.now, priority=priority)
        self.batcher.add(one, self.now)

    def step(self) -> bool:
        """One stage; whether there was any. A prefill makes the first token, as most engines do."""
        stage = self.batcher.next_stage(self.now)
        if stage is None:
            return False
        self.now += stage.duration_s(self.cost)
        made = [one.id for one in stage.decode] + _prefilled(stage)
        for key in made:
            self.tokens_s.setdefault(key, []).append(self.now)
            self.left[key] -= 1
        self.batcher.finish_stage(stage, [key for key in made if self.left[key] <= 0], self.now)
        return True


def _prefilled(stage: Stage) -> list[str]:
    return [chunk.sequence.id for chunk in stage.prefill if chunk.last]


loads = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 40)), max_size=12)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(
    loads, st.sampled_from(Priority), st.sampled_from([PAPER, MIXING]), st.integers(1, 4),
    st.integers(0, 60), st.integers(1, 300), st.integers(2, 20), st.sampled_from([inf, 64]),
)  # fmt: skip
@settings(max_examples=60)
def test_no_policy_beats_the_floor(
    policy: str,
    load: list[tuple[int, int]],
    priority: Priority,
    cost: CostModel,
    slots: int,
    stages: int,
    prompt: int,
    output: int,
    budget: float,
) -> None:
    """The newcomer goes before all that has not begun; all that runs makes all of its tokens.

    But bulk work that runs steps back for it.
    """
    engine = Engine(cost, slots, policy, budget)
    for k, (tokens, answer) in enumerate(load):
        engine.add(str(k), tokens, answer, priority)
    for _ in range(stages):
        engine.step()
    came_s = engine.now
    held = [
        Held(answer, came_s)  # all were sent at the very beginning
        for k, (_, answer) in enumerate(load)
        if engine.tokens_s.get(str(k)) and engine.left[str(k)] > 0
        if priority is not Priority.BULK
    ]
    floor = Floor.of(cost, slots, prompt, held)
    engine.add(NEW, prompt, output, Priority.INTERACTIVE)
    while engine.step():
        pass
    first_s, *_, last_s = engine.tokens_s[NEW]
    assert first_s - came_s >= floor.wait_s + floor.prefill_s - 1e-9
    assert (last_s - first_s) / (output - 1) >= floor.round_s - 1e-9
    felt = Targets(first_s - came_s + 1e-9, (last_s - first_s) / (output - 1) + 1e-9)
    assert find_miss(felt, 0.0, [floor]) is None, "it was kept"


def test_the_floor_is_what_an_idle_engine_does() -> None:
    """No slack where nothing is unknown: one request alone, and one behind one that must go on."""
    engine = Engine(PAPER, 1, "prefill-first", inf)
    engine.add("running", 50, 20, Priority.DEFAULT)
    engine.step()
    engine.add(NEW, 70, 5, Priority.DEFAULT)
    while engine.step():
        pass
    running, new = engine.tokens_s["running"], engine.tokens_s[NEW]
    alone = Floor.of(PAPER, 1, 50)
    assert running[0] == pytest.approx(alone.prefill_s)
    assert (running[-1] - running[0]) / 19 == pytest.approx(alone.round_s)
    behind = Floor.of(PAPER, 1, 70, [Held(20, running[0])])
    unknown_s = alone.prefill_s  # it might have been cached, and the first token been there sooner
    assert behind.wait_s + behind.prefill_s == pytest.approx(new[0] - running[0] - unknown_s)


def test_a_free_slot_or_one_who_may_end_at_any_moment_is_no_wait() -> None:
    lasting = Held(1000, 0.0)
    assert Floor.of(PAPER, 2, 1, [lasting]).wait_s == 0
    assert Floor.of(PAPER, 2, 1, [lasting, Held(1, 1.0)]).wait_s == 0
    assert Floor.of(PAPER, 2, 1, [lasting, lasting]).wait_s == pytest.approx(999 * ROUND_S)


def test_what_was_seen_counts_more_than_the_cost_model() -> None:
    """Else a model that is too slow would keep away the very requests that could correct it."""
    seen = Seen(ttft_s=PREFILL_S / 5, tpot_s=ROUND_S / 10)
    floor = Floor.of(PAPER, 1, 1000, [Held(100, 0.0)], seen)
    assert (floor.prefill_s, floor.round_s) == (seen.ttft_s, seen.tpot_s)
    assert floor.wait_s == pytest.approx(99 * seen.tpot_s)
    assert Floor.of(PAPER, 1, 1000, seen=Seen(9.0, 9.0)) == Floor.of(PAPER, 1, 1000)


@pytest.mark.parametrize(
    ("targets", "waited_s", "floors", "miss"),
    [
        (NO_TARGETS, 1e6, [IDLE], None),
        (Targets(2.0, 0.1), 0.0, [], None),
        (Targets(2.0, 0.1), 0.0, [IDLE], None),
        (Targets(2.0, 0.1), 2.0 - PREFILL_S, [IDLE], None),
        (Targets(2.0, 0.1), 2.0, [IDLE], Miss("ttft", 2.0 + PREFILL_S, 0.0)),
        (Targets(2.0, 0.1), 2.1, [UNKNOWN], Miss("ttft", 2.1, 0.0)),
        (Targets(PREFILL_S), 0.0, [IDLE], None),
        (Targets(PREFILL_S / 2), 0.0, [IDLE], Miss("ttft", PREFILL_S, inf)),
        (Targets(PREFILL_S / 2), 0.0, [IDLE, UNKNOWN], None),
        (Targets(2.0, ROUND_S), 0.0, [IDLE], None),
        (Targets(2.0, ROUND_S / 2), 0.0, [IDLE], Miss("tpot", ROUND_S, inf)),
        (Targets(2.0, ROUND_S / 2), 0.0, [IDLE, Floor.of(FAST, 4, 1)], None),
        # One worker is quick enough for each target, and none for both.
        (
            Targets(2.0, ROUND_S / 2),
            0.0,
            [IDLE, replace(Floor.of(FAST, 4, 1), wait_s=5.0)],
            Miss("ttft", 5.0 + PREFILL_S, 3.0 + PREFILL_S),
        ),
        (
            Targets(2.0),
            1.0,
            [replace(IDLE, wait_s=5.0), replace(IDLE, wait_s=4.0)],
            Miss("ttft", 5.0 + PREFILL_S, 2.0 + PREFILL_S),
        ),
    ],
)
def test_a_miss_tells_what_would_do_and_when_to_come_again(
    targets: Targets, waited_s: float, floors: list[Floor], miss: Miss | None
) -> None:
    found = find_miss(targets, waited_s, floors)
    if miss is None or found is None:
        assert found == miss
        return
    assert found.target == miss.target
    assert (found.best_s, found.again_s) == pytest.approx((miss.best_s, miss.again_s))


some_s = st.floats(0.0, 10.0)
some_floors = st.lists(st.builds(Floor, some_s, some_s, some_s), min_size=1, max_size=4)
some_targets = st.builds(Targets, st.floats(0.001, 20.0), st.floats(0.001, 20.0))


@given(some_targets, some_s, some_floors, some_s)
def test_a_miss_is_for_good_and_its_words_hold(
    targets: Targets, waited_s: float, floors: list[Floor], more_s: float
) -> None:
    miss = find_miss(targets, waited_s, floors)
    if miss is None:
        if waited_s <= last_call_s(targets, floors) + 1e-9:  # sums are rounded
            return
        raise AssertionError("a request that waits longer than it may has missed")
    assert find_miss(targets, waited_s + more_s, floors), "waiting makes it no better"
    assert all(find_miss(targets, waited_s, [one]) for one in floors)
    if miss.target == "tpot":
        assert miss.best_s > targets.tpot_s
        eased = replace(targets, tpot_s=miss.best_s)
        assert find_miss(eased, 0.0, floors) != miss
    else:
        assert miss.best_s > targets.ttft_s
        assert find_miss(replace(targets, ttft_s=miss.best_s), waited_s, floors) is None
    if miss.again_s != inf:
        later = [replace(one, wait_s=max(0.0, one.wait_s - miss.again_s - 1e-9)) for one in floors]
        assert find_miss(targets, 0.0, later) is None, "sent anew by then it is in time"


@given(some_targets, some_floors)
def test_after_the_last_call_it_is_too_late_even_if_nobody_is_in_the_way(
    targets: Targets, floors: list[Floor]
) -> None:
    free = [replace(one, wait_s=0.0) for one in floors]
    call_s = last_call_s(targets, floors)
    assert find_miss(targets, max(0.0, call_s) + 1e-6, free)
    able = any(one.round_s <= targets.tpot_s for one in floors)
    if able and call_s > 1e-6:
        assert find_miss(targets, call_s - 1e-6, free) is None
