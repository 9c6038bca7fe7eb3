"""What requests that keep their targets take of an engine at least, whatever it does when.

An iteration's time is that of its prompt tokens, of its sequences, of the cached tokens that these
read, and a fixed time. All but the last belong to single requests. The fixed time may be split
among those who take part by any rule that never gives out more than the whole; then the shares of
any set of requests add up to no more than the seconds in which something was done for them.

Rules, as shares of one decode round; by each, a set of requests takes at least the sum of `Demand`:

- by slots: one of all who take part, of which there are J at most. A request's rounds after the
  first last `tpot_s` on average at most, so on average no more take part in them than in the round
  of just that time; and as ``1 / b`` is convex, its mean share is no less than in that round;
- by memory: its cached tokens over those that fit;
- by stalls: the seconds of its prompt over v, among requests whose `patience` is at most v. Of
  those in one round, take the one whose first token came first. What was prefilled of the others
  before that token was prefilled in the `ttft_s` before it, as was its own prompt, for else their
  first tokens, which are not earlier, would be late; what was prefilled since has stalled it, for
  at most the time that its own rounds leave of ``tpot_s * (output - 1)``. So the seconds of all
  their prompts are at most its patience.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

import numpy as np

from solver.arrays import BoolArray, FloatArray
from solver.batching.bounds import context_tokens
from solver.cost.model import CostModel

# Sums of times round; a target that is met exactly is met.
ROUNDING = 1e-9
# Shares of the requests whose patience is at most v: any v holds, and these show most of it.
PATIENCES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests and their targets, (n,) each.

    Attributes:
        arrival_s: seconds.
        prompt, output: tokens.
        uncached: prompt tokens that are prefilled at least.
        ttft_s, tpot_s: targets; infinite where there is none.
    """

    arrival_s: FloatArray
    prompt: FloatArray
    output: FloatArray
    uncached: FloatArray
    ttft_s: FloatArray
    tpot_s: FloatArray

    @property
    def decoding_s(self) -> FloatArray:
        """(n,) seconds from the first token to the last, at most."""
        later = self.output - 1
        return np.multiply(self.tpot_s, later, where=later > 0, out=np.zeros(len(later)))

    @property
    def later_context(self) -> FloatArray:
        """(n,) cached tokens read for all tokens after the first."""
        return context_tokens(self.prompt, self.output) - self.prompt

    @property
    def first_by_s(self) -> FloatArray:
        """(n,) when the first token is due."""
        return self.arrival_s + self.ttft_s

    @property
    def last_by_s(self) -> FloatArray:
        """(n,) when the last token is due, at the latest."""
        return self.first_by_s + self.decoding_s


@dataclass(frozen=True, slots=True)
class Demand:
    """Engine seconds by one rule: (n,) until the first token, and (n,) for all after it."""

    first_s: FloatArray
    later_s: FloatArray


@dataclass(frozen=True, slots=True)
class EngineKind:
    """What an engine is like: times, slots, cached tokens that fit, most prompt tokens at once."""

    cost: CostModel
    slots: int
    kv_tokens: float = inf
    prefill_budget: float = inf

    @property
    def rounds(self) -> list[tuple[float, float]]:
        """Fixed time of an iteration that decodes, and its time a sequence; for each kind of it."""
        cost, mixed = self.cost, self.cost.mixed
        exclusive = cost.alpha_d_s, cost.beta_d_s
        return [exclusive] if mixed is None else [exclusive, (mixed.alpha_m_s, mixed.beta_md_s)]

    @property
    def least_round(self) -> tuple[float, float]:
        """The least of both, be they of the same kind or not."""
        fixed, each = zip(*self.rounds, strict=True)
        return min(fixed), min(each)

    def prefill_s(self, asked: Asked) -> FloatArray:
        """(n,) seconds of prompt tokens, without anything fixed."""
        mixed, beta_s = self.cost.mixed, self.cost.beta_p_s
        return (beta_s if mixed is None else min(beta_s, mixed.beta_mp_s)) * asked.uncached

    def able(self, asked: Asked) -> BoolArray:
        """(n,) whether an engine that is empty could keep both targets."""
        cost, mixed = self.cost, self.cost.mixed
        stage_s = cost.alpha_p_s if mixed is None else min(cost.alpha_p_s, mixed.alpha_m_s)
        start_s = stage_s * np.ceil(asked.uncached / self.prefill_budget).clip(1)
        round_s = min(fixed + each for fixed, each in self.rounds)
        first_s = start_s + self.prefill_s(asked) + round_s + cost.gamma_d_s * asked.prompt
        mean_s = round_s + cost.gamma_d_s * (asked.prompt + asked.output / 2)
        in_time = first_s <= asked.ttft_s * (1 + ROUNDING)
        steady = (asked.output == 1) | (mean_s <= asked.tpot_s * (1 + ROUNDING))
        return np.asarray(in_time & steady)

    def demands(self, asked: Asked) -> list[Demand]:
        """By each rule, what each request takes at least if it keeps its targets here."""
        return [self._by_slots(asked), *self._by_memory(asked), *self._by_stalls(asked)]

    def _by_slots(self, asked: Asked) -> Demand:
        shares = np.full(len(asked.output), 1 / self.slots)
        found = self._split(asked, shares, shares, shares)
        # One more in a round adds its own time, and that of reading the shortest prompt at least.
        (fixed_s, each_s), gamma = self.least_round, self.cost.gamma_d_s
        shortest = float(asked.prompt.min(initial=inf))
        own_s = gamma * (asked.prompt + asked.output / 2 - shortest)
        more_s = each_s + gamma * shortest
        left_s = asked.tpot_s * (1 + ROUNDING) - fixed_s - own_s
        share = np.divide(more_s, left_s, where=left_s > more_s, out=np.ones(len(left_s)))
        round_s = fixed_s * np.maximum(share, 1 / self.slots) + each_s
        later_s = (asked.output - 1) * round_s + gamma * asked.later_context
        return Demand(found.first_s, np.maximum(found.later_s, later_s))

    def _by_memory(self, asked: Asked) -> Iterator[Demand]:
        if self.kv_tokens < inf:
            first = np.minimum(1.0, asked.prompt / self.kv_tokens)
            last = np.minimum(1.0, (asked.prompt + asked.output - 1) / self.kv_tokens)
            yield self._split(asked, first, first, last)

    def _by_stalls(self, asked: Asked) -> Iterator[Demand]:
        prefill_s, patience_s = self.prefill_s(asked), self._patience_s(asked)
        stages = asked.uncached / self.prefill_budget
        limited = patience_s[np.isfinite(patience_s)]
        if not len(limited):
            return
        for v in np.unique(np.quantile(limited, PATIENCES, method="inverted_cdf")):
            shares = np.where(patience_s <= v, prefill_s / v, 0.0)
            yield self._split(asked, stages, shares, shares)

    def _patience_s(self, asked: Asked) -> FloatArray:
        """(n,) seconds of prompts, its own and later ones, that keep its targets beside it."""
        fixed_s, each_s = self.least_round
        own_s = (asked.output - 1) * (fixed_s + each_s)
        own_s += self.cost.gamma_d_s * asked.later_context
        limited = np.isfinite(asked.ttft_s)
        longest_s = float(asked.ttft_s.max(initial=0.0, where=limited))
        return np.where(limited, longest_s + np.maximum(asked.decoding_s - own_s, 0.0), inf)

    def _split(
        self, asked: Asked, stage: FloatArray, first: FloatArray, last: FloatArray
    ) -> Demand:
        """Shares (n,) of a prefill stage, of the first token's round, and of the last one's.

        Between the two shares grow evenly, and the least of several kinds of rounds is concave in
        them: so its mean is at least that of both ends. With mixed iterations prompts are prefilled
        beside rounds, whose fixed time is not split twice.
        """
        cost = self.cost
        fixed_s = cost.alpha_p_s if cost.mixed is None else 0.0
        ends = [
            np.min([fixed * share + each for fixed, each in self.rounds], axis=0)
            for share in (first, last)
        ]
        first_s = ends[0] + cost.gamma_d_s * asked.prompt
        later_s = asked.output * (ends[0] + ends[1]) / 2 - ends[0]
        later_s += cost.gamma_d_s * asked.later_context
        return Demand(fixed_s * stage + self.prefill_s(asked) + first_s, later_s)
