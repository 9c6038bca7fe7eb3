"""An engine that queues for itself is told the same as one whose queue is ours."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import pytest

from solver.batching.batcher import Batcher
from solver.batching.outside.follow import (
    ROUNDS_A_SAMPLE,
    STEADY,
    Follower,
    Iteration,
    UnprefilledRequests,
)
from solver.batching.policies import POLICIES
from solver.batching.policy import Decision, EngineView, IterationPolicy
from solver.batching.sequence import Sequence
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import Action, CostModel
from solver.cost.online import OnlineFit
from solver.cost.profiles import PROFILES

SLOTS, BUDGET = 8, 512.0
COSTS = {
    "exclusive": PROFILES["llama-65b-ascend"].cost,
    "mixed": PROFILES["llama-2-70b-a100-tp4"].cost,
}


class Shadowed:
    """Asks a follower each time that the batcher asks for a decision, and compares."""

    def __init__(self, policy: IterationPolicy, follower: Follower) -> None:
        self.policy, self.follower = policy, follower
        self.batcher: Batcher | None = None
        self.decisions = 0

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        decision = self.policy.decide(view, cost)
        assert self.batcher is not None
        begun = len(self.batcher._table.prefilling)
        told = UnprefilledRequests(view.admissible, view.waiting, view.prompt_tokens, begun)
        assert self.follower.decide(told) == decision
        followed = len(self.follower.decoding), self.follower.kv_decoding
        assert followed == (view.decoding, view.kv_held)
        self.decisions += 1
        return decision


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("targets", [NO_TARGETS, Targets(tpot_s=0.01)], ids=["bulk", "targets"])
def test_the_follower_decides_as_the_batcher_does(name: str, kind: str, targets: Targets) -> None:
    cost, rng = COSTS[kind], random.Random(5)
    follower = Follower(SLOTS, inf, BUDGET, POLICIES[name](), cost)
    policy = Shadowed(POLICIES[name](), follower)
    batcher = Batcher(SLOTS, inf, cost, policy, 0.0, prefill_budget=BUDGET)
    policy.batcher = batcher
    outputs = [rng.randint(1, 60) for _ in range(80)]
    for k, output in enumerate(outputs):
        expected = max(1.0, output * rng.uniform(0.5, 2.0))
        prompt = rng.randint(5, 900)
        batcher.add(Sequence(str(k), prompt, expected, 64, 0.0, targets=targets), 0.0)
    now, copies = 0.0, dict[str, Sequence]()
    while (stage := batcher.next_stage(now)) is not None:
        took = stage.duration_s(cost)
        now += took
        follower.end_iteration(
            follower.begin_iteration(stage.prompt_tokens, len(stage.decode)), took
        )
        for chunk in stage.prefill:
            if chunk.last:
                copies[chunk.sequence.id] = replace(chunk.sequence)
        joined = [chunk.sequence.id for chunk in stage.prefill if chunk.last]
        made = {s.id: batcher.progress.made(s) + 1 for s in stage.decode}
        ended = [key for key, count in made.items() if count == outputs[int(key)]]
        batcher.finish_stage(stage, ended, now)
        for key in joined:
            follower.join(copies[key])
        for key in ended:
            follower.leave(copies.pop(key), ended=True)
    assert policy.decisions > len(outputs) / SLOTS
    assert (follower.decoding, follower.kv_decoding, copies) == ({}, 0, {})


def test_the_engine_may_correct_what_a_sequence_has_made() -> None:
    follower = Follower(2, inf, BUDGET, POLICIES["adaptive"](), COSTS["mixed"])
    sequence = Sequence("a", 10, 100.0, 100, 0.0, made=1)
    follower.join(sequence)
    follower.begin_iteration(0, 1)
    assert follower.progress.made(sequence) == 2
    follower.correct(sequence, 7)
    assert follower.progress.made(sequence) == 7
    assert follower.kv_decoding == 17
    assert follower.begin_iteration(0, 1).action is Action.DECODE
    assert follower.progress.finishes == 0


def test_until_it_knows_anything_it_says_what_it_was_told() -> None:
    told = COSTS["mixed"]
    follower = Follower(4, inf, BUDGET, POLICIES["adaptive"](), told, OnlineFit(told))
    for _ in range(ROUNDS_A_SAMPLE * STEADY - 1):
        follower.end_iteration(Iteration(0, 4, 100), 0.02)
        assert follower.cost == told
    follower.end_iteration(Iteration(0, 4, 100), 0.02)
    assert follower.cost.decode_s(4, 100) == pytest.approx(0.02, rel=0.05)
