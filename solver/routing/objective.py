"""What placing a request on a worker costs all together, in request-seconds: one objective.

A request-second is a second by which one request ends later. All that a plan weighs is counted in
it and added up (`TERMS`), so that one can be traded for another and a choice be explained:

- wait: until a slot and memory fall free there, so many ends from now;
- prefill: what is queued there to be prefilled before it, and its own uncached prompt;
- decode: its own tokens, a round each;
- tail: the same three again for what is long: E[T * T] / (2 S) for T seconds in all, where S is
  what those that run still take, and these would take at best, on average. The sum of
  T + T * T / (2 S) weighs the slowest answers and not only the mean; and as E[T * T] is E[T]^2 and
  the variance, who may become long is drawn to where tokens come fast;
- others: what it takes from those who run there: its prefill stalls them, and its tokens make the
  rounds longer that both run in, which counts the more, the less is left of what they have from
  token to token; and from who comes behind it: with u seconds of its own prefill, q queued there
  and r requests a second, r (q + u / 2) of them come before it is done and wait u longer (who
  comes later may go elsewhere, as that is seen then); and from who asks for what its prompt pushes
  out of that worker's cache, as much as for what of it another worker has, held twice then;
- slot: what holding a slot for T seconds takes from who comes next: T times the chance that none
  is free;
- late: seconds beyond its targets, of the first token and of all that follow it: the first count
  `LATE` times, as an answer that comes too late has lost more than these, and the further ones
  less, as it cannot be lost again; and those before the first token, by how near it comes to its
  target, as when it will come is known roughly;
- makespan: a share of the seconds by which it would outlast all else that the fleet has to do, its
  length taken at a high quantile.

Seconds before the first token count (1 + `FIRST_TOKEN`) times, as they are waited with nothing to
read. Own terms are weighed by the request's priority; what others lose is a sum over them and is
added, never put inside a maximum, which would send whoever takes most to the slowest worker. So a
stream is placed by its own time and what it costs its neighbours; bulk work, with a small weight
and no targets, by its neighbours and the makespan.

Every term grows, or stays, with what was placed on the worker before: what makes the bound of
`solver.routing.joint` a bound.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cached_property
from math import fsum

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.routing import formulas
from solver.routing.columns import Load, Requests
from solver.routing.formulas import ARRAYS, FIRST_TOKEN, MAKESPAN, NOTHING, Figures

# One, all of a range, or those of an array.
Index = int | slice | IntArray
ALL = slice(None)


class Term(IntEnum):
    """Places of the terms in an array of them."""

    WAIT = 0
    PREFILL = 1
    DECODE = 2
    TAIL = 3
    OTHERS = 4
    SLOT = 5
    LATE = 6
    MAKESPAN = 7


TERMS = tuple(term.name.lower() for term in Term)
# Those of the request itself, which its priority weighs.
OWN = (Term.WAIT, Term.PREFILL, Term.DECODE, Term.TAIL, Term.LATE)


class Pairs:
    """n requests on m workers: what each costs, by what was placed on its worker before.

    What does not depend on that is worked out once. Pairs are told by the indices of a request and
    of a worker: two slices mean all combinations (rows, workers); a slice and a number one worker
    (rows,); a number and a slice one request (workers,); and two arrays so many pairs (k,).

    Placed is what sums up `sizes` on these workers: (3, ...) sequences, seconds of prefill and
    prompt tokens.

    Attributes:
        n, m: how many.
        requests, load: of what.
        allowed: (n, m) where they may go.
        prefill_s: (n, m) seconds of each one's own prompt.
        typical: output tokens of one of them, on average.
        scale_s: S of the tail.

    Both are those of the `whole`, if these are a part of a larger plan.
    """

    def __init__(self, requests: Requests, load: Load, whole: Pairs | None = None) -> None:
        self.requests, self.load = requests, load
        self.n, self.m = map(int, requests.uncached.shape)
        self.allowed: BoolArray | None = None if requests.forbidden is None else ~requests.forbidden
        # Where nothing is in flight yet, those who will be before it are like these.
        if whole is not None:
            self.typical: float = whole.typical
        else:
            self.typical = fsum(requests.output[:, 0].tolist()) / self.n if self.n else 1.0
        known = formulas.load_figures(load)
        self._workers, left = formulas.worker_figures(known, self.typical, ARRAYS)
        self._rooms = formulas.rooms(known, ARRAYS)
        prompt, output, weight = requests.prompt, requests.output, requests.weight
        slack_s = requests.ttft_s - requests.waited_s
        *asked, variance = formulas.request_figures(
            (prompt, output, requests.overrun, weight, slack_s, requests.tpot_s), ARRAYS
        )
        self._pairs = formulas.pair_figures(
            known, left, requests.uncached, requests.twice, prompt, output, ARRAYS
        )
        self.prefill_s: FloatArray = self._pairs[0]
        there = formulas.standing(self._workers, NOTHING, ARRAYS)
        felt = formulas.seconds(there, prompt, self.prefill_s, ARRAYS)
        self._at_first = there, felt
        expected, long = (self._at_best_s(felt, tokens) for tokens in asked[1:3])
        if whole is not None:
            self.scale_s: float = whole.scale_s
        else:
            in_flight, expected_s = fsum(load.in_flight.tolist()), fsum(expected.tolist())
            self.scale_s = formulas.tail_scale_s(load.left_s, expected_s, in_flight, self.n)
        last = np.maximum(load.level_s, long)[:, None]
        self._requests = *asked, last, weight / (2.0 * self.scale_s), variance

    def _at_best_s(self, felt: Figures, tokens: FloatArray) -> FloatArray:
        """(n,) seconds until each would end where that is soonest, with so many tokens (n, 1)."""
        _, first, rest = felt
        ends = first + tokens * rest
        if self.allowed is not None:
            ends[~self.allowed] = np.inf
        return np.asarray(ends.min(axis=1))

    def sizes(self, i: Index, j: Index) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What requests add to workers: sequences, seconds of prefill, prompt tokens."""
        requests = self.requests
        return requests.sequences[i, 0], self.prefill_s[i, j], requests.prompt[i, 0]

    def terms(self, i: Index, j: Index, placed: FloatArray) -> tuple[FloatArray, ...]:
        """The terms, in the order of `Term`."""
        worker, request, pair = self._figures(i, j)
        there = formulas.standing(worker, placed, ARRAYS)
        seconds = formulas.seconds(there, request[0], pair[0], ARRAYS)
        wait, first, rest = seconds
        _, output, long, weight, _, tpot_s, last, tail, variance = request
        decode = output * rest
        own = first + decode
        blind = (1.0 + FIRST_TOKEN) * weight
        lost = formulas.lost_s(request, seconds, ARRAYS)
        return (
            blind * wait,
            blind * (first - wait),
            weight * decode,
            tail * (own * own + variance * rest * rest),
            formulas.others_s(there, pair, (rest, tpot_s), ARRAYS),
            there[9] * own,
            weight * lost,
            MAKESPAN * np.maximum(0.0, first + long * rest - last),
        )

    def costs(self, i: Index, j: Index, placed: FloatArray) -> FloatArray:
        """The sum of the terms, infinite where it must not be.

        Summed up by what they share, as a decision waits for it.
        """
        worker, request, pair = self._figures(i, j)
        there = formulas.standing(worker, placed, ARRAYS)
        felt = formulas.seconds(there, request[0], pair[0], ARRAYS)
        return self._where_allowed(i, j, formulas.cost_s(there, request, pair, felt, ARRAYS))

    def costs_at_first(self) -> FloatArray:
        """(n, m) those with nothing placed."""
        there, felt = self._at_first
        total = formulas.cost_s(there, self._requests, self._pairs, felt, ARRAYS)
        return self._where_allowed(ALL, ALL, total)

    def _where_allowed(self, i: Index, j: Index, costs: FloatArray) -> FloatArray:
        if self.allowed is None:
            return np.asarray(costs)
        return np.where(self.allowed[i, j], costs, np.inf)

    def is_open(self, j: Index, placed: FloatArray) -> BoolArray:
        """Whether workers may be sent something."""
        return np.asarray(formulas.is_open(self.figures[1][:, j], placed))

    def waits(self, j: Index, placed: FloatArray) -> BoolArray:
        """Whether one more finds no free slot on workers."""
        return np.asarray(formulas.waits(self.figures[0][:, j], placed))

    @cached_property
    def figures(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Of workers (..., m), their rooms, requests (..., n), and pairs (..., n, m)."""
        requests = np.array(self._requests)[:, :, 0]
        return np.array(self._workers), np.array(self._rooms), requests, np.array(self._pairs)

    def _figures(self, i: Index, j: Index) -> tuple[Figures, Figures, Figures]:
        """What formulas ask of workers, requests and pairs."""
        if i is ALL and j is ALL:
            return self._workers, self._requests, self._pairs
        workers, _, requests, pairs = self.figures
        if isinstance(i, int | slice) or isinstance(j, int | slice):
            request = requests[:, i]
            if isinstance(i, slice) and isinstance(j, slice):
                request = request[..., None]
            return workers[:, j], request, pairs[:, i, j]
        cells = i * self.m + j  # it is quicker to take than to index
        flat = pairs.reshape(len(pairs), -1)
        return workers.take(j, axis=1), requests.take(i, axis=1), flat.take(cells, axis=1)
