"""Every time formula, once: how long an engine's iterations take.

Times are linear in tokens, batch and cached tokens (README section 1; arXiv:2502.15763 section
V-A), and where an engine's attention shows, in pairs of a query and a key too. All seconds are
wall-clock seconds of the worker in question: an engine that runs twice as fast simply has a cost
model scaled by one half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from math import inf, sqrt
from operator import attrgetter
from typing import Any, Protocol, TypeVar

import numpy as np

from solver.arrays import FloatArray
from solver.errors import ProblemError

Number = TypeVar("Number", float, FloatArray)
Term_co = TypeVar("Term_co", bound=float | FloatArray, covariant=True)

MIXED = ("alpha_m_s", "beta_mp_s", "beta_md_s")
PROMPT_TERMS = frozenset({"alpha_p_s", "beta_p_s", "beta_mp_s", "delta_s"})  # of prefills
# An hour: no engine has an iteration, let alone a token, that takes so long.
MOST_MS = 3.6e6


def _in_ms(name: str) -> str:
    return name.removesuffix("_s") + "_ms"


class Action(StrEnum):
    """What an engine's iteration is."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class MixedTerms:
    """The fixed time of a mixed iteration, and its time per prompt token and per decode token."""

    alpha_m_s: float
    beta_mp_s: float
    beta_md_s: float


@dataclass(frozen=True, slots=True)
class CostModel:
    """Iteration times of one engine.

    A prefill stage of p tokens lasts ``alpha_p + beta_p * p + delta * p * p`` seconds; a decode
    round of b sequences that hold kv cached tokens lasts ``alpha_d + beta_d * b + gamma_d * kv``
    seconds; a mixed iteration ``alpha_m + beta_mp * p + beta_md * b + gamma_d * kv +
    delta * (p + b) * (p + kv)``. The mixed terms are all there or all None: then the engine knows
    no mixed iterations. `delta` is the time of one query and key where prompts are packed into one
    attention matrix; bounds and plans leave it out.
    """

    alpha_p_s: float
    beta_p_s: float
    alpha_d_s: float
    beta_d_s: float
    gamma_d_s: float = 0.0
    alpha_m_s: float | None = None
    beta_mp_s: float | None = None
    beta_md_s: float | None = None
    delta_s: float = 0.0

    def __post_init__(self) -> None:
        missing = 0
        for name, value in zip(TERMS, _all_terms(self), strict=True):
            if value is None:
                missing += 1
            elif not 0 <= value < inf:
                raise ProblemError(f"cost model: {name} must be a number >= 0, not {value}")
        if 0 < missing < len(MIXED):
            wanted = ", ".join(_in_ms(name) for name in MIXED if getattr(self, name) is None)
            raise ProblemError(f"cost model: mixed iterations need {wanted} too")

    @classmethod
    def names_ms(cls) -> frozenset[str]:
        """The terms that `from_ms` knows."""
        return frozenset(_in_ms(field.name) for field in fields(cls))

    @classmethod
    def from_ms(cls, terms: Mapping[str, float]) -> CostModel:
        """Build from ``{"alpha_p_ms": 25, ...}``; an unknown or missing term is an error."""
        known = {_in_ms(f.name): f for f in fields(cls)}
        for key in terms:
            if key not in known:
                raise ProblemError(f"cost model: unknown term {key!r}; known: {', '.join(known)}")
        for key, field in known.items():
            if key not in terms and field.default is MISSING:
                raise ProblemError(f"cost model: {key} is missing")
        for key, value in terms.items():
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value <= MOST_MS
            ):
                raise ProblemError(
                    f"cost model: {key} must be a number from 0 to {MOST_MS:g} ms, not {value!r}"
                )
        return cls(**{known[key].name: float(value) / 1000 for key, value in terms.items()})

    def to_ms(self) -> dict[str, float]:
        """The inverse of `from_ms`."""
        return {_in_ms(name): value * 1000 for name, value in self._terms().items()}

    def scaled(self, factor: float, prefill: float | None = None) -> CostModel:
        """The same engine with every time multiplied by `factor`, or prompts' by `prefill`."""
        by = factor, factor if prefill is None else prefill
        terms: Iterable[Any] = _all_terms(self)
        return CostModel(*[term and term * by[k] for term, k in zip(terms, _PROMPTS, strict=True)])

    @property
    def mixed(self) -> MixedTerms | None:
        """The terms of mixed iterations, if the engine knows them."""
        if self.alpha_m_s is None or self.beta_mp_s is None or self.beta_md_s is None:
            return None
        return MixedTerms(self.alpha_m_s, self.beta_mp_s, self.beta_md_s)

    def _terms(self) -> dict[str, float]:
        terms = zip(TERMS, _all_terms(self), strict=True)
        return {name: value for name, value in terms if value is not None}

    def prefill_s(self, tokens: float) -> float:
        """Seconds of one prefill stage over `tokens` prompt tokens."""
        return self.alpha_p_s + (self.beta_p_s + self.delta_s * tokens) * tokens

    def decode_s(self, batch: float, kv_tokens: float = 0.0) -> float:
        """Seconds of one decode round of `batch` sequences holding `kv_tokens` in all."""
        return self.alpha_d_s + self.beta_d_s * batch + self.gamma_d_s * kv_tokens

    def mixed_s(self, tokens: float, batch: float, kv_tokens: float = 0.0) -> float:
        """Seconds of an iteration over `tokens` prompt tokens and `batch` decoding sequences.

        Raises:
            ProblemError: if the engine knows no mixed iterations.
        """
        mixed = self.mixed
        if mixed is None:
            raise ProblemError("cost model: it has no terms for mixed iterations")
        return (
            mixed.alpha_m_s
            + mixed.beta_mp_s * tokens
            + mixed.beta_md_s * batch
            + self.gamma_d_s * kv_tokens
            + self.delta_s * (tokens + batch) * (tokens + kv_tokens)
        )

    def prefill_tokens(self, seconds: float) -> float:
        """Prompt tokens of the prefill stage that lasts so long; 0 if none is so short."""
        return root(seconds - self.alpha_p_s, self.beta_p_s, self.delta_s)

    def mixed_tokens(self, seconds: float, batch: float, kv_tokens: float = 0.0) -> float:
        """Prompt tokens of the mixed iteration that lasts so long; 0 if none is so short.

        Raises:
            ProblemError: if the engine knows no mixed iterations.
        """
        rest_s = seconds - self.mixed_s(0.0, batch, kv_tokens)
        slope = (self.beta_mp_s or 0.0) + self.delta_s * (batch + kv_tokens)
        return root(rest_s, slope, self.delta_s)

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


def root(value: float, slope: float, curve: float) -> float:
    """The x >= 0 at which ``slope * x + curve * x * x`` is `value`; infinite if it never is.

    In the form in which nothing cancels out, however small `curve` is.
    """
    if not 0 < value < inf:
        return max(0.0, value)
    below = slope + sqrt(slope * slope + 4 * curve * value)
    return 2 * value / below if below else inf


TERMS = tuple(field.name for field in fields(CostModel))
_all_terms = attrgetter(*TERMS)
_PROMPTS = [name in PROMPT_TERMS for name in TERMS]


@dataclass(frozen=True, slots=True)
class CostColumns:
    """The exclusive terms of m cost models, (m,) each: for a whole matrix of times at once."""

    alpha_p_s: FloatArray
    beta_p_s: FloatArray
    alpha_d_s: FloatArray
    beta_d_s: FloatArray
    gamma_d_s: FloatArray

    @classmethod
    def of(cls, models: Sequence[CostModel]) -> CostColumns:
        """One column a model."""
        rows = np.array([_exclusive_terms(model) for model in models], dtype=np.float64)
        return cls(*rows.reshape(len(models), 5).T.copy())


_exclusive_terms = attrgetter(*(field.name for field in fields(CostColumns)))


class Terms(Protocol[Term_co]):
    """The exclusive terms of one cost model, or of several at once."""

    @property
    def alpha_p_s(self) -> Term_co:
        """Seconds of a prefill stage, whatever its tokens."""
        ...

    @property
    def beta_p_s(self) -> Term_co:
        """Seconds a prompt token."""
        ...

    @property
    def alpha_d_s(self) -> Term_co:
        """Seconds of a decode round, whatever its batch."""
        ...

    @property
    def beta_d_s(self) -> Term_co:
        """Seconds a sequence and round."""
        ...

    @property
    def gamma_d_s(self) -> Term_co:
        """Seconds a cached token and round."""
        ...


def request_s(cost: Terms[Number], prompt: Number, output: Number, occupancy: Number) -> Number:
    """Engine seconds that one request adds to a worker that runs `occupancy` requests at once.

    The fixed cost of an iteration is shared by all who take part in it, so the sum of this over the
    requests of a worker is the time until it has done them all, if its slots stay filled: the terms
    of the lower bound in README section 3.
    """
    share_s = cost.alpha_d_s / occupancy + cost.beta_d_s
    context = prompt + output / 2
    prefill_s = cost.alpha_p_s / occupancy + cost.beta_p_s * prompt
    return prefill_s + (share_s + cost.gamma_d_s * context) * output


def span_s(cost: Terms[Number], prompt: Number, output: Number, occupancy: Number) -> Number:
    """Seconds from admission to last token of one request, `occupancy` requests running.

    However little work a worker has, a request cannot end before its own tokens are made, one round
    each.
    """
    context = prompt + output / 2
    round_s = cost.alpha_d_s + (cost.beta_d_s + cost.gamma_d_s * context) * occupancy
    return cost.alpha_p_s + cost.beta_p_s * prompt + round_s * output
