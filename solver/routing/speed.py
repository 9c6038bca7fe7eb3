"""What a request takes of a whole fleet, in seconds: three factors, whatever waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from solver.cost.model import CostModel

LEAST_S = 1e-12  # of a cost model without one of its terms


@dataclass(frozen=True, slots=True)
class FleetSpeed:
    """Seconds of all workers together, each with full slots; 0 if there are none.

    Attributes:
        sequence_s, prompt_s, output_s: for one sequence, one prompt token and one output token.
    """

    sequence_s: float = 0.0
    prompt_s: float = 0.0
    output_s: float = 0.0

    @classmethod
    def of(cls, workers: Iterable[tuple[CostModel, int]]) -> FleetSpeed:
        """Of workers by cost model and slots; exact where they differ by a factor only."""
        sequence = prompt = output = 0.0
        for cost, slots in workers:
            sequence += 1.0 / max(LEAST_S, cost.alpha_p_s / slots)
            prompt += 1.0 / max(LEAST_S, cost.beta_p_s)
            output += 1.0 / max(LEAST_S, cost.alpha_d_s / slots + cost.beta_d_s)
        return cls(1.0 / sequence, 1.0 / prompt, 1.0 / output) if sequence else cls()

    def seconds(self, sequences: float, prompt_tokens: float, output_tokens: float) -> float:
        """Until all of it is done, with nothing else to do."""
        prefills_s = self.sequence_s * sequences + self.prompt_s * prompt_tokens
        return prefills_s + self.output_s * output_tokens
