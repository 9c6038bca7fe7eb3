"""One worker in virtual time: the live batcher, and a cost model in the place of the engine.

Decode rounds between which nothing can change are taken as one stage. If a request comes meanwhile
that might be let in, the stage is cut at the end of the round under way, where a live engine would
have asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from solver.batching.batcher import Batcher
from solver.batching.kv import PrefixCache
from solver.batching.policy import IterationPolicy
from solver.batching.queue import make_queue
from solver.batching.sequence import Sequence, Stage
from solver.batching.stepping_back import BulkLoad
from solver.cost.model import Action, CostModel
from solver.lengths.distribution import LengthDistribution
from solver.routing.dispatchers.base import Arrival
from solver.routing.fair import Turn
from solver.routing.problem import Job, WorkerView, room_now
from solver.routing.rolling import lead
from solver.sim.cache_views import CacheView, cache_view
from solver.sim.decoding import NOT_DECODING, Decoding, Running
from solver.sim.request import Request
from solver.sim.schedule import ScheduleLine
from solver.sim.stage_rounds import rounds_by

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
        cache_knowledge: what dispatchers know of them; see `solver.sim.cache_views`.
    """

    slots: int
    kv_tokens: float = inf
    prefill_budget: float = inf
    order: str = "longest"
    prefix_cache: bool = False
    cache_knowledge: str = "exact"


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
    left_tokens: float = 0.0


class Worker:
    """See the module.

    Attributes:
        in_flight: requests given to it that have not ended.
        stage_end_s: when the stage under way ends; infinite if there is none.
        now_s: the time as of which it tells what it holds; kept by whoever drives it.
        cached_prompt: prompt tokens found in the prefix cache when their requests were admitted.
        queued_tokens: prompt tokens of those that wait for a slot, less what the prefix cache held
            of them when they came.
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
        self._most = setting.slots + lead(setting.slots)
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
        self._cache_view: CacheView | None = None
        if self.batcher.cache is not None:
            self._cache_view = cache_view(
                setting.cache_knowledge,
                self.batcher.cache,
                lambda: setting.kv_tokens - self.tokens,
            )
        self.stages = dict.fromkeys(Action, 0)
        self.stage_end_s = inf
        self.now_s = 0.0
        self.cached_prompt = 0
        self.changed = 0
        self.queued_tokens = 0
        self._record = record
        self._requests: dict[str, Running] = {}
        self._by_number: dict[int, Running] = {}
        self._stage: Stage | None = None
        self._rounds = 0
        self._start_s = 0.0
        self._decoding = Decoding()
        self._paused: dict[str, Sequence] = {}
        self._estimate = Estimate(-1, 0, 0.0, 0.0, 0.0)
        self._bulk_seen = -1, BulkLoad()

    @property
    def in_flight(self) -> int:
        """Requests here, queued or running."""
        return len(self._requests)

    @property
    def tokens(self) -> int:
        """Tokens in memory, and prompts that wait for it: what routers count as load."""
        return self.kv_used + self.batcher.queued_prompt

    @property
    def kv_used(self) -> int:
        """Tokens in memory."""
        stage = self._stage
        made = 0 if stage is None else len(stage.decode) * self._rounds_over()
        return self.batcher.kv_held + made

    @property
    def kv_capacity(self) -> float:
        """Tokens that fit into memory."""
        return self.setting.kv_tokens

    @property
    def slots(self) -> int:
        """Requests that it can run at once."""
        return self.setting.slots

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return self.batcher.queued

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return self.batcher.running

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that wait for their prefill or are in it, less those in the cache."""
        batcher = self.batcher
        return self.queued_tokens + batcher.prompt_to_prefill - batcher.queued_prompt

    @property
    def free_slots(self) -> int:
        """Requests that it could start at once; 0 where memory is full."""
        return 0 if self.tokens >= self.setting.kv_tokens else self.setting.slots - self.in_flight

    @property
    def room(self) -> int:
        """Requests that it could start soon: free slots and a lead, 0 where memory is full."""
        return self._room(self.tokens)

    def _room(self, tokens: int) -> int:
        """The same where it holds so many."""
        return 0 if tokens >= self.setting.kv_tokens else self._most - len(self._requests)

    @property
    def online_room(self) -> int:
        """The same of requests for which bulk work steps back."""
        bulk = self._bulk()
        if not bulk.sequences:
            return self.room
        if self.tokens - bulk.tokens >= self.setting.kv_tokens:
            return 0
        return self._most - self.in_flight + bulk.sequences

    @property
    def divides(self) -> bool:
        """Whether answers of one request take turns: here each has one."""
        return True

    def room_for(self, job: Job) -> int:
        """The same of one request."""
        return self.room if job.bulk else self.online_room

    def made(self, arrival: Arrival) -> int:
        """Output tokens of a request that is here, since it decodes; 0: none."""
        running = self._by_number.get(arrival.number)
        if running is None or running.since == NOT_DECODING:
            return 0
        return self.batcher.progress.rounds + self._rounds_over() - running.since + 1

    def _bulk(self) -> BulkLoad:
        """What bulk work comes to, as of the last change."""
        if self._bulk_seen[0] != self.changed:
            self._bulk_seen = self.changed, self.batcher.bulk
        return self._bulk_seen[1]

    def cached_tokens(self, arrival: Arrival) -> int:
        """Of its prompt, what this worker is taken not to have to prefill."""
        view = self._cache_view
        if view is None:
            return 0
        return view.match(arrival.hash_ids, arrival.prompt_tokens, self.now_s)

    def _uncached(self, request: Request) -> int:
        cache = self.batcher.cache
        held = 0 if cache is None else cache.match(request.hash_ids, request.prompt_tokens)
        return request.prompt_tokens - held

    def view(self, now: float) -> WorkerView:
        """As the planner sees it; estimates are made anew when what it has to do has changed."""
        self.now_s = now
        rounds = self._rounds_over()
        if self._estimate.version != self.changed or rounds >= self._estimate.rounds + ROUNDS:
            output = self.batcher.output_to_come(rounds)
            self._estimate = Estimate(
                self.changed,
                rounds,
                now,
                self.batcher.backlog_s(output),
                self.cost.beta_p_s * self.batcher.prompt_to_prefill,
                output / max(1, self.in_flight),
            )
        prefilling = self._stage is not None and self._stage.prefill
        known, limit, tokens = self._estimate, self.setting.kv_tokens, self.tokens
        bulk = self._bulk()
        awaited = min(self.setting.slots, self.in_flight - bulk.sequences)
        view = WorkerView(
            cost=self.cost,
            slots=self.setting.slots,
            in_flight=len(self._requests),
            backlog_s=max(0.0, known.backlog_s - (now - known.at_s)),
            prefill_s=max(0.0, known.prefill_s - (now - known.at_s if prefilling else 0.0)),
            kv_free=None if limit == inf else limit - tokens,
            running=self.batcher.decoding,
            left_tokens=known.left_tokens,
            kv_tokens=self.batcher.kv_held,
            kv_now=room_now(limit, tokens, awaited, known.left_tokens),
            room=self._room(tokens),
        )
        if not bulk.sequences:
            return view
        prefill_s = self.cost.beta_p_s * bulk.to_prefill
        return view.yields(bulk.sequences, prefill_s, bulk.tokens, self.online_room)

    def submit(
        self,
        request: Request,
        number: int,
        expected_tokens: float,
        now: float,
        lengths: LengthDistribution | None = None,
        *,
        ahead_s: float | None = None,
        held_back: bool = False,
    ) -> None:
        """Queue a request; it may cut the stage under way short.

        `ahead_s`: tenants take turns, and its turn counts as having come so much sooner;
        `held_back`: it has waited on purpose until now, and has grown no older by it.
        """
        if self._cache_view is not None:
            self._cache_view.sent(request.hash_ids, request.prompt_tokens)
        running = Running(request, number, self._uncached(request))
        self._requests[request.id] = self._by_number[number] = running
        self.queued_tokens += running.uncached
        sequence = Sequence(
            request.id,
            request.prompt_tokens,
            expected_tokens,
            NO_LIMIT,
            now if held_back else request.arrival_s,
            request.hash_ids,
            request.priority,
            request.due_s,
            lengths,
            request.targets,
            *Turn.of(ahead_s, now),
        )
        self.batcher.add(sequence, now)
        self.changed += 1
        if self._rounds > 1 and self.batcher.cuts_short(sequence):
            self._cut(now)

    def start(self, now: float) -> bool:
        """Begin the next stage, if none is under way and there is something to do."""
        if self._stage is not None or not self._requests:
            return False
        rounds = self._decoding.rounds_to_next_end(self.batcher.progress.rounds)
        stage = self.batcher.next_stage(now, rounds)
        if stage is None:
            return False
        for chunk in stage.prefill:
            if not chunk.sequence.prefilled and not chunk.sequence.restarts:
                running = self._requests[chunk.sequence.id]
                running.begun_s = now
                self.queued_tokens -= running.uncached
        for key in stage.preempted:
            self._decoding.pause(self._requests[key])
            self._paused.pop(key, None)
        self._step_back(stage)
        self.changed += 1
        self._stage, self._rounds, self._start_s = stage, stage.rounds, now
        self.stage_end_s = now + stage.duration_s(self.cost)
        return True

    def _step_back(self, stage: Stage) -> None:
        """Who stands still from this stage on, and who decodes again."""
        if not (stage.paused or self._paused):
            return
        paused = {sequence.id: sequence for sequence in stage.paused}
        for key in paused.keys() - self._paused.keys():
            self._decoding.pause(self._requests[key])
        for key, sequence in self._paused.items():
            if key not in paused:
                self._decoding.join(self._requests[key], sequence, self.batcher.progress.rounds)
        self._paused = paused

    def finish(self) -> list[Running]:
        """The stage under way is over; those who made their last token in it."""
        stage, now = self._stage, self.stage_end_s
        assert stage is not None
        ended: list[Sequence] = []
        if stage.decode:
            ended = self._decoding.ended(self.batcher.progress.rounds + self._rounds)
            self._note_tokens(stage)
        for chunk in stage.prefill:
            if not chunk.sequence.prefilled and not chunk.sequence.restarts:
                self.cached_prompt += chunk.sequence.cached
        if self._record is not None:
            self._record(ScheduleLine.of(self.name, stage, self._start_s, now, self._rounds))
        self.stages[stage.action] += self._rounds
        before = self.batcher.progress.rounds
        self.batcher.finish_stage(stage, [s.id for s in ended], now, self._rounds)
        for chunk in stage.prefill:
            if chunk.last:
                running = self._requests[chunk.sequence.id]
                if self._cache_view is not None and not chunk.sequence.restarts:
                    self._cache_view.prefilled(running.request.hash_ids)
                self._decoding.join(running, chunk.sequence, self.batcher.progress.rounds)
        assert self.batcher.progress.rounds == before + (self._rounds if stage.decode else 0)
        self._stage, self._rounds, self.stage_end_s = None, 0, inf
        self.changed += 1
        gone = [self._requests.pop(sequence.id) for sequence in ended]
        for running in gone:
            del self._by_number[running.number]
            self._decoding.pause(running)
        return gone

    def _note_tokens(self, stage: Stage) -> None:
        rounds, end_s = self._rounds, self.stage_end_s
        first_s, last_s = end_s, end_s - self._start_s
        if rounds > 1:
            first_s = self._start_s + stage.duration_s(self.cost, 1)
            last_s -= stage.duration_s(self.cost, rounds - 1)
        self._decoding.note(self.batcher.progress.rounds + 1, first_s, rounds, end_s, last_s)

    def _rounds_over(self) -> int:
        """Of the decode stage under way, the rounds that are over; none of a single round."""
        return self._rounds_by(self.now_s)[0] if self._rounds > 1 else 0

    def _rounds_by(self, now: float) -> tuple[int, int]:
        """Rounds of the stage under way that are over, and that are over or have begun."""
        assert self._stage is not None
        over, begun = rounds_by(self._stage, self.cost, now - self._start_s)
        return min(over, self._rounds - 1), begun

    def _cut(self, now: float) -> None:
        """End the decode stage with the round that is under way."""
        stage, rounds = self._stage, self._rounds_by(now)[1]
        assert stage is not None
        if rounds < self._rounds:
            self._rounds = rounds
            self.stage_end_s = self._start_s + stage.duration_s(self.cost, rounds)
