"""One worker in virtual time: the live batcher, and a cost model in the place of the engine.

Decode rounds between which nothing can change are taken as one stage. If a request comes meanwhile
that might be let in, the stage is cut at the end of the round under way, where a live engine would
have asked again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt

from solver.batching.batcher import Batcher
from solver.batching.kv import PrefixCache
from solver.batching.policy import IterationPolicy
from solver.batching.queue import make_queue
from solver.batching.sequence import Sequence, Stage
from solver.cost.model import Action, CostModel
from solver.lengths.distribution import LengthDistribution
from solver.routing.dispatchers.base import Arrival
from solver.routing.problem import WorkerView
from solver.routing.rolling import lead
from solver.sim.request import Request
from solver.sim.schedule import ScheduleLine, StageKind
from solver.sim.token_gaps import Running, TokenGaps

# A limit on lengths that nobody reaches.
NO_LIMIT = 2**40
# What is left of running requests is predicted again after so many rounds: seconds of engine time.
ROUNDS = 16
Record = Callable[[ScheduleLine], None]


@dataclass(frozen=True, slots=True)
class WorkerSetting:
    """What all workers of a simulation are like, but for their cost models.

    Attributes:
        slots: sequences at once.
        kv_tokens: cached tokens that fit; infinite: no limit.
        prefill_budget: most prompt tokens in one iteration.
        order: of the queue; see `solver.batching.queue`.
        prefix_cache: keep blocks of earlier prompts.
    """

    slots: int
    kv_tokens: float = inf
    prefill_budget: float = inf
    order: str = "longest"
    prefix_cache: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a worker had to do at a time, in seconds.

    As of which change, and of how many rounds in the stage under way.
    """

    version: int
    rounds: int
    at_s: float
    backlog_s: float
    prefill_s: float


class Worker:
    """See the module.

    Attributes:
        in_flight: requests given to it that have not ended.
        stage_end_s: when the stage under way ends; infinite if there is none.
        now_s: the time as of which it tells what it holds; kept by whoever drives it.
        cached_prompt: prompt tokens found in the prefix cache when their requests were admitted.
        changed: counts every change of what it has to do.
    """

    def __init__(
        self,
        name: str,
        cost: CostModel,
        setting: WorkerSetting,
        policy: IterationPolicy,
        record: Record | None = None,
    ) -> None:
        self.name, self.cost, self.setting = name, cost, setting
        self.round_s = cost.decode_s(setting.slots)
        self.batcher = Batcher(
            setting.slots,
            setting.kv_tokens,
            cost,
            policy,
            0.0,
            waiting=make_queue(setting.order, setting.slots, self.round_s),
            prefill_budget=setting.prefill_budget,
            cache=PrefixCache() if setting.prefix_cache else None,
        )
        self.stages = dict.fromkeys(StageKind, 0)
        self.stage_end_s = inf
        self.now_s = 0.0
        self.cached_prompt = 0
        self.changed = 0
        self._record = record
        self._requests: dict[str, Running] = {}
        self._stage: Stage | None = None
        self._rounds = 0
        self._start_s = 0.0
        self._ends: list[tuple[int, int, str, Sequence]] = []  # by round, of what now decodes
        self._gaps = TokenGaps()
        self._joined: list[tuple[Sequence, int]] = []  # decode from the next round on; restarts
        self._estimate = Estimate(-1, 0, 0.0, 0.0, 0.0)

    @property
    def in_flight(self) -> int:
        """Requests here, queued or running."""
        return len(self._requests)

    @property
    def tokens(self) -> int:
        """Tokens in memory, and prompts that wait for it: what routers count as load."""
        batcher, stage = self.batcher, self._stage
        made = 0 if stage is None else len(stage.decode) * self._rounds_over()
        return batcher.kv_held + made + batcher.queued_prompt

    @property
    def free_slots(self) -> int:
        """Requests that it could start at once; 0 where memory is full."""
        return 0 if self.tokens >= self.setting.kv_tokens else self.setting.slots - self.in_flight

    @property
    def room(self) -> int:
        """Requests that it could start soon: free slots and a lead, 0 where memory is full."""
        if self.tokens >= self.setting.kv_tokens:
            return 0
        return self.setting.slots + lead(self.setting.slots) - self.in_flight

    def cached_tokens(self, arrival: Arrival) -> int:
        """Of its prompt, what this worker would not have to prefill."""
        cache = self.batcher.cache
        return 0 if cache is None else cache.match(arrival.hash_ids, arrival.prompt_tokens)

    def view(self, now: float) -> WorkerView:
        """As the planner sees it; estimates are made anew when what it has to do has changed."""
        self.now_s = now
        rounds = self._rounds_over()
        if self._estimate.version != self.changed or rounds >= self._estimate.rounds + ROUNDS:
            self._estimate = Estimate(
                self.changed,
                rounds,
                now,
                self.batcher.backlog_s(rounds),
                self.cost.beta_p_s * self.batcher.prompt_to_prefill,
            )
        prefilling = self._stage is not None and self._stage.prefill
        known, limit = self._estimate, self.setting.kv_tokens
        return WorkerView(
            cost=self.cost,
            slots=self.setting.slots,
            in_flight=len(self._requests),
            backlog_s=max(0.0, known.backlog_s - (now - known.at_s)),
            prefill_s=max(0.0, known.prefill_s - (now - known.at_s if prefilling else 0.0)),
            kv_free=None if limit == inf else limit - self.tokens,
        )

    def submit(
        self,
        request: Request,
        number: int,
        expected_tokens: float,
        now: float,
        lengths: LengthDistribution | None = None,
    ) -> None:
        """Queue a request; it may cut the stage under way short."""
        self._requests[request.id] = Running(request, number)
        self.batcher.add(
            Sequence(
                request.id,
                request.prompt_tokens,
                expected_tokens,
                NO_LIMIT,
                request.arrival_s,
                request.hash_ids,
                request.priority,
                request.due_s,
                lengths,
                request.targets,
            ),
            now,
        )
        self.changed += 1
        if self._rounds > 1 and self.batcher.running < self.setting.slots:
            self._cut(now)

    def start(self, now: float) -> bool:
        """Begin the next stage, if none is under way and there is something to do."""
        if self._stage is not None or not self._requests:
            return False
        stage = self.batcher.next_stage(now, self._rounds_to_next_end())
        if stage is None:
            return False
        for chunk in stage.prefill:
            if not chunk.sequence.prefilled and not chunk.sequence.restarts:
                self._requests[chunk.sequence.id].begun_s = now
        for key in stage.preempted:
            self._requests[key].pause(self._gaps)
        self.changed += 1
        self._stage, self._rounds, self._start_s = stage, stage.rounds, now
        self.stage_end_s = now + stage.duration_s(self.cost)
        return True

    def finish(self) -> list[Running]:
        """The stage under way is over; those who made their last token in it."""
        stage, now = self._stage, self.stage_end_s
        assert stage is not None
        ended = self._ended(stage)
        if stage.decode:
            self._note_tokens(stage)
        for chunk in stage.prefill:
            if not chunk.sequence.prefilled and not chunk.sequence.restarts:
                self.cached_prompt += chunk.sequence.cached
        if self._record is not None:
            self._record(self._line(stage))
        self.stages[StageKind(stage.action.value)] += self._rounds
        before = self.batcher.progress.rounds
        self.batcher.finish_stage(stage, [s.id for s in ended], now, self._rounds)
        self._follow(stage)
        assert self.batcher.progress.rounds == before + (self._rounds if stage.decode else 0)
        self._stage, self._rounds, self.stage_end_s = None, 0, inf
        self.changed += 1
        gone = [self._requests.pop(sequence.id) for sequence in ended]
        for running in gone:
            running.pause(self._gaps)
        return gone

    def _rounds_to_next_end(self) -> int:
        ends = self._ends
        while ends and ends[0][3].restarts != ends[0][1]:
            heapq.heappop(ends)  # it was preempted
        return ends[0][0] - self.batcher.progress.rounds if ends else 1

    def _ended(self, stage: Stage) -> list[Sequence]:
        """Those whose last token this stage makes."""
        ended: list[Sequence] = []
        if stage.decode:
            last = self.batcher.progress.rounds + self._rounds
            while self._ends and self._ends[0][0] <= last:
                _, restarts, _, sequence = heapq.heappop(self._ends)
                if sequence.restarts == restarts:
                    ended.append(sequence)
        return ended

    def _note_tokens(self, stage: Stage) -> None:
        rounds, end_s = self._rounds, self.stage_end_s
        first_s, last_s = end_s, end_s - self._start_s
        if rounds > 1:
            first_s = self._start_s + stage.duration_s(self.cost, 1)
            last_s -= stage.duration_s(self.cost, rounds - 1)
        number = self.batcher.progress.rounds + 1
        self._gaps.note(number, first_s, rounds, end_s, last_s)
        for sequence, restarts in self._joined:
            if sequence.restarts == restarts:
                self._requests[sequence.id].go_on(number, first_s)
        self._joined.clear()

    def _follow(self, stage: Stage) -> None:
        """Those whose prefill is over decode from now on."""
        for chunk in stage.prefill:
            if chunk.last:
                sequence = chunk.sequence
                left = self._requests[sequence.id].request.output_tokens - sequence.made
                end = self.batcher.progress.rounds + left
                heapq.heappush(self._ends, (end, sequence.restarts, sequence.id, sequence))
                self._joined.append((sequence, sequence.restarts))

    def _rounds_over(self) -> int:
        """Of the decode stage under way, the rounds that are over; none of a single round."""
        return self._rounds_by(self.now_s)[0] if self._rounds > 1 else 0

    def _rounds_by(self, now: float) -> tuple[int, int]:
        """Rounds of the stage under way that are over, and that are over or have begun."""
        stage = self._stage
        assert stage is not None
        passed = now - self._start_s
        grows = self.cost.gamma_d_s * len(stage.decode) / 2  # a round, over half the one before
        first = stage.duration_s(self.cost, 1) - grows
        exact = passed / first
        if grows:
            exact = (sqrt(first**2 + 4 * grows * passed) - first) / (2 * grows)
        begun = max(1, round(exact))
        if stage.duration_s(self.cost, begun) < passed:  # it has been rounded down
            begun += 1
        return min(int(exact), self._rounds - 1), begun

    def _cut(self, now: float) -> None:
        """End the decode stage with the round that is under way."""
        stage, rounds = self._stage, self._rounds_by(now)[1]
        assert stage is not None
        if rounds < self._rounds:
            self._rounds = rounds
            self.stage_end_s = self._start_s + stage.duration_s(self.cost, rounds)

    def _line(self, stage: Stage) -> ScheduleLine:
        sequences = stage.sequences
        return ScheduleLine(
            worker=self.name,
            kind=StageKind(stage.action.value),
            start_s=self._start_s,
            end_s=self.stage_end_s,
            rounds=self._rounds if stage.action is Action.DECODE else 1,
            prefill={chunk.sequence.id: chunk.tokens for chunk in stage.prefill},
            decode=tuple(sequence.id for sequence in stage.decode),
            slots={sequence.id: sequence.slot for sequence in sequences},
            cached={
                chunk.sequence.id: chunk.sequence.cached
                for chunk in stage.prefill
                if chunk.sequence.cached and not chunk.sequence.prefilled
            },
            preempted=stage.preempted,
        )
