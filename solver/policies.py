"""The iteration policies by name, and those of them that a few lines say."""

from __future__ import annotations

from collections.abc import Mapping

from solver.adaptive import Adaptive
from solver.cost import CostModel
from solver.iteration import Decision, EngineView, IterationPolicy, forced
from solver.sequence import Action, Reason
from solver.threshold import Threshold


class PrefillFirst:
    """Prefill whatever can be admitted, at once (vLLM v0; the paper's baseline)."""

    def decide(self, view: EngineView, cost: CostModel) -> Decision:  # noqa: ARG002
        """Prefill if anything is admissible."""
        return forced(view) or Decision(Action.PREFILL, Reason.SLOT_FREE)


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
            return forced(view) or Decision(Action.DECODE, Reason.NOTHING_ADMISSIBLE)
        tokens = max(1, self.budget - view.decoding)
        mixes = cost.mixed is not None and view.decoding > 0
        reason = Reason.SLOT_FREE if view.decoding else Reason.ENGINE_IDLE
        return Decision(Action.MIXED if mixes else Action.PREFILL, reason, tokens=tokens)


class Lagrangian:
    """Prefill when waiting for company costs as many slot-seconds as the stage (method.md, 5).

    A stage stalls every decoding slot. What sharing it with a later request would avoid of that is
    only the fixed cost alpha_p, since each prompt token must be prefilled at some time: so a stage
    costs ``alpha_p * decoding`` slot-seconds. Waiting costs the time that idle slots stand with
    work waiting for them: what they have stood already, and what they will until the next slot
    falls free. With slots falling free every tau seconds, k requests to a stage cost
    ``(alpha_p * decoding + tau * k * (k - 1) / 2) / k`` each, which is least at the first k whose
    successor would bring the waiting, ``tau * k * (k + 1) / 2``, up to the price of the stage.
    """

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        """Prefill when ``alpha_p * decoding <= waited + admissible * next_free`` slot-seconds."""
        choice = forced(view)
        if choice is not None:
            return choice
        waiting_slot_s = view.waited_slot_s + view.admissible * view.next_free_s(cost)
        if cost.alpha_p_s * view.decoding <= waiting_slot_s:
            return Decision(Action.PREFILL, Reason.WAIT_COST)
        return Decision(Action.DECODE, Reason.STALL_COST)


POLICIES: Mapping[str, type[IterationPolicy]] = {
    "prefill-first": PrefillFirst,
    "mixed": Mixed,
    "threshold": Threshold,
    "lagrangian": Lagrangian,
    "adaptive": Adaptive,
}
