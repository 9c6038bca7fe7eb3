"""Every time formula, once: how long an engine's iterations take.

Times are linear in tokens, batch and cached tokens (method.md section 1; arXiv:2502.15763 section
V-A). All seconds are wall-clock seconds of the worker in question: an engine that runs twice as
fast simply has a cost model scaled by one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from solver.errors import ProblemError

Number = TypeVar("Number", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class CostModel:
    """Linear iteration times of one engine under exclusive batching.

    A prefill stage of p tokens lasts ``alpha_p + beta_p * p`` seconds; a decode round of b
    sequences that hold kv cached tokens lasts ``alpha_d + beta_d * b + gamma_d * kv`` seconds.
    """

    alpha_p_s: float
    beta_p_s: float
    alpha_d_s: float
    beta_d_s: float
    gamma_d_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isfinite(value) or value < 0:
                raise ProblemError(f"cost model: {name} must be a number >= 0, not {value}")

    @classmethod
    def from_ms(cls, terms: Mapping[str, float]) -> CostModel:
        """Build from ``{"alpha_p_ms": 25, ...}``; an unknown or missing term is an error."""
        known = {f.name.removesuffix("_s") + "_ms": f for f in fields(cls)}
        for key in terms:
            if key not in known:
                raise ProblemError(f"cost model: unknown term {key!r}; known: {', '.join(known)}")
        required = [key for key in known if key != "gamma_d_ms"]
        for key in required:
            if key not in terms:
                raise ProblemError(f"cost model: {key} is missing")
        return cls(**{known[key].name: float(value) / 1000 for key, value in terms.items()})

    def to_ms(self) -> dict[str, float]:
        """The inverse of `from_ms`."""
        return {k.removesuffix("_s") + "_ms": v * 1000 for k, v in asdict(self).items()}

    def scaled(self, factor: float) -> CostModel:
        """The same engine with every time multiplied by `factor`."""
        return CostModel(**{name: value * factor for name, value in asdict(self).items()})

    def prefill_s(self, tokens: float) -> float:
        """Seconds of one prefill stage over `tokens` prompt tokens."""
        return self.alpha_p_s + self.beta_p_s * tokens

    def decode_s(self, batch: float, kv_tokens: float = 0.0) -> float:
        """Seconds of one decode round of `batch` sequences holding `kv_tokens` in all."""
        return self.alpha_d_s + self.beta_d_s * batch + self.gamma_d_s * kv_tokens

    def request_s(self, prompt: Number, output: Number, occupancy: float) -> Number:
        """Engine seconds that one request adds to a worker that runs `occupancy` requests at once.

        The fixed cost of an iteration is shared by all who take part in it, so the sum of this over
        the requests of a worker is the time until it has done them all, if its slots stay filled:
        the terms of the lower bound in method.md section 3.
        """
        share_s = self.alpha_d_s / occupancy + self.beta_d_s
        context = prompt + output / 2
        return (
            self.alpha_p_s / occupancy
            + self.beta_p_s * prompt
            + (share_s + self.gamma_d_s * context) * output
        )

    def span_s(self, prompt: Number, output: Number, occupancy: float) -> Number:
        """Seconds from admission to last token of one request, `occupancy` requests running.

        However little work a worker has, a request cannot end before its own tokens are made, one
        round each.
        """
        context = prompt + output / 2
        round_s = self.decode_s(occupancy) + self.gamma_d_s * occupancy * context
        return self.alpha_p_s + self.beta_p_s * prompt + output * round_s

    def backlog_s(
        self, prefills: float, prompt: float, output: float, kv_tokens: float, occupancy: float
    ) -> float:
        """Engine seconds to finish what a worker has been given.

        `prefills` requests with `prompt` tokens in all still wait for their prefill; `output`
        tokens are still to be made in all, by sequences holding `kv_tokens` in all.
        """
        held = self.gamma_d_s * kv_tokens / occupancy
        round_share_s = self.alpha_d_s / occupancy + self.beta_d_s + held
        return (
            self.alpha_p_s * prefills / occupancy + self.beta_p_s * prompt + round_share_s * output
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """A model on its hardware: cost model, slots and memory for cached tokens."""

    model: str
    cost: CostModel
    slots: int
    kv_tokens: int
    max_model_len: int


PROFILES: Mapping[str, Profile] = {
    # LLaMA-65B on eight Ascend 64 GB: 1,024 KV blocks of 128 tokens, 200 clients (arXiv:2502.15763
    # section V-A); 2,048 tokens is LLaMA's context length (arXiv:2302.13971).
    "llama-65b-ascend": Profile(
        model="llama-65b",
        cost=CostModel(alpha_p_s=0.025, beta_p_s=0.00013, alpha_d_s=0.029, beta_d_s=0.00021),
        slots=200,
        kv_tokens=1024 * 128,
        max_model_len=2048,
    ),
}
