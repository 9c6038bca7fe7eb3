"""Which requests certainly miss a target, so that refusing them at once takes nothing from anybody.

Certain is what no luck prevents. A request misses unless some worker that may serve it could keep
both of its targets although
- it is the next to be begun there, before all that was sent and has not begun;
- every iteration is as short as that worker's cost model lets any be, with nobody beside it;
- of its prompt only so much is computed as surely must be, the rest being cached;
- answers that may end with any token end with their next one: only those who hold a slot and must
  go on (`ignore_eos`) are surely in the way.
So what is found here is a bound: no order, policy, length or cache makes a first token come sooner.
It is as certain as the cost models, and as long as no client leaves and no worker joins. Where a
worker was seen to do better than its cost model says, that counts; of a worker whose times are only
assumed nothing is certain (`UNKNOWN`).

Must not know: clocks, queues, who else waits. Whoever asks does so again as time passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from solver.batching.targets import Targets
from solver.cost.model import CostModel


@dataclass(frozen=True, slots=True)
class Held:
    """A slot that its request surely holds: tokens that it makes at least, and since when it may.

    Attributes:
        tokens: of its whole answer.
        since_s: seconds since it was sent.
    """

    tokens: int
    since_s: float

    @property
    def rounds(self) -> int:
        """That it takes at least, from when it was sent on: the first token needs none."""
        return self.tokens - 1


@dataclass(frozen=True, slots=True)
class Seen:
    """The shortest times that a worker was seen to take, in seconds, for whatever requests."""

    ttft_s: float = inf
    tpot_s: float = inf


NOTHING_SEEN = Seen()


@dataclass(frozen=True, slots=True)
class Floor:
    """Times that a worker certainly does not beat for one request, in seconds; 0: nothing is known.

    Attributes:
        wait_s: until it can begin the request.
        prefill_s: from then on to the first token.
        round_s: between two tokens.
    """

    wait_s: float = 0.0
    prefill_s: float = 0.0
    round_s: float = 0.0

    @classmethod
    def of(
        cls,
        cost: CostModel,
        slots: int,
        prompt_tokens: int,
        held: Sequence[Held] = (),
        seen: Seen = NOTHING_SEEN,
    ) -> Floor:
        """By a worker's cost model; `prompt_tokens` are those that it surely has to compute."""
        round_s, prefill_s = cost.decode_s(1), cost.alpha_p_s + cost.beta_p_s * prompt_tokens
        if cost.mixed is not None:
            mixed_s = cost.mixed.alpha_m_s + cost.mixed.beta_mp_s * prompt_tokens
            round_s, prefill_s = min(round_s, cost.mixed_s(0, 1)), min(prefill_s, mixed_s)
        round_s, prefill_s = min(round_s, seen.tpot_s), min(prefill_s, seen.ttft_s)
        wait_s = 0.0
        if len(held) >= slots:
            wait_s = max(0.0, min(one.rounds * round_s - one.since_s for one in held))
        return cls(wait_s, prefill_s, round_s)


UNKNOWN = Floor()


@dataclass(frozen=True, slots=True)
class Miss:
    """A target that is certainly missed.

    Attributes:
        best_s: what the target would have to be at least to be in reach.
        again_s: seconds after which the same request, sent anew, might keep it; infinite: never, as
            the workers are now.
    """

    target: Literal["ttft", "tpot"]
    best_s: float
    again_s: float


def find_miss(targets: Targets, waited_s: float, floors: Sequence[Floor]) -> Miss | None:
    """The target that a request which has waited so long certainly misses; None if there is none.

    `floors` are those of the workers that may serve it; without any there is nothing to say.
    """
    if not floors:
        return None
    able = _able(targets, floors)
    if not able:
        return Miss("tpot", min(floor.round_s for floor in floors), inf)
    best_s = waited_s + min(floor.wait_s + floor.prefill_s for floor in able)
    if best_s <= targets.ttft_s:
        return None
    waits = (
        max(0.0, floor.wait_s + floor.prefill_s - targets.ttft_s)
        for floor in able
        if floor.prefill_s <= targets.ttft_s
    )
    return Miss("ttft", best_s, min(waits, default=inf))


def last_call_s(targets: Targets, floors: Sequence[Floor]) -> float:
    """Seconds that a request may wait before it certainly misses its first token's target.

    Whoever holds a slot now may be gone by then. Infinite without such a target.
    """
    return targets.ttft_s - min((floor.prefill_s for floor in _able(targets, floors)), default=0.0)


def _able(targets: Targets, floors: Sequence[Floor]) -> list[Floor]:
    """Those that could keep the time between tokens."""
    return [floor for floor in floors if floor.round_s <= targets.tpot_s]
