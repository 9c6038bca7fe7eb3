"""Deciding for an engine that keeps its own queue, slots and memory, such as vLLM.

Rules:
- the engine is the authority on who waits, who runs and what fits; this only follows, and its books
  are corrected where the engine's say otherwise;
- what it answers is a `Decision`, by the same policies that `solver.batching.batcher` asks;
- bulk work that is paused (`solver.batching.pacing`) stands still in the engine, with its memory;
- the cost model changes only now and then (`STEADY`), since policies derive figures from it.

Must not know: clocks, the engine's objects. A sequence that decodes is one whose prefill is over
and whose last token is not scheduled yet.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import inf

from solver.batching.decoders import Decoders
from solver.batching.policy import Decision, EngineView, IterationPolicy
from solver.batching.queue import RequestQueue, longest_first
from solver.batching.sequence import Sequence
from solver.batching.slot_wait import SlotWait
from solver.cost.model import Action, CostModel
from solver.cost.online import OnlineFit

# Of decode rounds, so many tell as much as one: they are nearly the same.
ROUNDS_A_SAMPLE = 4
# Iterations that are learnt from before the cost model changes: the first may be slow, and a policy
# that compares kinds of iterations should not swing with each.
STEADY = 32


@dataclass(frozen=True, slots=True)
class UnprefilledRequests:
    """Requests whose prefill is not over; the fields are as those of `EngineView`.

    `begun`: those of the admissible that hold a slot already. `budget`: prompt tokens that one
    iteration may carry of them, as bulk work steps back.
    """

    admissible: int
    waiting: int
    prompt_tokens: int
    begun: int = 0
    budget: float = inf


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one iteration carried: prompt tokens, and sequences with their cached tokens."""

    prompt_tokens: int
    batch: int
    kv_tokens: int

    @property
    def action(self) -> Action:
        """What kind of an iteration it was."""
        if not self.batch:
            return Action.PREFILL if self.prompt_tokens else Action.IDLE
        return Action.MIXED if self.prompt_tokens else Action.DECODE


class Follower(Decoders):
    """An engine as the policies see it, and what its iterations cost.

    Attributes:
        cost: the engine's cost model now.
        just_stalled: whether decoding has just stood still for a prefill.
    """

    def __init__(
        self,
        slots: int,
        kv_capacity: float,
        prefill_budget: float,
        policy: IterationPolicy,
        cost: CostModel,
        fit: OnlineFit | None = None,
    ) -> None:
        super().__init__(slots)
        self.policy, self.cost = policy, cost
        self._kv_capacity, self._budget = kv_capacity, prefill_budget
        self._fit, self._rounds, self._learnt = fit, 0, 0
        self._free = list(range(slots))
        self._slot_wait, self._held_back = SlotWait(), 0
        self.just_stalled = False

    def rank(self, sequence: Sequence) -> float:
        """Its rank in the queue by the present cost model: longest first within head starts."""
        return longest_first(self.cost.decode_s(self.slots))(sequence)

    def next_of(self, queue: RequestQueue, count: int) -> list[Sequence]:
        """The first `count` of the queue, fewer if fewer slots are free or fewer wait."""
        slots = heapq.nsmallest(count, self._free)
        return queue.head(slots, self.progress.remaining)

    def join(self, sequence: Sequence) -> None:
        """It decodes from the next round on."""
        sequence.slot = heapq.heappop(self._free)
        self._start(sequence)

    def leave(self, sequence: Sequence, *, ended: bool) -> None:
        """It decodes no longer; `ended`: its last token is made, or on its way."""
        if self.paused.pop(sequence.id, None) is not None:
            self._start(sequence)
        self._stop(sequence, ended=ended)
        heapq.heappush(self._free, sequence.slot)
        sequence.slot = -1

    def correct(self, sequence: Sequence, made: int) -> None:
        """The engine says how many tokens it has made: not one a round, or not every round."""
        if sequence.id in self.paused:
            sequence.made = made
            return
        self.kv_decoding += made - self.progress.made(sequence)
        self.progress.place(sequence, made)

    def decide(self, requests: UnprefilledRequests) -> Decision:
        """What the engine should do next."""
        self._held_back = requests.admissible - requests.begun
        view = EngineView(
            slots=self.slots,
            decoding=len(self.decoding),
            admissible=requests.admissible,
            waiting=requests.waiting,
            prompt_tokens=requests.prompt_tokens,
            kv_tokens=self._kv_capacity,
            kv_held=self.kv_decoding,
            waited_slot_s=self._slot_wait.slot_s,
            waited_rounds=self._slot_wait.rounds,
            prefill_budget=min(self._budget, requests.budget),
            just_stalled=self.just_stalled,
            progress=self.progress,
        )
        return self.policy.decide(view, self.cost)

    def begin_iteration(self, prompt_tokens: int, batch: int) -> Iteration:
        """The engine's next iteration carries so many prompt tokens and decoding sequences."""
        iteration = Iteration(prompt_tokens, batch, self.kv_decoding)
        self.just_stalled = iteration.action is Action.PREFILL and bool(self.decoding)
        if batch:
            self.progress.rounds += 1
            self.kv_decoding += len(self.decoding)
        if prompt_tokens:
            self._slot_wait.reset()
        elif batch:
            self._slot_wait.add(self._held_back, 1, self.cost.decode_s(batch, iteration.kv_tokens))
        return iteration

    def end_iteration(self, iteration: Iteration, seconds: float) -> None:
        """That iteration took so long, from the end of the one before if there was no pause."""
        if self._fit is None:
            return
        action = iteration.action
        if action is Action.DECODE:
            self._rounds += 1
            if self._rounds % ROUNDS_A_SAMPLE:
                return
        learnt = self._fit.observe(
            action, iteration.prompt_tokens, iteration.batch, iteration.kv_tokens, seconds
        )
        if learnt:
            self._learnt += 1
            if self._learnt % STEADY == 0:
                self.cost = self._fit.cost


def holds_back(decision: Decision, requests: UnprefilledRequests) -> bool:
    """Whether somebody who could be admitted is to be held back."""
    return decision.action is Action.DECODE and requests.admissible > 0
