"""The objective's formulas, for arrays of pairs and for plain numbers alike.

`solver.routing.objective` says what they mean, and values all pairs of a plan at once, as arrays;
`solver.routing.few` values a few as plain numbers, in a tenth of the time. Both come to the same
figures, to the last bit, as they come from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import Any

import numpy as np

from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS

# A second without a first token counts as three: one as any other, two as it is waited blindly.
FIRST_TOKEN = 2.0
# A target that is missed by a second has cost its user more than a second: the first count eight
# times, so that an answer is lost once it is late by an eighth of its time. What is lost cannot be
# lost again: of what they count more, half is lost at ten seconds, and further ones are ever more
# like any others. Where targets cannot be kept by all, those are served who still can. No first
# token is known to the second: the price of one rises to that, the nearer it comes to its target.
LATE, LOST_S = 8.0, 10.0
# What others lose counts as much where their tokens come at the limit. Where much sooner, a tenth:
# nobody sees it, and it only makes ends later. Between the two the chance that one is late for it
# rises steeply, by the cube, as over a whole answer its rounds are nearly those of any other.
IN_TIME = 0.1
# That all is done holds nobody up in a stream, and everybody in a batch; half is enough for
# the batch, as the term is zero for all but the few who end last.
MAKESPAN = 0.5
# What one worker has of a prompt and another gets, too, pushes out as much that will be asked for
# again: a second of its prefill costs whoever asks for that as much as it costs here.
TWICE = 1.0
# What one answer in fifty is longer than expected is two standard deviations, or more where tails
# are heavy (a normal one: 2.05, an exponential one: 2.9).
DEVIATIONS = 2.0
# The least S of the tail: a time that is none; and of a request.
LEAST_S, LEAST_EACH_S = 1e-3, 1e-12
# The longest prefill share that is believed: rounds of a worker that only prefills would never end.
MOST_PREFILL_SHARE = 0.9
# A worker is closed when more prefill is queued there than keeps it busy until the next decision: a
# second, or on slow engines so many fixed costs of a prefill.
QUEUED_S, QUEUED_ALPHAS = 1.0, 16.0
# How much more costs must be to be called so, where lengths are known.
DOUBT = 0.1

# A target that nobody can keep must not make its request wait longer than it would without: what
# people expect where nothing is said.
EXPECTED_S = DEFAULT_TARGETS[Priority.DEFAULT].ttft_s

# A number, or an array of them; and several, in the order of whoever makes them.
Number = Any
Figures = Any
# Sequences, seconds of prefill and prompt tokens, where nothing is placed.
NOTHING = 0.0, 0.0, 0.0


@dataclass(frozen=True, slots=True)
class Calculus:
    """What numbers and arrays have under different names."""

    maximum: Callable[[Any, Any], Any]
    minimum: Callable[[Any, Any], Any]
    where: Callable[[Any, Any, Any], Any]


ARRAYS = Calculus(np.maximum, np.minimum, np.where)


def _larger(one: Any, other: Any) -> Any:  # noqa: ANN401
    """As `max` of two, in a third of its time."""
    return other if other > one else one  # noqa: FURB136 - a call of `max` costs twice as much


def _smaller(one: Any, other: Any) -> Any:  # noqa: ANN401
    """As `min` of two."""
    return other if other < one else one  # noqa: FURB136


def _either(which: Any, one: Any, other: Any) -> Any:  # noqa: ANN401
    return one if which else other


NUMBERS = Calculus(_larger, _smaller, _either)

# Of a `Load`, what follows is worked out from.
load_figures: Callable[[Any], Figures] = attrgetter(
    *(f"cost.{name}" for name in ("alpha_p_s", "beta_p_s", "alpha_d_s", "beta_d_s", "gamma_d_s")),
    *("in_flight", "slots", "running", "queued_s", "kv_now", "context", "left", "kv"),
    *("rate", "share", "room", "yielding"),
)


def load_of(
    known: Figures, lately: Figures, placed: Figures | None, at: Calculus
) -> tuple[Figures, Number]:
    """`load_figures` of workers, and the seconds that those in flight there still take together.

    `known` are `solver.routing.columns.NUMBERS`; `lately` requests, and seconds of prefill, that
    each was sent a second; `placed` sequences, seconds of prefill and prompt tokens on top of it.
    """
    alpha_d, beta_d, gamma, slots, in_flight, running, left, kv = known[2:10]
    kv_now, queued_s, room, _, yielding = known[10:]
    rate, share = lately[0], at.minimum(MOST_PREFILL_SHARE, lately[1])
    round_s = alpha_d + beta_d * at.minimum(slots, in_flight + 1.0) + gamma * kv
    ahead_s = in_flight * left * round_s / (1.0 - share)
    context = at.maximum(1.0, kv / at.maximum(1.0, running))  # of what runs, not of what waits
    if placed is not None:
        sequences, prefill_s, prompt = placed
        in_flight, queued_s, kv = in_flight + sequences, queued_s + prefill_s, kv + prompt
        room, kv_now = room - sequences, kv_now - prompt
    has = in_flight, slots, running, queued_s, kv_now, context, left, kv
    return (*known[:5], *has, rate, share, room, yielding), ahead_s


def level_s(count: float, busy_s: Iterable[float], each_s: Iterable[float]) -> float:
    """Seconds until workers have done `count` more requests, were work liquid.

    Each is busy for a time, and takes `each_s` for one request.
    """
    level, done, rate = inf, count, 0.0
    for start_s, one_s in sorted(zip(busy_s, each_s, strict=True)):
        if start_s >= level:
            break
        a_second = 1.0 / max(LEAST_EACH_S, one_s)
        done, rate = done + start_s * a_second, rate + a_second
        level = done / rate
    return level


def worker_figures(load: Figures, typical: Number, at: Calculus) -> tuple[Figures, Number]:
    """What the terms ask of workers, and the tokens left of one there.

    Where nothing is in flight yet, those who will be before it are `typical`: like those planned.
    """
    alpha_p, _, alpha_d, beta_d, gamma, in_flight, slots, _, queued_s = load[:9]
    kv_now, context, left, kv, rate, share, _, yielding = load[9:]
    longer, idle = 1.0 / (1.0 - share), left <= 0.0
    left = at.maximum(1.0, at.where(idle, typical, left))
    going = at.where(idle, slots, at.minimum(at.maximum(in_flight, 1.0), slots))
    figures = (
        in_flight,
        slots,
        queued_s + alpha_p,
        kv_now,
        context,
        left / going,
        (alpha_d + gamma * kv) * longer,
        beta_d * longer,
        gamma * longer,
        rate * (1.0 + FIRST_TOKEN),
        slots + yielding,
    )
    return figures, left


def request_figures(asked: Figures, at: Calculus) -> Figures:
    """What the terms ask of requests, but for what depends on all: their level, the tail's weight.

    `asked` are prompt, output and overrun tokens, weight, and seconds left until the first token
    is due, and between tokens.
    """
    prompt, output, overrun, weight, slack_s, tpot_s = asked
    deviation = overrun / DEVIATIONS
    slack_s = at.maximum(0.0, slack_s)
    return prompt, output, output + overrun, weight, slack_s, tpot_s, deviation * deviation


def pair_figures(
    load: Figures,
    left: Number,
    uncached: Number,
    twice: Number,
    prompt: Number,
    output: Number,
    at: Calculus,
) -> Figures:
    """Seconds of its prefill there; by which that stalls others, its tokens do, and who asks again.

    `twice` of its uncached tokens another worker has.
    """
    beta_p, beta_d, gamma, slots, running = load[1], load[3], load[4], load[6], load[7]
    prefill_s, again_s = beta_p * uncached, TWICE * beta_p * twice
    stalled = at.minimum(running, slots - 1.0)
    stalls_s = stalled * (prefill_s + again_s)
    side_by_side = output * left / (output + left)
    step_s = (beta_d + gamma * (prompt + output / 2)) * side_by_side
    return prefill_s, stalls_s, step_s, (1.0 + FIRST_TOKEN) * again_s


def rooms(load: Figures, at: Calculus) -> Figures:
    """Sequences, seconds of prefill and prompt tokens below which a worker is open."""
    return room_of(load[0], load[15], load[8], load[9], at)


def room_of(
    alpha_p_s: Number, room: Number, queued_s: Number, kv_now: Number, at: Calculus
) -> Figures:
    """The same from a worker's fixed cost of a prefill, and what it has."""
    return room, at.maximum(QUEUED_S, QUEUED_ALPHAS * alpha_p_s) - queued_s, kv_now


def is_open(room: Figures, placed: Figures) -> Number:
    """Whether workers may be sent something."""
    return (placed[0] < room[0]) & (placed[1] <= room[1]) & (placed[2] < room[2])


def standing(worker: Figures, placed: Figures, at: Calculus) -> Figures:
    """What workers come to with what is placed there: all that does not depend on the request.

    Sequences in flight, those beyond its places with one more, its queue, free memory, cached
    tokens and seconds of an end, of a round, of a token in it, of who comes behind, and how full.
    """
    in_flight, slots, queued_s, kv_now, context, turn, alone, beta, gamma, rate, places = worker
    sequences, prefill_s, prompt = placed
    in_flight = in_flight + sequences
    more, full = in_flight + 1.0, at.minimum(1.0, in_flight / slots)
    return (
        in_flight,
        at.maximum(0.0, more - places),
        queued_s + prefill_s,
        kv_now - prompt,
        context,
        turn,
        alone + beta * at.minimum(slots, more) + gamma * prompt,
        gamma,
        rate,
        full * full,
    )


def seconds(standing: Figures, prompt: Number, prefill_s: Number, at: Calculus) -> Figures:
    """(until a slot is free, until the first token, from token to token) in seconds.

    A share of the time goes into others' prefills, so rounds are that much further apart.
    """
    _, beyond, queued_s, kv_now, context, turn, round_s, gamma = standing[:8]
    rest = gamma * prompt + round_s
    ends = at.maximum(beyond, (prompt - kv_now) / context)
    wait = ends * turn * rest
    return wait, wait + (prefill_s + queued_s), rest


def others_s(standing: Figures, pair: Figures, pace: tuple[Number, Number], at: Calculus) -> Number:
    """What those who run there, and those who come behind it, lose.

    `pace` are seconds from token to token there, and those that are asked for.
    """
    (prefill_s, stalls_s, step_s, again_s), (rest, tpot_s) = pair, pace
    behind_s = standing[8] * prefill_s * (standing[2] + prefill_s / 2)
    spent = at.minimum(1.0, rest / tpot_s)
    price = at.where(tpot_s < inf, IN_TIME + LATE * spent * spent * spent, 1.0)
    return price * (stalls_s + standing[0] * step_s) + again_s + behind_s


def waits(worker: Figures, placed: Figures) -> Number:
    """Whether one more finds no free slot."""
    return worker[0] + placed[0] >= worker[10]


def is_full(worker: Figures, placed: Figures) -> Number:
    """Whether its memory has room for no more."""
    return placed[2] >= worker[3]


def late_s(request: Figures, felt: Figures, at: Calculus) -> Number:
    """Seconds beyond its targets."""
    _, first, rest = felt
    output, slack, tpot = request[1], request[4], request[5]
    return at.maximum(0.0, first - slack) + output * at.maximum(0.0, rest - tpot)


def lost_s(request: Figures, felt: Figures, at: Calculus) -> Number:
    """What is lost beyond its targets, and by what comes near to them, in request-seconds."""
    late, slack = late_s(request, felt, at), request[4]
    near = at.minimum(felt[1], slack)
    lost = late * (1.0 + (LATE - 1.0) * LOST_S / (late + LOST_S))
    return lost + LATE / 2 * near * (near / at.maximum(LEAST_S, slack))


def soon_s(ttft_s: Number, waited_s: Number, at: Calculus) -> Number:
    """Seconds left until a first token is due, or expected by people who ask for less."""
    return at.maximum(ttft_s, EXPECTED_S) - waited_s


def cost_s(
    standing: Figures, request: Figures, pair: Figures, felt: Figures, at: Calculus
) -> Number:
    """The sum of the terms; `request` has its level and tail's weight before its variance."""
    _, first, rest = felt
    _, output, long, weight, _, tpot_s, last, tail, variance = request
    own, lost = first + output * rest, lost_s(request, felt, at)
    total = others_s(standing, pair, (rest, tpot_s), at)
    total = total + weight * (own + FIRST_TOKEN * first + lost)
    total = total + tail * (own * own + variance * rest * rest) + standing[9] * own
    return total + MAKESPAN * at.maximum(0.0, first + long * rest - last)


def tail_scale_s(left_s: float, expected_s: float, in_flight: float, requests: int) -> float:
    """S of the tail: what all in flight still take, and these would at best, on average."""
    return max(LEAST_S, (left_s + expected_s) / max(1.0, in_flight + requests))


def doubt(overrun: Number, output: Number, at: Calculus) -> Number:
    """By which share of a cost another must be higher, if somebody waits, to be called so."""
    return DOUBT * (1.0 + overrun / (DEVIATIONS * at.maximum(1.0, output)))


def patience(ttft_s: Number, overrun: Number, output: Number, at: Calculus) -> Number:
    """`doubt` where somebody waits for a first token, else what is least of it."""
    return at.where(ttft_s < inf, doubt(overrun, output, at), DOUBT)


def clearly_more(cost: float, than: float, doubt: float) -> bool:
    """Whether a cost is higher beyond doubt: who would like to go elsewhere waits for that."""
    return not cost <= (1.0 + doubt) * than
