"""Chunked prefill, as in vLLM v1: every iteration decodes, and prefills with what is left."""

from __future__ import annotations

from solver.batching.policy import Decision, EngineView, forced_decision
from solver.batching.sequence import Reason
from solver.cost.model import Action, CostModel


class Mixed:
    """Chunked prefill (vLLM v1; Sarathi-Serve, arXiv:2403.02310).

    Every iteration carries a token of each running sequence and fills the rest of its token budget
    with prompts, in chunks. On a cost model without mixed iterations it prefills first.
    """

    # vLLM's default for serving, `max_num_batched_tokens`.
    budget = 2048

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        """Everything that fits into one iteration."""
        if not view.admissible:
            return forced_decision(view) or Decision(Action.DECODE, Reason.NOTHING_ADMISSIBLE)
        tokens = max(1, self.budget - view.decoding)
        mixes = cost.mixed is not None and view.decoding > 0
        reason = Reason.SLOT_FREE if view.decoding else Reason.ENGINE_IDLE
        return Decision(Action.MIXED if mixes else Action.PREFILL, reason, max_prompt_tokens=tokens)
