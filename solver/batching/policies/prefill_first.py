"""vLLM v0, and the baseline of arXiv:2502.15763: whatever can be admitted is prefilled at once."""

from __future__ import annotations

from solver.batching.policy import Decision, EngineView, forced_decision
from solver.batching.sequence import Reason
from solver.cost.model import Action, CostModel


class PrefillFirst:
    """Prefill whatever can be admitted, at once (vLLM v0; the paper's baseline)."""

    def decide(self, view: EngineView, cost: CostModel) -> Decision:  # noqa: ARG002
        """Prefill if anything is admissible."""
        return forced_decision(view) or Decision(Action.PREFILL, Reason.SLOT_FREE)
