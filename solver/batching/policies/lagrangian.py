"""The paper's rule: prefill once waiting for company costs as much as the stage.

Decides: a prefill stage when ``alpha_p * decoding <= waited + admissible * next_free``, all in
slot-seconds; else one more decode round.

Inputs: how many decode and are admissible, what idle slots have waited since the last prefill, when
the next running request is predicted to end, and the cost model.

Parameters: none.

Trade-off: weighs both sides in one unit, without any constant. It looks one completion ahead: on
the paper's data, lengths unknown, 186.82 s and 85.6 % utilization, where `prefill-first` takes
199.86 s and `adaptive`, longest first, 184.49 s.

When not to use it: where many are about to end together, or iterations can be mixed: it sees one
end at a time, and knows exclusive stages only.

Source: arXiv:2502.15763, the online rule, which compares the marginal costs of the two choices and
leaves the decoding side open; the form in slot-seconds with the avoidable cost alone is ours.
"""

from __future__ import annotations

from solver.batching.policy import Decision, EngineView, forced_decision
from solver.batching.sequence import Reason
from solver.cost.model import Action, CostModel


class Lagrangian:
    """Prefill when waiting for company costs as many slot-seconds as the stage (README section 5).

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
