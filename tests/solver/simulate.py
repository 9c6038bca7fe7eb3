"""Drive a `Batcher` in virtual time, as the simulator will: the agent's core without an agent."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from solver.batching import Batcher, Sequence, Stage
from solver.cost import CostModel
from solver.iteration import POLICIES, Action


@dataclass
class Result:
    """What happened; `ends` is when each request ended."""

    batcher: Batcher
    makespan_s: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)
    peak_kv: int = 0


def run(
    requests: Many[tuple[int, int]],
    cost: CostModel,
    *,
    slots: int,
    policy: str,
    kv_tokens: int = 10**9,
    known: bool = False,
    concurrency: int | None = None,
) -> Result:
    """(prompt, output) tokens; all at once, or `concurrency` at a time in a closed loop."""
    result = Result(Batcher(slots, kv_tokens, cost, POLICIES[policy](), 0.0))
    batcher, now = result.batcher, 0.0
    todo = list(enumerate(requests))[::-1]
    mean = sum(output for _, output in requests) / len(requests)

    def add() -> None:
        if todo:
            k, (prompt, output) = todo.pop()
            expected = float(output) if known else mean
            limit = max(output, 512)
            batcher.add(Sequence(str(k), prompt, expected, limit, now), now)

    for _ in range(concurrency or len(requests)):
        add()
    while (stage := batcher.next_stage(now)) is not None:
        now += stage.duration_s(cost)
        ended = []
        if stage.action is Action.DECODE:
            ended = [s.id for s in stage.sequences if s.made + 1 == requests[int(s.id)][1]]
        batcher.finish_stage(stage, ended, now)
        result.stages.append(stage)
        result.peak_kv = max(result.peak_kv, batcher.kv_held)
        for key in ended:
            result.ends[key] = now
            add()
    result.makespan_s = now
    return result
