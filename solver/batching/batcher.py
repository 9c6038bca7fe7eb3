"""Continuous batching: who waits, who holds a slot, and what the next iteration carries.

Rules:
- a request holds one slot from its prefill to its last token, and moves only forward: waiting,
  prefilling (over several iterations where these have a budget), decoding, gone;
- it is admitted when its prompt fits into memory now, and one round of everybody (`SPARE_ROUNDS` of
  those who have a target between tokens); nobody overtakes a request that waits for memory;
- should memory run out later, the last admitted is preempted: it keeps its slot and what it has
  made, loses its memory, and is prefilled again before anybody else is admitted (measured against
  admitting only what is predicted to fit to its end: a slot that stands empty costs more);
- bulk work steps back for any other, within one iteration (`solver.batching.stepping_back`);
- one stage at a time: `next_stage`, then `finish_stage`, by a shell that knows what time it is.

The live agent and the simulator drive this same object. When to prefill is
`solver.batching.policy`'s, who is next `solver.batching.queue`'s, and who holds which slot and
memory `solver.batching.slot_table`'s.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import inf

from solver.batching.busy_period import BusyPeriod
from solver.batching.kv import PrefixCache
from solver.batching.ledger import SlotLedger
from solver.batching.policy import Decision, EngineView, IterationPolicy
from solver.batching.queue import RequestQueue, make_queue
from solver.batching.sequence import Chunk, Sequence, Stage
from solver.batching.slot_table import SlotTable
from solver.batching.slot_wait import SlotWait
from solver.batching.stepping_back import BulkLoad, SteppingBack
from solver.cost.model import Action, CostModel


class Batcher:
    """Queue, slots and memory of one engine; see the module's rules.

    Attributes:
        ledger: where slot-time went.
        busy_period: the busy period under way, if any.
        efficiency: lower bound of the work of the present or last busy period over its time.
        progress: where those decoding stand, and what has ended.
        cache: the prompts' prefixes that are kept, if any are.
        queued_prompt: prompt tokens of those that wait for a slot.
    """

    def __init__(
        self,
        slots: int,
        kv_tokens: float,
        cost: CostModel,
        policy: IterationPolicy,
        now: float,
        *,
        waiting: RequestQueue | None = None,
        prefill_budget: float = inf,
        cache: PrefixCache | None = None,
    ) -> None:
        self.slots, self.kv_tokens, self.cost, self.policy = slots, kv_tokens, cost, policy
        self.ledger = SlotLedger(slots, now)
        self.busy_period: BusyPeriod | None = None
        self.efficiency = 0.0
        self.cache = cache
        self._table = SlotTable(slots, kv_tokens, cache)
        self._back = SteppingBack(self._table)
        self._shared = False  # bulk work steps back now
        self._online_first = False  # and online work is to be prefilled
        self.progress = self._table.progress
        self._budget = self._stage_budget = prefill_budget
        if waiting is None:
            waiting = make_queue("longest", slots, cost.decode_s(slots))
        self._queue = waiting
        self._waiting: dict[str, Sequence] = {}
        self._cancelled: set[str] = set()
        self.queued_prompt, self._queued_output = 0, 0.0
        self._slot_wait = SlotWait()
        self._stage_s, self._held_back = now, 0  # when the stage began, who could have come in
        self._admissible: list[Sequence] | None = None
        self._just_stalled = False

    @property
    def running(self) -> int:
        """Slots in use."""
        return len(self._table)

    @property
    def decoding(self) -> int:
        """Sequences that make a token each round."""
        return len(self._table.decoding)

    @property
    def held_slots(self) -> set[int]:
        """The slots in use, by number."""
        return self._table.held_slots

    @property
    def kv_held(self) -> int:
        """Cached tokens now."""
        return self._table.kv_held

    @property
    def preemptions(self) -> int:
        """Sequences that have lost their memory, so far."""
        return self._table.preemptions

    @property
    def queued(self) -> int:
        """Requests waiting for a slot."""
        return len(self._waiting)

    @property
    def prompt_to_prefill(self) -> int:
        """Prompt tokens here that are not prefilled yet."""
        return self.queued_prompt + sum(s.to_prefill for s in self._table.unprefilled)

    @property
    def bulk(self) -> BulkLoad:
        """What bulk work comes to that steps back for any other."""
        return self._back.load(self._waiting.values())

    def output_to_come(self, ahead: int = 0) -> float:
        """Expected tokens that everything here still makes.

        `ahead` rounds of the stage under way are over already.
        """
        output = self._queued_output
        still = (*self._table.unprefilled, *self._table.paused.values())
        output += sum(sequence.expected_left for sequence in still)
        return output + float(self.progress.expected_left(ahead).sum())

    def backlog_s(self, output: float) -> float:
        """Engine seconds at full slots until all is done, with so much `output_to_come`."""
        prefills = len(self._waiting) + len(self._table.unprefilled)
        prompt = self.prompt_to_prefill
        return self.cost.backlog_s(prefills, prompt, output, self._table.kv_decoding, self.slots)

    def add(self, sequence: Sequence, now: float) -> None:
        """Queue a request; its prompt and limit must fit into memory, or it may never end."""
        if self.busy_period is None:
            self.busy_period = BusyPeriod(now)
        self._back.came(sequence)
        self._enqueue(sequence)
        self._changed(now)

    def cancel(self, sequence_id: str, now: float) -> None:
        """Its client has left: a waiting request goes at once, a running one with its stage."""
        sequence = self._waiting.get(sequence_id)
        if sequence is not None:
            self._unqueue(sequence)
            self._back.gone(sequence, now)
            self._changed(now)
            self._measure(now)
        elif sequence_id in self._table:
            self._cancelled.add(sequence_id)

    def is_waiting(self, sequence_id: str) -> bool:
        """Whether it still waits for a slot: nothing has been done for it."""
        sequence = self._waiting.get(sequence_id)
        return sequence is not None and not sequence.restarts

    def cuts_short(self, sequence: Sequence) -> bool:
        """Whether one that comes now may change what the next iteration is."""
        return self.running < self.slots or (self._back.bulk > 0 and not sequence.is_bulk)

    def next_stage(self, now: float, most_rounds: int = 1) -> Stage | None:
        """What the engine does from `now` on; None if there is nothing to do.

        A stage of several decode rounds is one that nobody would have interrupted, unless a request
        comes, leaves or ends: whoever asks for `most_rounds` knows that none ends before.
        """
        self._release(list(self._cancelled), now)
        lost = self._preempt()
        evicted = self._step_back(now)
        self._stage_s, self._held_back = now, len(self._find_admissible())
        decision = self.policy.decide(self._view(), self.cost)
        if decision.action is Action.IDLE:
            return None
        self._just_stalled = decision.action is Action.PREFILL and bool(self._table.decoding)
        if decision.action is Action.DECODE:
            stage = self._decode(decision, now, 1 if self._shared else most_rounds)
        else:
            stage = self._prefill(decision, now)
        paused = tuple(self._table.paused.values())
        if not (lost or paused or evicted):
            return stage
        return replace(stage, preempted=(*lost, *evicted), evicted=evicted, paused=paused)

    def finish_stage(
        self, stage: Stage, ended: Collection[str], now: float, rounds: int | None = None
    ) -> None:
        """`stage` is over at `now`; the sequences in `ended` have made their last token.

        `rounds`: decode rounds made, where it was cut short.
        """
        if stage.decode:
            self._count_rounds(stage, stage.rounds if rounds is None else rounds, now)
        for chunk in stage.prefill:
            self._count_chunk(chunk)
        self._release([*ended, *(self._cancelled - set(ended))], now)
        if stage.prefill:
            self._changed(now)
        self._measure(now)

    def _count_rounds(self, stage: Stage, rounds: int, now: float) -> None:
        made = len(stage.decode) * rounds
        if not stage.prefill:
            self._slot_wait.add(self._held_back, rounds, now - self._stage_s)
        self._table.count_rounds(rounds, made)
        if self._admissible:  # there is less room now
            self._admissible = self._admissible[: self._table.count_fitting(self._admissible)]
        if self.busy_period is not None:
            self.busy_period.output_tokens += made
            self.busy_period.context_tokens += stage.kv_tokens * rounds + made * (rounds - 1) // 2

    def _count_chunk(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        sequence.prefilled += chunk.tokens
        if not chunk.last:
            return
        self._table.begin_decoding(sequence)
        if self.busy_period is not None and not sequence.restarts:
            self.busy_period.requests += 1
            self.busy_period.prompt_tokens += sequence.prefilled

    def _view(self) -> EngineView:
        admissible, table = self._find_admissible(), self._table
        prefilling = self._filling()
        tokens = sum(s.to_prefill for s in prefilling) + sum(s.to_prefill for s in admissible)
        waiting = len(table.prefilling) + len(table.preempted) + len(self._waiting)
        if self._online_first:  # bulk work is no company for it
            waiting = len(prefilling) + len(admissible)
        return EngineView(
            slots=self.slots,
            decoding=len(table.decoding),
            admissible=len(prefilling) + len(admissible),
            waiting=waiting,
            prompt_tokens=tokens,
            kv_tokens=self.kv_tokens,
            kv_held=table.kv_decoding,
            waited_slot_s=self._slot_wait.slot_s,
            waited_rounds=self._slot_wait.rounds,
            prefill_budget=self._stage_budget,
            just_stalled=self._just_stalled,
            progress=self.progress,
            hurried=any(one.hurry_s <= self._stage_s for one in admissible),
        )

    def _prefill(self, decision: Decision, now: float) -> Stage:
        budget = min(decision.max_prompt_tokens, self._stage_budget)
        self._admit(decision.max_admitted, budget)
        chunks = self._chunks(budget)
        decode = tuple(self._table.decoding.values()) if decision.action is Action.MIXED else ()
        self._slot_wait.reset()
        self._book(now, len(chunks), len(decode))
        self._changed(now)
        return Stage(decision.action, decision.reason, chunks, decode, self._table.kv_decoding)

    def _decode(self, decision: Decision, now: float, most_rounds: int) -> Stage:
        running = tuple(self._table.decoding.values())
        rounds = most_rounds if decision.lasting else 1
        if self.kv_tokens != inf:
            rounds = min(rounds, self._table.rounds_that_fit())
        self._book(now, 0, len(running))
        rounds = max(1, rounds)
        return Stage(decision.action, decision.reason, (), running, self._table.kv_decoding, rounds)

    def _chunks(self, budget: float) -> tuple[Chunk, ...]:
        """Prompt tokens of those admitted, in order, until the budget is spent."""
        chunks: list[Chunk] = []
        for sequence in self._filling():
            if budget <= 0:
                break
            wanted = sequence.to_prefill
            tokens = int(min(wanted, budget))
            chunks.append(Chunk(sequence, tokens, last=tokens == wanted))
            budget -= tokens
        return tuple(chunks)

    def _admit(self, most: int | None, budget: float) -> None:
        """Let in the first of the admissible, as long as this iteration has tokens for them."""
        budget -= sum(sequence.to_prefill for sequence in self._filling())
        for sequence in self._find_admissible()[:most]:
            if budget <= 0:
                break
            if self._table.admit(sequence):
                self._unqueue(sequence)
            budget -= sequence.to_prefill

    def _preempt(self) -> tuple[str, ...]:
        """Make room for the next round; who lost its memory for it."""
        lost = self._table.make_room()
        for sequence in lost:
            self._admissible = None
            self._note_output(sequence)
        return tuple(sequence.id for sequence in lost)

    def _find_admissible(self) -> list[Sequence]:
        """Those preempted, then the first of the queue, that fit into memory and free slots.

        Kept until something changes: what fits does not depend on how often one asks.
        """
        if self._admissible is None:
            found = list(self._table.preempted.values())[::-1]
            slots = self._table.free_slots(len(self._waiting))
            if slots:
                found += self._queue.head(slots, self.progress.remaining)
            if self._shared:
                found, self._online_first = self._back.admitted(found, self.cost, self._stage_s)
            self._admissible = found[: self._table.count_fitting(found)]
        return self._admissible

    def _filling(self) -> list[Sequence]:
        """Those admitted whose prefill goes on now."""
        found = list(self._table.prefilling.values())
        if not self._shared:
            return found
        if self._online_first:
            return [sequence for sequence in found if not sequence.is_bulk]
        return found if self._stage_budget > 0 else []

    def _step_back(self, now: float) -> tuple[str, ...]:
        """Bulk work makes way for what is online; who lost slot and memory for it."""
        shared, self._stage_s = self._back.concerns(now), now
        if shared or self._shared:
            self._admissible = None
        self._shared, self._online_first, self._stage_budget = shared, False, self._budget
        if not shared:
            self._back.resume_all()
            return ()
        evicted = self._evict(now) if self._waiting else ()
        admissible = self._find_admissible()
        if self._online_first:
            tokens = sum(one.to_prefill for one in (*self._filling(), *admissible))
            self._back.pace(self.cost, now, min(tokens, self._budget))
        else:
            self._back.pace(self.cost, now, 0.0)
            chunk = self._back.chunk_tokens(self.cost, now, just_stalled=self._just_stalled)
            self._stage_budget = min(self._budget, chunk)
            if self._stage_budget <= 0:
                self._admissible = []
        return evicted

    def _evict(self, now: float) -> tuple[str, ...]:
        """Bulk work loses slots and memory for online work that waits; who that was."""
        evicted = self._back.evict_for(self._ahead())
        for sequence in evicted:
            self._note_output(sequence)
            self._enqueue(sequence)
            self._changed(now)
        if evicted:  # who has waited for long is not evicted twice
            self._ahead()
        return tuple(sequence.id for sequence in evicted)

    def _ahead(self) -> list[Sequence]:
        """The first in the queue, bulk work that has its turn among them."""
        ahead = self._queue.head(list(range(self.slots)), self.progress.remaining)
        self._back.take_turns(ahead)
        return ahead

    def _book(self, now: float, prefill: int, decode: int) -> None:
        """What each slot does from now on."""
        paused = len(self._table.paused)
        stalled = self.running - prefill - decode - paused
        self.ledger.stage(now, prefill=prefill, decode=decode, stalled=stalled, paused=paused)

    def _enqueue(self, sequence: Sequence) -> None:
        self._queue.add(sequence)
        self._back.queued(sequence, 1)
        self._waiting[sequence.id] = sequence
        self.queued_prompt += sequence.prompt_tokens
        self._queued_output += sequence.expected_tokens

    def _unqueue(self, sequence: Sequence) -> None:
        self._queue.discard(sequence)
        self._back.queued(sequence, -1)
        del self._waiting[sequence.id]
        self.queued_prompt -= sequence.prompt_tokens
        self._queued_output -= sequence.expected_tokens
        if not self._waiting:
            self._queued_output = 0.0  # rounding must not add up

    def _note_output(self, sequence: Sequence) -> None:
        """It decodes no longer, and may have been the longest."""
        if self.busy_period is not None:
            self.busy_period.longest_output = max(self.busy_period.longest_output, sequence.made)

    def _release(self, ids: Collection[str], now: float) -> None:
        """Take out those that have ended or whose clients have left."""
        for key in ids:
            sequence = self._table.release(key, ended=key not in self._cancelled)
            self._note_output(sequence)
            self._back.gone(sequence, now)
        self._cancelled.clear()
        if ids:
            self._book(now, 0, 0)
            self._changed(now)

    def _changed(self, now: float) -> None:
        self._admissible = None
        self.ledger.queue(now, len(self._waiting))

    def _measure(self, now: float) -> None:
        """Keep `efficiency` up to date; a busy period ends when nothing is left to do."""
        busy = self.busy_period
        if busy is None or now <= busy.started_s:
            return
        self.efficiency = busy.bound_s(self.cost, self.slots) / (now - busy.started_s)
        if self.running == 0 and not self._waiting:
            self.busy_period = None
