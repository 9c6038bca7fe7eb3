"""The paper's rule: prefill once waiting for company costs what the stage costs."""

from __future__ import annotations

from solver.batching.policy import Decision, EngineView, forced_decision
from solver.batching.sequence import Reason
from solver.cost.model import Action, CostModel


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
        choice = forced_decision(view)
        if choice is not None:
            return choice
        waiting_slot_s = view.waited_slot_s + view.admissible * view.next_free_s(cost)
        if cost.alpha_p_s * view.decoding <= waiting_slot_s:
            return Decision(Action.PREFILL, Reason.WAIT_COST)
        return Decision(Action.DECODE, Reason.STALL_COST)
