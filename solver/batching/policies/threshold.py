"""EB(k): prefill once k of the N slots that memory holds safely are free.

Decides: a prefill stage when k slots are free, or when nobody else would join it; else decode
rounds. k = theta * N follows in closed form from the cost model and the output lengths seen lately:
theta for a constant hazard, and a correction where the hazard rises with age.

Inputs: counts of slots, of those decoding and waiting; prompt and output tokens of requests that
have ended; the cost model; the KV capacity. Nothing is asked of single requests.

Parameters:
- `REFRESH`: 32 requests have to end before lengths are estimated, and again between estimates:
  fewer would be noise, more would lag.
- `PRIOR_PROMPT`, `PRIOR_OUTPUT`: 512 and 256 tokens, which stand in until then: ordinary chats.
- `RISK`: 0.05, the source's epsilon: the probability that a batch that memory holds on average does
  not fit. Low, but no more: the engine's own gate on memory stays in force.
- `CAP_SHARE`: 0.05, the share of requests ending at the largest length seen above which that is a
  cap on lengths, and no hazard to fit.

Trade-off: one number to compare, and the best fixed threshold for geometric lengths. It waits as
long for the k-th slot when many are about to end as when few are, and never mixes.

When not to use it: where lengths are predicted well, or iterations can be mixed (small batches,
large fixed costs): `adaptive` sees both. With one slot or few, k rounds to 1: prefill first.

Source: arXiv:2606.00516 (EB+): the threshold, its correction for a rising hazard, and the batch
that memory holds safely; where we deviate, the function says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, log

import numpy as np

from solver.arrays import FloatArray
from solver.batching.policy import Decision, EngineView, forced_decision
from solver.batching.sequence import Reason
from solver.cost.model import Action, CostModel

# Lengths are estimated anew after so many requests have ended; until then these stand in.
REFRESH = 32
PRIOR_PROMPT, PRIOR_OUTPUT = 512.0, 256.0
# Risk that the batch which memory holds on average does not fit.
RISK = 0.05
# A share of requests that all end at the largest length seen is a cap on lengths, not a hazard.
CAP_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class LengthStatistics:
    """What finished requests tell: mean tokens, and the hazard ``slope * t + 1 / output``.

    `age`: output tokens that a running request has made on average, ``E[O^2] / (2 * E[O])``.
    """

    prompt: float
    output: float
    age: float
    slope: float


def length_statistics(finished: FloatArray) -> LengthStatistics:
    """From (n, 2) prompt and output tokens of finished requests, n > 0."""
    prompt, output = (float(mean) for mean in finished.mean(axis=0))
    age = float((finished[:, 1] ** 2).mean()) / (2 * output)
    return LengthStatistics(prompt, output, age, _hazard_slope(finished[:, 1]))


def _hazard_slope(outputs: FloatArray) -> float:
    """Least squares of ended / at risk over age, weighted by those at risk.

    Up to the 95th percentile, as the source has it; a cap's spike is left out.
    """
    most = outputs.max()
    capped = np.mean(outputs == most) > CAP_SHARE
    until = min(np.percentile(outputs, 95), most - 1 if capped else most)
    ages = np.arange(1, int(until) + 1)
    if len(ages) < 2:
        return 0.0
    ended = np.bincount(outputs.astype(np.int64), minlength=int(most) + 1)[1 : len(ages) + 1]
    at_risk = len(outputs) - np.concatenate(([0], np.cumsum(ended)[:-1]))
    hazard = ended / at_risk
    age = ages - np.average(ages, weights=at_risk)
    rise = hazard - np.average(hazard, weights=at_risk)
    return float(np.sum(at_risk * age * rise) / np.sum(at_risk * age**2))


def optimal_share(cost: CostModel, output: float) -> float:
    """Theta_0 of ``theta / (1 - theta) + ln(1 - theta) = alpha_p / (alpha_d * E[D])``."""
    if cost.alpha_p_s <= 0:
        return 0.0
    if cost.alpha_d_s <= 0:
        return 1.0  # idle slots cost nothing
    target = cost.alpha_p_s / (cost.alpha_d_s * output)
    low, high = 0.0, 1.0 - 1e-9
    for _ in range(50):
        theta = (low + high) / 2
        below = theta / (1 - theta) + log(1 - theta) < target
        low, high = (theta, high) if below else (low, theta)
    return high


def hazard_correction(
    theta: float, slope: float, slots: int, cost: CostModel, output: float
) -> float:
    """What a rising hazard adds to theta_0; at most half of it either way."""
    if theta <= 0 or theta >= 1 or cost.alpha_d_s <= 0:
        return 0.0
    zeta = -log(1 - theta)
    bracket = zeta * (theta / (1 - theta) - zeta / 2)
    bracket += cost.beta_d_s * slots / cost.alpha_d_s * (zeta - theta)
    added = slope * output**2 * (1 - theta) ** 2 / theta * bracket
    return max(-theta / 2, min(theta / 2, added))


def memory_safe_batch(kv_tokens: float, theta: float, prompt: float, age: float) -> float:
    """N*: sequences that memory for `kv_tokens` holds at once, but for a risk of `RISK`.

    The source has the mean output in the place of `age`, which is the same for the lengths without
    memory that it assumes; of lengths with a cap, that would leave half of the memory empty.
    """
    if not 0 < theta < 1 or kv_tokens == inf:
        return inf
    growth = (1 - theta) / theta * age * log(1 / (1 - theta))
    return max(1.0, (kv_tokens - log(1 / RISK) * age**2 / prompt) / (prompt + growth) // 1)


class Threshold:
    """Prefill when k of N slots are free, or when nobody else would join; see the module."""

    def __init__(self) -> None:
        self._lengths = LengthStatistics(PRIOR_PROMPT, PRIOR_OUTPUT, PRIOR_OUTPUT, 0.0)
        self._seen = 0
        self._for: CostModel | None = None
        self.slots, self.k = 1, 1

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        """Count the free slots among the N that memory holds safely."""
        choice = forced_decision(view)
        if choice is not None:
            return choice
        if cost != self._for or view.progress.finishes >= self._seen + REFRESH:
            self._estimate(view, cost)
        free = self.slots - view.decoding
        if free <= 0:
            return Decision(Action.DECODE, Reason.NOTHING_ADMISSIBLE, lasting=True)
        if free >= self.k:
            return Decision(Action.PREFILL, Reason.ENOUGH_FREE, max_admitted=free)
        if view.admissible >= view.waiting:
            return Decision(Action.PREFILL, Reason.NOBODY_JOINS, max_admitted=free)
        return Decision(Action.DECODE, Reason.STALL_COST, lasting=True)

    def _estimate(self, view: EngineView, cost: CostModel) -> None:
        progress = view.progress
        if progress.finishes >= REFRESH:
            self._lengths = length_statistics(np.array(progress.finished, dtype=np.float64))
            self._seen = progress.finishes
        known = self._lengths
        theta = optimal_share(cost, known.output)
        safe = memory_safe_batch(view.kv_tokens, theta, known.prompt, known.age)
        self.slots = int(min(view.slots, safe))
        theta += hazard_correction(theta, known.slope, self.slots, cost, known.output)
        self.k = max(1, ceil(theta * self.slots))
        self._for = cost
