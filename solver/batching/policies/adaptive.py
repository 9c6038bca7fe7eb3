"""Prefill, wait or mix, whichever costs the fewest slot-seconds: the default.

Decides: at each iteration whether to prefill now, in a stage or mixed into a decode round,
whichever is cheaper, or to decode and wait until others could share it. Everything is weighed in
slot-seconds that no request gets anything for:

- a prefill that others wait for costs its fixed time in every occupied slot; a mixed iteration
  costs what it takes beyond a decode round and its prompt tokens' own time. The cheaper one is the
  price of a stage;
- waiting one round costs each idle slot that somebody could fill its share of a round's fixed
  time. (What a round takes per sequence is not lost: it is paid when the sequence runs.)

So waiting n rounds for company costs so much, and lets as many more share the stage as are
predicted to end by then. What that saves is what they would pay for a stage of their own. Somebody
whose tenant comes back (`solver.routing.fair`) is waited with for a moment only.

Beside requests with a target between tokens, stalls have a price too. A stage then carries only so
many prompt tokens that a gap between two of their tokens lasts ``base + sqrt((target - base)^2 +
n * base * target / (STALL_PRICE * b))`` seconds, ``MOST * target`` at most: base is what the gap
lasts without a prompt (a mixed iteration; on exclusive engines a prefill's fixed time and a round),
n how many wait for their first token, b how many with a target decode, and the target the tightest
of theirs, or twice the base if that is longer. A full chunk waits for nobody; less than that is
weighed as ever; and between two prefill stages all who decode make a token.

Inputs: counts of slots, of those decoding, admissible and waiting; rounds that idle slots have
waited; how many are predicted to end within the next rounds; of those decoding that have a target,
how many they are and the tightest; the cost model.

Parameters:
- `STALL_PRICE`: 0.1, what a request-second of standing still between tokens weighs, in
  request-seconds of waiting for a first token. At 0.3 the longest stalls on A100 are an eighth
  shorter and first tokens come a tenth later, at 0.03 the other way round.
- `MOST`: 2.5 targets are the longest gap, however many wait: half a second at the usual 0.1 s a
  token.
- `HORIZONS`: 1, 2, 4, … 128 decode rounds ahead, at which waiting is weighed: near ends finely, far
  ones coarsely, so that a decision takes some 28 microseconds in all.

Trade-off: best for throughput: on the paper's data 184.49 s with lengths unknown and 175.54 s
known, where no schedule takes less than 173.40 s, and better than its baseline in all of 100 random
cases. Of the five policies its makespan is the best on all public traffic measured, but the slowest
tokens come late where prompts are very long: it prefills them whole.

When not to use it: where every token must come in time beside prompts of tens of thousands of
tokens: give the engine a prefill budget, or use `mixed`. On tiny engines (iterations of 3 ms) a
simpler rule saves the decision's own time.

Source: ours; the renewal argument is that of arXiv:2606.00516, on predicted completions.
"""

from __future__ import annotations

from math import inf, sqrt

import numpy as np

from solver.arrays import FloatArray
from solver.batching.policy import Decision, EngineView, forced_decision
from solver.batching.sequence import Reason
from solver.cost.model import Action, CostModel

# What a request-second of standing still between tokens weighs, in request-seconds of waiting for a
# first token.
STALL_PRICE = 0.1
# The longest gap between two tokens, in targets, however many wait.
MOST = 2.5
# Rounds ahead at which waiting is weighed.
HORIZONS = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])


def _trapezes() -> FloatArray:
    """(h, h) matrix that integrates a function from 0 (where it is 0) to each horizon."""
    half = np.diff(HORIZONS, prepend=0.0) / 2
    ends = np.tril(np.tile(half, (len(half), 1)))
    between = np.tril(np.tile(np.append(half[1:], 0.0), (len(half), 1)), -1)
    return np.asarray(ends + between, dtype=np.float64)


_TRAPEZES = _trapezes()


class Adaptive:
    """Waits only while some wait is expected to pay; see the module.

    The saving of one more participant is the least that a stage can cost each of those who take
    part in it: over the cycle that would begin now, the least of ``(price + waiting(m)) / ends(m)``
    over m (the renewal argument behind EB+'s threshold, but on the completions that are predicted,
    and exact also where many are about to end at once). Predictions may be wrong for long, so no
    wait may cost more than the stage that it was to save.
    """

    def decide(self, view: EngineView, cost: CostModel) -> Decision:
        """Compare prefilling now with every wait at `HORIZONS`."""
        choice = forced_decision(view)
        if choice is not None:
            return choice
        action, overhead_s, most = _cheaper(view, cost)
        if most < inf:
            if view.just_stalled:
                return Decision(Action.DECODE, Reason.STALL_TARGET)
            if view.prompt_tokens >= min(most, view.prefill_budget):
                return Decision(action, Reason.FULL_CHUNK, max_prompt_tokens=most)
        return self._weighed(view, cost, action, overhead_s, most)

    def _weighed(
        self, view: EngineView, cost: CostModel, action: Action, overhead_s: float, most: float
    ) -> Decision:
        """A stage of all that is admissible, or waiting for company."""
        if view.admissible >= view.waiting:
            return Decision(action, Reason.NOBODY_JOINS, max_prompt_tokens=most)
        if view.hurried:
            return Decision(action, Reason.HURRIED, max_prompt_tokens=most)
        price = overhead_s * (view.decoding + view.admissible)
        spent = cost.alpha_d_s * view.waited_rounds
        if price > max(spent, cost.alpha_d_s * view.admissible) and self._pays_to_wait(
            view, price, cost.alpha_d_s
        ):
            return Decision(Action.DECODE, Reason.STALL_COST)
        return Decision(action, Reason.WAIT_COST, max_prompt_tokens=most)

    def _pays_to_wait(self, view: EngineView, price: float, alpha_d_s: float) -> bool:
        others = float(view.waiting - view.admissible)
        ends = np.minimum(view.progress.ending_within(HORIZONS), others)
        meanwhile = alpha_d_s * (_TRAPEZES @ ends)  # what those wait who come before the stage
        share = float(((price + meanwhile) / np.maximum(ends, 1e-9)).min())
        costs = alpha_d_s * view.admissible * HORIZONS + meanwhile
        return bool((costs < share * ends).any())


def _cheaper(view: EngineView, cost: CostModel) -> tuple[Action, float, float]:
    """How to prefill, the seconds beyond what cannot be avoided, and the most prompt tokens."""
    paced = view.progress.stall.count > 0
    if cost.mixed is not None:
        batch, kv = view.decoding, view.kv_held
        most = _most_mixed(view, cost) if paced else inf
        tokens = min(view.stage_tokens, most)
        prompt_s = cost.prefill_s(tokens) - cost.alpha_p_s
        mixed_s = cost.mixed_s(tokens, batch, kv) - cost.decode_s(batch, kv) - prompt_s
        if mixed_s < cost.alpha_p_s:
            return Action.MIXED, max(0.0, mixed_s), most
    return Action.PREFILL, cost.alpha_p_s, _most_alone(view, cost) if paced else inf


def _most_mixed(view: EngineView, cost: CostModel) -> float:
    """Prompt tokens of a mixed iteration beside those who have a target."""
    longest_s = _longest_s(view, cost.mixed_s(0, view.decoding, view.kv_held))
    return _whole(cost.mixed_tokens(longest_s, view.decoding, view.kv_held))


def _most_alone(view: EngineView, cost: CostModel) -> float:
    """Prompt tokens of a stage between two rounds of those who have a target."""
    round_s = cost.decode_s(view.decoding, view.kv_held)
    return _whole(cost.prefill_tokens(_longest_s(view, cost.alpha_p_s + round_s) - round_s))


def _longest_s(view: EngineView, base_s: float) -> float:
    """Most seconds between two tokens, `base_s` of them whatever is prefilled; see the module."""
    stall = view.progress.stall
    target_s = max(stall.seconds, 2 * base_s)
    waiting_s2 = view.waiting * base_s * target_s / (STALL_PRICE * stall.count)
    longest_s = base_s + sqrt((target_s - base_s) ** 2 + waiting_s2)
    return min(longest_s, max(target_s, MOST * stall.seconds))


def _whole(tokens: float) -> float:
    """A chunk has one token at least, or there would be no end."""
    return max(1.0, tokens // 1) if tokens < inf else inf
