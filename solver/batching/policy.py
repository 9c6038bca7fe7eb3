"""What an engine does next: a prefill stage, one more decode round, or both in one iteration.

Rules:
- with nothing to decode there is nothing to wait for: prefill what is there;
- with nothing that could be admitted, decode;
- in between, the policies differ, and that is all that they decide: which requests enter, and in
  which order, is `solver.batching.batcher`'s and `solver.batching.queue`'s.

Must not know: clocks, engines, requests. A policy sees counts, seconds and forecasts, and says why
it decided. The policies: `solver.batching.policies`, `solver.batching.policies.threshold`,
`solver.batching.policies.adaptive`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

from solver.batching.progress import Progress
from solver.batching.sequence import Reason
from solver.cost.model import Action, CostModel


@dataclass(frozen=True, slots=True)
class EngineView:
    """What a policy sees of an engine between two iterations.

    Attributes:
        slots: sequences that it can hold.
        decoding: slots that a prefill stage would stall.
        admissible: waiting requests that fit into free slots and memory now, and those admitted
            whose prefill is not over.
        waiting: all whose prefill is not over.
        prompt_tokens: tokens that the admissible ones still have to prefill.
        kv_tokens, kv_held: cached tokens that fit, and that are held.
        waited_slot_s: slot-seconds that slots have stood idle with somebody admissible, since the
            last prefill.
        waited_rounds: the same in decode rounds.
        prefill_budget: most prompt tokens in one iteration.
        just_stalled: the last iteration was a prefill stage in which some who decode stood still.
        progress: where those decoding stand, and what has ended.
        hurried: somebody admissible is not to wait for company.
    """

    slots: int
    decoding: int
    admissible: int
    waiting: int
    prompt_tokens: int
    kv_tokens: float
    kv_held: int
    waited_slot_s: float
    waited_rounds: int
    prefill_budget: float
    just_stalled: bool
    progress: Progress
    hurried: bool = False

    @property
    def stage_tokens(self) -> float:
        """Prompt tokens that a prefill now would carry."""
        return min(self.prompt_tokens, self.prefill_budget)

    def next_free_s(self, cost: CostModel) -> float:
        """Predicted seconds until one more comes in; infinite if nobody is left who would."""
        if self.admissible >= self.waiting:
            return inf
        return self.progress.next_end() * cost.decode_s(self.decoding, self.kv_held)


@dataclass(frozen=True, slots=True)
class Decision:
    """An action and its reason.

    Attributes:
        lasting: it stands until a request comes, leaves or has made its last token; else only for
            one iteration.
        max_admitted: requests to admit at most; None: all that are admissible.
        max_prompt_tokens: prompt tokens to prefill at most, beside the engine's own budget.
    """

    action: Action
    reason: Reason
    lasting: bool = False
    max_admitted: int | None = None
    max_prompt_tokens: float = inf


class IterationPolicy(Protocol):
    """Decides each iteration of an engine."""

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        """The next iteration, given the engine's current cost model."""
        ...


_NOTHING_ADMISSIBLE = Decision(Action.DECODE, Reason.NOTHING_ADMISSIBLE, lasting=True)
_IDLE = Decision(Action.IDLE, Reason.NOTHING_ADMISSIBLE)
_ENGINE_IDLE = Decision(Action.PREFILL, Reason.ENGINE_IDLE)


def forced_decision(view: EngineView) -> Decision | None:
    """The decision where there is no choice."""
    if view.admissible == 0:
        return _NOTHING_ADMISSIBLE if view.decoding else _IDLE
    return None if view.decoding else _ENGINE_IDLE
