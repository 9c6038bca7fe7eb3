"""What an engine does next: a prefill stage, or one more decode round.

Rules:
- with nothing to decode there is nothing to wait for: prefill what is there;
- with nothing that could be admitted, decode;
- in between, the policies differ, and that is all that they decide: which requests enter, and in
  which order, is `solver.batching`.

Must not know: clocks, engines, requests. A policy sees counts and seconds, and says why it decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from solver.cost import CostModel


class Action(StrEnum):
    """What the engine's next iteration is."""

    PREFILL = "prefill"
    DECODE = "decode"
    IDLE = "idle"


class Reason(StrEnum):
    """Why; the label of ``prefill_insertions_total``."""

    ENGINE_IDLE = "engine_idle"  # nothing was being decoded
    SLOT_FREE = "slot_free"  # a slot was free, which is enough for prefill-first
    WAIT_COST = "wait_cost"  # idle slots had lost as much as the stage costs those who decode
    NOTHING_ADMISSIBLE = "nothing_admissible"
    STALL_COST = "stall_cost"  # a stage now would cost more than waiting has


@dataclass(frozen=True, slots=True)
class EngineView:
    """What a policy sees of an engine between two iterations.

    Attributes:
        decoding: slots that a prefill stage would stall.
        admissible: waiting requests that fit into free slots and memory now.
        waited_slot_s: slot-seconds that slots have stood idle with such a request waiting, since
            the last prefill stage.
        next_free_s: predicted seconds until a running request ends and lets one more in that
            waits; infinite if none is left that would come in then.
    """

    decoding: int
    admissible: int
    waited_slot_s: float
    next_free_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """An action and its reason."""

    action: Action
    reason: Reason


class IterationPolicy(Protocol):
    """Decides each iteration of an engine."""

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        """The next iteration, given the engine's current cost model."""
        ...


_NOTHING_ADMISSIBLE = Decision(Action.DECODE, Reason.NOTHING_ADMISSIBLE)
_IDLE = Decision(Action.IDLE, Reason.NOTHING_ADMISSIBLE)
_ENGINE_IDLE = Decision(Action.PREFILL, Reason.ENGINE_IDLE)


def _forced(view: EngineView) -> Decision | None:
    """The decision where there is no choice."""
    if view.admissible == 0:
        return _NOTHING_ADMISSIBLE if view.decoding else _IDLE
    return None if view.decoding else _ENGINE_IDLE


class PrefillFirst:
    """Prefill whatever can be admitted, at once (vLLM v0; the paper's baseline)."""

    def decide(self, view: EngineView, cost: CostModel) -> Decision:  # noqa: ARG002
        """Prefill if anything is admissible."""
        return _forced(view) or Decision(Action.PREFILL, Reason.SLOT_FREE)


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
        forced = _forced(view)
        if forced is not None:
            return forced
        waiting_slot_s = view.waited_slot_s + view.admissible * view.next_free_s
        if cost.alpha_p_s * view.decoding <= waiting_slot_s:
            return Decision(Action.PREFILL, Reason.WAIT_COST)
        return Decision(Action.DECODE, Reason.STALL_COST)


POLICIES: Mapping[str, type[IterationPolicy]] = {
    "prefill-first": PrefillFirst,
    "lagrangian": Lagrangian,
}
