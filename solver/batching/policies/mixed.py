"""Chunked prefill: every iteration decodes, and prefills prompts with what is left of its budget.

Decides: a mixed iteration with a token of each running sequence and as many prompt tokens as the
budget leaves, long prompts in chunks. On a cost model without mixed iterations it prefills first.

Inputs: how many decode, whether anybody is admissible, and whether the engine can mix.

Parameters:
- `budget`: 2,048 tokens an iteration, prompts and decoded ones together; vLLM's default for serving
  (`max_num_batched_tokens`). The engine's own prefill budget applies besides.

Trade-off: nobody who decodes stands still, however long the prompts of others are, so time per
token is even. Each iteration with prompt tokens is longer for all who decode, and mixing has a
price of its own: with prompts of 16 to 384 tokens on the tiny model under transformers it made 549
output tokens per CPU second, `adaptive` 771.

When not to use it: where throughput of a backlog is what counts and iterations are short, or where
a mixed iteration costs much more than its parts.

Source: Sarathi-Serve, arXiv:2403.02310; vLLM v1 (`vllm/v1/core/sched/scheduler.py`).
"""

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
