"""Lower bounds on the time that engines need (README section 3): no schedule beats them.

Every term is a plain relaxation; the docstrings say of what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from solver.arrays import FloatArray
from solver.cost.model import CostModel


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine has to do.

    Attributes:
        requests: how many.
        prompt, output: tokens in all.
        longest_output: most output tokens of one request.
        context: over all output tokens, the cached tokens that making each one reads.
    """

    requests: int
    prompt: int
    output: int
    longest_output: int
    context: int = 0


def engine_bound(
    cost: CostModel,
    slots: int,
    work: Work,
    *,
    kv_tokens: float = inf,
    prefill_budget: float = inf,
) -> float:
    """Seconds that one engine needs at least for all its work.

    Each prompt token is prefilled once; at most `slots` requests enter, and at most
    `prefill_budget` tokens are prefilled, in one stage; each output token is one slot-round that
    reads its context; a round makes at most `slots` tokens and reads at most `kv_tokens`; a
    request's tokens are made one a round.
    """
    rounds = max(ceil(work.output / slots), work.longest_output, ceil(work.context / kv_tokens))
    reading = cost.gamma_d_s * work.context
    if cost.mixed is not None:
        return _mixed_bound(cost, slots, work, rounds) + reading
    stages = max(ceil(work.requests / slots), ceil(work.prompt / prefill_budget))
    return (
        cost.beta_p_s * work.prompt
        + cost.alpha_p_s * stages
        + cost.beta_d_s * work.output
        + cost.alpha_d_s * rounds
        + reading
    )


def _mixed_bound(cost: CostModel, slots: int, work: Work, rounds: int) -> float:
    """Where iterations may be mixed: each is taken to be of the cheaper kind.

    The first one decodes nothing. A round of b takes at least ``min(alpha_d + beta_d * b, alpha_m +
    beta_md * b)``, which is concave in b: so a token costs at least its share of a full round.
    """
    mixed = cost.mixed
    assert mixed is not None
    if not work.requests:
        return 0.0
    alpha = min(cost.alpha_d_s, mixed.alpha_m_s)
    beta = min(cost.beta_d_s, mixed.beta_md_s)
    full = min(cost.decode_s(slots), mixed.alpha_m_s + mixed.beta_md_s * slots)
    decode = max(alpha * rounds + beta * work.output, work.output / slots * full)
    first = min(cost.alpha_p_s, mixed.alpha_m_s)
    return first + min(cost.beta_p_s, mixed.beta_mp_s) * work.prompt + decode


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine of a fleet: its times and slots."""

    cost: CostModel
    slots: int


def fleet_bound(
    engines: Sequence[Engine],
    arrival: FloatArray,
    prompt: FloatArray,
    output: FloatArray,
    busy_s: Sequence[float] = (),
) -> float:
    """Seconds from time 0 until a fleet has done all requests, whoever does which.

    `arrival` (n,) seconds, ascending; `prompt` (n,) tokens to prefill at least (less what a cached
    prefix could save), `output` (n,) tokens. No request ends before it would alone, on the engine
    that is best for it; and what arrives from any moment on takes at least its engine time, spread
    over all engines as if it were liquid. `busy_s` of each engine is what it has to do besides.
    """
    if not len(arrival):
        return max(busy_s, default=0.0)
    kinds = list({(engine.cost, engine.slots) for engine in engines})
    counts = np.array([sum((e.cost, e.slots) == kind for e in engines) for kind in kinds])
    alone = np.min([_alone(cost, prompt, output) for cost, _ in kinds], axis=0)
    liquid = np.array([_liquid(cost, slots, prompt, output) for cost, slots in kinds])
    speed = np.median(liquid[0] / liquid, axis=1)  # any weights give a valid bound
    least = (liquid * speed[:, None]).min(axis=0) / float((speed * counts).sum())
    still = least[::-1].cumsum()[::-1]
    bound = float(max((arrival + alone).max(), (arrival + still).max()))
    if not busy_s:
        return bound
    fast = {kind: float(own) for kind, own in zip(kinds, speed, strict=True)}
    own = [fast[engine.cost, engine.slots] for engine in engines]
    besides = sum(each * s for each, s in zip(own, busy_s, strict=True)) / sum(own)
    return max(bound, float(least.sum()) + besides, *busy_s)


def _alone(cost: CostModel, prompt: FloatArray, output: FloatArray) -> FloatArray:
    """(n,) seconds of each request in an empty engine."""
    mixed = cost.mixed
    round_s = cost.decode_s(1)
    start, beta_p = cost.alpha_p_s, cost.beta_p_s
    if mixed is not None:
        start, beta_p = min(start, mixed.alpha_m_s), min(beta_p, mixed.beta_mp_s)
        round_s = min(round_s, mixed.alpha_m_s + mixed.beta_md_s)
    return (
        start + beta_p * prompt + round_s * output + cost.gamma_d_s * context_tokens(prompt, output)
    )


def _liquid(cost: CostModel, slots: int, prompt: FloatArray, output: FloatArray) -> FloatArray:
    """(n,) engine seconds of each request at full slots: its share of what it takes part in."""
    mixed = cost.mixed
    round_s, beta_p, share = cost.decode_s(slots), cost.beta_p_s, cost.alpha_p_s / slots
    if mixed is not None:
        round_s = min(round_s, mixed.alpha_m_s + mixed.beta_md_s * slots)
        beta_p, share = min(beta_p, mixed.beta_mp_s), 0.0
    reading = cost.gamma_d_s * context_tokens(prompt, output)
    return share + beta_p * prompt + round_s / slots * output + reading


def context_tokens(prompt: FloatArray, output: FloatArray) -> FloatArray:
    """(n,) cached tokens that each reads in all: its prompt and what it has made, at each token."""
    return prompt * output + output * (output - 1) / 2
