"""Continuous batching: who waits, who holds a slot, and what the next iteration carries.

Rules:
- a request holds one slot from its prefill to its last token, and moves only forward:
  waiting -> prefilling -> decoding -> gone;
- it is admitted only when its prompt and all tokens that it may make fit into memory, so an engine
  never runs out of memory in the middle; nobody overtakes a request that waits for memory;
- one stage at a time: `next_stage`, then `finish_stage`, by a shell that knows what time it is.

The live agent and the simulator drive this same object; when to prefill is `solver.iteration`'s.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import inf

from solver.bounds import engine_bound
from solver.cost import CostModel
from solver.iteration import Action, EngineView, IterationPolicy, Reason
from solver.ledger import SlotLedger


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside an engine: tokens, and when it came."""

    id: str
    prompt_tokens: int
    expected_tokens: float
    max_tokens: int
    arrival_s: float
    made: int = 0

    @property
    def kv_reserved(self) -> int:
        """Cached tokens that it may come to hold."""
        return self.prompt_tokens + self.max_tokens

    @property
    def remaining(self) -> float:
        """Tokens that it will still make: as predicted, or to its limit if it outlived that."""
        expected = self.expected_tokens - self.made
        return expected if expected > 0 else self.max_tokens - self.made


@dataclass(frozen=True, slots=True)
class Stage:
    """One iteration of an engine: a prefill of new sequences, or a decode round of running ones.

    `prompt_tokens` and `kv_tokens` are what its duration depends on.
    """

    action: Action
    reason: Reason
    sequences: tuple[Sequence, ...]
    prompt_tokens: int
    kv_tokens: int

    def duration_s(self, cost: CostModel) -> float:
        """Seconds that it takes on an engine with this cost model."""
        if self.action is Action.PREFILL:
            return cost.prefill_s(self.prompt_tokens)
        return cost.decode_s(len(self.sequences), self.kv_tokens)


@dataclass(slots=True)
class BusyPeriod:
    """Work done since the engine last had none, for the bound on how fast it could have been."""

    started_s: float
    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    longest_output: int = 0

    def bound_s(self, cost: CostModel, slots: int) -> float:
        """Seconds that this work takes at least (method.md section 3)."""
        return engine_bound(
            cost, slots, self.requests, self.prompt_tokens, self.output_tokens, self.longest_output
        )


class Batcher:
    """Queue, slots and memory of one engine; see the module's rules.

    Waiting requests go longest first, but none may be overtaken by one that came later than it by
    more than the seconds that the later one is longer: in a burst that is longest first, and in a
    steady stream nobody starves.

    Attributes:
        ledger: where slot-time went.
        busy: the busy period under way, if any.
        efficiency: lower bound of the work of the present or last busy period over its time.
        kv_held: cached tokens now.
    """

    def __init__(
        self, slots: int, kv_tokens: int, cost: CostModel, policy: IterationPolicy, now: float
    ) -> None:
        self.slots, self.kv_tokens, self.cost, self.policy = slots, kv_tokens, cost, policy
        self.ledger = SlotLedger(slots, now)
        self.busy: BusyPeriod | None = None
        self.efficiency = 0.0
        self.kv_held = 0
        self._queue: list[tuple[float, int, Sequence]] = []
        self._waiting: dict[str, Sequence] = {}
        self._running: dict[str, Sequence] = {}
        self._cancelled: set[str] = set()
        self._kv_reserved = 0
        self._order = 0
        self._waited_slot_s = 0.0
        self._waited_until_s = now
        self._admissible: int | None = None

    @property
    def running(self) -> int:
        """Slots in use."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Requests waiting for a slot."""
        return len(self._waiting)

    def add(self, sequence: Sequence, now: float) -> None:
        """Queue a request; its prompt and limit must fit into memory, or it waits for ever."""
        self._wait(now)
        if self.busy is None:
            self.busy = BusyPeriod(now)
        lead_s = sequence.expected_tokens * self.cost.decode_s(self.slots)
        self._order += 1
        heapq.heappush(self._queue, (sequence.arrival_s - lead_s, self._order, sequence))
        self._waiting[sequence.id] = sequence
        self._changed(now)

    def cancel(self, sequence_id: str, now: float) -> None:
        """Its client has left: a waiting request goes at once, a running one with its stage."""
        self._wait(now)
        if self._waiting.pop(sequence_id, None) is not None:
            self._changed(now)
            self._measure(now)
        elif sequence_id in self._running:
            self._cancelled.add(sequence_id)

    def next_stage(self, now: float) -> Stage | None:
        """What the engine does from `now` on; None if there is nothing to do."""
        self._wait(now)
        self._release(self._cancelled, now)
        decision = self.policy.decide(self._view(), self.cost)
        if decision.action is Action.PREFILL:
            return self._prefill(decision.reason, now)
        if decision.action is Action.DECODE:
            return self._decode(decision.reason, now)
        return None

    def finish_stage(self, stage: Stage, ended: Collection[str], now: float) -> None:
        """`stage` is over at `now`; the sequences in `ended` have made their last token."""
        self._wait(now)
        busy = self.busy
        if stage.action is Action.DECODE:
            for sequence in stage.sequences:
                sequence.made += 1
            self.kv_held += len(stage.sequences)
            if busy is not None:
                busy.output_tokens += len(stage.sequences)
                longest = max(sequence.made for sequence in stage.sequences)
                busy.longest_output = max(busy.longest_output, longest)
        elif busy is not None:
            busy.requests += len(stage.sequences)
            busy.prompt_tokens += stage.prompt_tokens
        self._release([*ended, *self._cancelled], now)
        self._measure(now)

    def _view(self) -> EngineView:
        admissible = self._count_admissible()
        next_free_s = inf
        if self._running and 0 < admissible < len(self._waiting):
            rounds = min(sequence.remaining for sequence in self._running.values())
            next_free_s = rounds * self.cost.decode_s(len(self._running), self.kv_held)
        return EngineView(len(self._running), admissible, self._waited_slot_s, next_free_s)

    def _prefill(self, reason: Reason, now: float) -> Stage:
        stalled = len(self._running)
        admitted = list(self._admit(self._count_admissible()))
        tokens = sum(sequence.prompt_tokens for sequence in admitted)
        self.kv_held += tokens
        self._waited_slot_s = 0.0
        self.ledger.stage(now, prefill=len(admitted), decode=0, stalled=stalled)
        self._changed(now)
        return Stage(Action.PREFILL, reason, tuple(admitted), tokens, self.kv_held)

    def _decode(self, reason: Reason, now: float) -> Stage:
        running = tuple(self._running.values())
        self.ledger.stage(now, prefill=0, decode=len(running), stalled=0)
        return Stage(Action.DECODE, reason, running, 0, self.kv_held)

    def _admit(self, count: int) -> Iterable[Sequence]:
        while count:
            _, _, sequence = heapq.heappop(self._queue)
            if self._waiting.pop(sequence.id, None) is not sequence:
                continue  # cancelled while it waited
            self._running[sequence.id] = sequence
            self._kv_reserved += sequence.kv_reserved
            count -= 1
            yield sequence

    def _count_admissible(self) -> int:
        """How many of the queue, in order, fit into free slots and memory."""
        if self._admissible is None:
            free, room = self.slots - len(self._running), self.kv_tokens - self._kv_reserved
            count = 0
            if free and self._waiting:
                for sequence in self._in_order(free):
                    room -= sequence.kv_reserved
                    if room < 0:
                        break
                    count += 1
            self._admissible = count
        return self._admissible

    def _in_order(self, most: int) -> list[Sequence]:
        """The first `most` of the queue, leaving out those cancelled while they waited."""
        while self._queue and self._waiting.get(self._queue[0][2].id) is not self._queue[0][2]:
            heapq.heappop(self._queue)
        live = (entry for entry in self._queue if self._waiting.get(entry[2].id) is entry[2])
        return [sequence for _, _, sequence in heapq.nsmallest(most, live)]

    def _release(self, ids: Collection[str], now: float) -> None:
        gone = [self._running.pop(i) for i in set(ids) if i in self._running]
        self._cancelled.clear()
        if not gone:
            return
        for sequence in gone:
            self._kv_reserved -= sequence.kv_reserved
            self.kv_held -= sequence.prompt_tokens + sequence.made
        self.ledger.stage(now, prefill=0, decode=0, stalled=len(self._running))
        self._changed(now)

    def _changed(self, now: float) -> None:
        self._admissible = None
        self.ledger.queue(now, len(self._waiting))

    def _wait(self, now: float) -> None:
        """Book slot-time lost to waiting; idle slots only count while somebody could use them."""
        passed = now - self._waited_until_s
        if passed > 0:
            self._waited_until_s = now
            if self._waiting and self._running:
                self._waited_slot_s += passed * self._count_admissible()

    def _measure(self, now: float) -> None:
        """Keep `efficiency` up to date; a busy period ends when nothing is left to do."""
        busy = self.busy
        if busy is None or now <= busy.started_s:
            return
        self.efficiency = busy.bound_s(self.cost, self.slots) / (now - busy.started_s)
        if not self._running and not self._waiting:
            self.busy = None
