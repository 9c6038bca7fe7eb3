"""The simulator and the live agent loop, given the same script, take the same decisions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.agent import loop as agent
from router.agent.engines.base import Iteration
from router.agent.engines.emulated.engine import EmulatedAnswer, EmulatedEngine
from router.agent.engines.emulated.text import Words
from router.agent.loop import EngineLoop, EngineRequest
from router.agent.queue_position import QueuePosition
from router.observe.metrics import AgentMetrics
from solver.batching.batcher import Batcher
from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.batching.queue import ORDERS
from solver.batching.sequence import Stage
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.sim.request import Request
from solver.sim.worker import NO_LIMIT, Worker, WorkerSetting

PAPER = CostModel(alpha_p_s=0.025, beta_p_s=0.00013, alpha_d_s=0.029, beta_d_s=0.00021)
WORTH_WAITING = replace(PAPER, alpha_p_s=0.9)  # a stage of few is dear, so policies wait
MIXING = CostModel(0.020, 0.0001, 0.015, 0.0001, 0.00001, 0.022, 0.0001, 0.0001)
MIXES = [Priority.DEFAULT], list(Priority)


@dataclass(frozen=True)
class Decision:
    """One iteration, as it can be compared."""

    what: str
    prefill: tuple[tuple[str, int], ...]
    decode: tuple[str, ...]


@dataclass(frozen=True)
class Script:
    """Requests in the order of their arrival, called 1, 2, ...; what is expected of each."""

    requests: Sequence[Request]
    expected: Sequence[float]
    cost: CostModel
    setting: WorkerSetting
    policy: str

    def worker(self) -> Worker:
        return Worker("w0", self.cost, self.setting, POLICIES[self.policy]())


@dataclass
class Notes:
    """Takes down what a batcher is told to have happened, round by round."""

    decisions: list[Decision] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)

    def attend(self, batcher: Batcher) -> None:
        finish = batcher.finish_stage

        def listen(
            stage: Stage, ended: Sequence[str], now: float, rounds: int | None = None
        ) -> None:
            chunks = tuple((chunk.sequence.id, chunk.tokens) for chunk in stage.prefill)
            decode = tuple(sequence.id for sequence in stage.decode)
            decision = Decision(f"{stage.action} for {stage.reason}", chunks, decode)
            self.decisions += [decision] * (stage.rounds if rounds is None else rounds)
            self.ends |= dict.fromkeys(ended, now)
            finish(stage, ended, now, rounds)

        batcher.finish_stage = listen  # type: ignore[method-assign, assignment]


def simulated(script: Script) -> Notes:
    """The simulator's worker, alone: arrivals are due when they come or when a stage ends."""
    worker, notes, now = script.worker(), Notes(), 0.0
    notes.attend(worker.batcher)
    arriving = list(enumerate(zip(script.requests, script.expected, strict=True)))[::-1]
    while arriving or worker.in_flight:
        coming = arriving[-1][1][0].arrival_s if arriving else float("inf")
        now = min(worker.stage_end_s, coming)
        if worker.stage_end_s <= now:
            worker.finish()
        while arriving and arriving[-1][1][0].arrival_s <= now:
            number, (request, expected) = arriving.pop()
            worker.submit(request, number, expected, now)
        worker.start(now)
    return notes


class VirtualEngine(EmulatedEngine):
    """Takes no time but the clock's, which it moves; requests arrive while it is at work."""

    def __init__(self, script: Script) -> None:
        super().__init__(script.cost, {}, 0)
        self.now = 0.0
        self._arriving = list(zip(script.requests, script.expected, strict=True))[::-1]
        self.loop: EngineLoop | None = None

    def arrive(self, until: float) -> bool:
        """Submit all that come before `until`; whether there were any."""
        assert self.loop is not None
        count = len(self._arriving)
        while self._arriving and self._arriving[-1][0].arrival_s < until:
            request, expected = self._arriving.pop()
            answer = EmulatedAnswer(
                prompt_tokens=request.prompt_tokens,
                limit=NO_LIMIT,
                tokens=request.output_tokens,
                finish_reason="stop",
                words=Words(random.Random(0)),
            )
            job = EngineRequest([answer], request.prompt_tokens)
            position = QueuePosition(priority=request.priority, targets=request.targets)
            self.loop.submit(job, expected, request.arrival_s, position)
        return len(self._arriving) < count

    def next_arrival(self) -> float | None:
        return self._arriving[-1][0].arrival_s if self._arriving else None

    async def run(self, stage: Stage, *, resumed: bool) -> Iteration:  # noqa: ARG002
        start = self.now
        self.now = start + stage.duration_s(self.cost)
        self.arrive(self.now)
        return Iteration(start, self.now, self.next_tokens(stage))


def live(script: Script) -> Notes:
    """The agent's own loop; its clock is the engine's."""
    notes, batcher, engine = Notes(), script.worker().batcher, VirtualEngine(script)
    notes.attend(batcher)
    engine.loop = EngineLoop(batcher, engine, AgentMetrics())

    async def play() -> None:
        assert engine.loop is not None
        running = asyncio.create_task(engine.loop.run())
        while (coming := engine.next_arrival()) is not None:
            engine.now = coming
            engine.arrive(coming + 1e-12)
            await asyncio.sleep(0)  # on until there is nothing to do
            await asyncio.sleep(0)
        assert not engine.loop.broken
        running.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "time", SimpleNamespace(monotonic=lambda: engine.now))
        asyncio.run(play())
    return notes


@st.composite
def scripts(draw: st.DrawFn, policy: str) -> Script:
    lengths = draw(
        st.lists(st.tuples(st.integers(1, 900), st.integers(1, 40)), min_size=1, max_size=25)
    )
    n = len(lengths)
    gaps = st.lists(st.one_of(st.just(0.0), st.floats(0.001, 0.7)), min_size=n, max_size=n)
    times = accumulate(draw(st.one_of(st.just([0.0] * n), gaps)))
    timed = enumerate(zip(times, lengths, strict=True), start=1)
    wanted = draw(st.sampled_from([NO_TARGETS, Targets(tpot_s=0.001)]))
    kinds = st.lists(st.sampled_from(draw(st.sampled_from(MIXES))), min_size=n, max_size=n)
    requests = [
        Request(str(k), *each, at, priority=kind, wanted=None if kind is Priority.BULK else wanted)
        for (k, (at, each)), kind in zip(timed, draw(kinds), strict=True)
    ]
    known = draw(st.booleans())
    most = max(prompt + output for prompt, output in lengths)
    setting = WorkerSetting(
        slots=draw(st.integers(1, 8)),
        kv_tokens=draw(st.sampled_from([float("inf"), most, 2 * most])),
        prefill_budget=draw(st.sampled_from([float("inf"), 40])),
        order=draw(st.sampled_from(ORDERS)),
    )
    expected = [float(output) if known else 20.0 for _, output in lengths]
    cost = draw(st.sampled_from([PAPER, WORTH_WAITING, MIXING]))
    return Script(requests, expected, cost, setting, policy)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(data=st.data())
@settings(max_examples=60)
def test_simulator_and_agent_take_the_same_decisions(policy: str, data: st.DataObject) -> None:
    script = data.draw(scripts(policy))
    one, other = simulated(script), live(script)
    assert one.decisions == other.decisions
    assert one.ends == pytest.approx(other.ends)
    assert len(one.ends) == len(script.requests)
