"""How fast an engine could have been: the work of a busy period, and its lower bound."""

from __future__ import annotations

from dataclasses import dataclass

from solver.batching.bounds import Work, engine_bound
from solver.cost.model import CostModel


@dataclass(slots=True)
class BusyPeriod:
    """Work done since the engine last had none, for the bound on how fast it could have been."""

    started_s: float
    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    context_tokens: int = 0
    longest_output: int = 0

    def bound_s(self, cost: CostModel, slots: int) -> float:
        """Seconds that this work takes at least."""
        work = Work(
            requests=self.requests,
            prompt=self.prompt_tokens,
            output=self.output_tokens,
            longest_output=self.longest_output,
            context=self.context_tokens,
        )
        return engine_bound(cost, slots, work)
