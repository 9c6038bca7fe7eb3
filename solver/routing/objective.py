"""What placing a request on a worker costs all together, in request-seconds: one objective.

A request-second is a second by which one request ends later. All that a plan weighs is counted in
it and added up (`TERMS`), so that one can be traded for another and a choice be explained:

- wait: until a slot and memory fall free there, so many ends from now;
- prefill: what is queued there to be prefilled before it, and its own uncached prompt;
- decode: its own tokens, a round each;
- tail: the same three again for what is long: T * T / (2 S) for T seconds in all, where S is what
  those that run still take on average. The sum of T + T * T / (2 S) weighs the slowest answers and
  not only the mean;
- others: what it takes from those who run there: its prefill stalls them, and its tokens make the
  rounds longer that both run in;
- slot: what holding a slot for T seconds takes from who comes next: T times the chance that none
  is free;
- late: seconds beyond its targets, of the first token and of all that follow it;
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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from solver.arrays import BoolArray, FloatArray, IntArray
from solver.cost.model import CostColumns
from solver.errors import ProblemError
from solver.routing.problem import Job, WorkerView

# A second without a first token counts as two: one as any other, one as it is waited blindly.
FIRST_TOKEN = 1.0
# That all is done holds nobody up in a stream, and everybody in a batch; half is enough for
# the batch, as the term is zero for all but the few who end last.
MAKESPAN = 0.5
# The longest prefill share that is believed: rounds of a worker that only prefills would never end.
MOST_PREFILL_SHARE = 0.9
# One, or several.
Index = int | IntArray


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


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """n requests as the objective sees them; all are (n, 1) but `uncached`.

    Attributes:
        prompt: tokens over all its sequences.
        output, overrun: expected tokens of one sequence, and how many more it may well make.
        sequences: slots that it takes.
        weight: what a second of its own is worth.
        waited_s: since it came.
        ttft_s, tpot_s: its targets; infinite: none.
        uncached: (n, m) prompt tokens that worker j would have to prefill.
        forbidden: (n, m) where they must not go; None: nowhere.
    """

    prompt: FloatArray
    output: FloatArray
    overrun: FloatArray
    sequences: FloatArray
    weight: FloatArray
    waited_s: FloatArray
    ttft_s: FloatArray
    tpot_s: FloatArray
    uncached: FloatArray
    forbidden: BoolArray | None = None

    @classmethod
    def of(
        cls,
        jobs: Sequence[Job],
        waited_s: Sequence[float],
        workers: int,
        cached: FloatArray | None = None,
        eligible: Sequence[frozenset[int]] | None = None,
    ) -> Requests:
        """From jobs; `cached` and `eligible` as in `solver.routing.problem.build_problem`."""
        rows = np.array(
            [
                (
                    job.prompt_tokens,
                    job.expected_tokens / job.sequences,
                    job.overrun_tokens,
                    job.sequences,
                    job.weight,
                    waited,
                    job.targets.ttft_s,
                    job.targets.tpot_s,
                )
                for job, waited in zip(jobs, waited_s, strict=True)
            ],
            dtype=np.float64,
        )
        prompt, output, overrun, sequences, weight, waited, ttft, tpot = rows.reshape(
            len(jobs), 8
        ).T[:, :, None]
        uncached = np.repeat(prompt, workers, axis=1)
        if cached is not None:
            uncached = np.maximum(0.0, uncached - cached)
        forbidden = None
        if eligible is not None:
            rows_of = {
                allowed: ~np.isin(np.arange(workers), list(allowed)) for allowed in set(eligible)
            }
            forbidden = np.array([rows_of[allowed] for allowed in eligible])
        return cls(
            prompt, output, overrun, sequences, weight, waited, ttft, tpot, uncached, forbidden
        )

    def __len__(self) -> int:
        """How many."""
        return len(self.prompt)


@dataclass(slots=True, eq=False)
class Load:
    """m workers and what they have, (m,) each.

    Attributes:
        cost: terms of their cost models.
        slots: sequences that each runs at once.
        in_flight: sequences given to it and not ended; `running` of these decode.
        left: expected tokens still to come of one that runs, at least 1.
        kv: cached tokens; `kv_now` more fit now.
        context: cached tokens of one that runs, on average: what its end sets free.
        queued_s: seconds of prefills that are still queued there.
        share: of its time that goes into prefills.
        room, free: sequences that may be sent to it, and that it could start at once.
        level_s: seconds until the whole fleet has done all, work taken as liquid.
        scale_s: seconds that those who run still take, on average over the fleet.
    """

    cost: CostColumns
    slots: FloatArray
    in_flight: FloatArray
    running: FloatArray
    left: FloatArray
    kv: FloatArray
    kv_now: FloatArray
    context: FloatArray
    queued_s: FloatArray
    share: FloatArray
    room: FloatArray
    free: FloatArray
    level_s: float
    scale_s: float

    @classmethod
    def of(cls, views: Sequence[WorkerView], share: Sequence[float], level_s: float) -> Load:
        """From what is known of each worker, and the `share` of its time that prefills take.

        Raises:
            ProblemError: without a worker.
        """
        if not views:
            raise ProblemError("load: there is no worker")
        columns = np.array(
            [
                (
                    view.slots,
                    view.in_flight,
                    view.running,
                    view.left_tokens,
                    view.kv_tokens,
                    view.kv_now,
                    view.prefill_s,
                    view.room,
                    view.free_slots,
                )
                for view in views
            ],
            dtype=np.float64,
        ).T
        slots, in_flight, running, left, kv, kv_now, queued, room, free = columns
        load = cls(
            CostColumns.of([view.cost for view in views]),
            slots,
            in_flight,
            running,
            np.maximum(1.0, left),
            kv,
            kv_now,
            np.maximum(1.0, kv / np.maximum(1.0, running)),
            queued,
            np.minimum(MOST_PREFILL_SHARE, np.asarray(share, dtype=np.float64)),
            room,
            free,
            level_s,
            1.0,
        )
        ahead = running * load.left * load.round_s(slice(None), 0.0)
        load.scale_s = max(1e-3, float(ahead.sum() / max(1.0, running.sum())))
        return load

    def round_s(self, j: slice | int, more_kv: float | FloatArray) -> FloatArray:
        """Seconds from token to token on worker j with one more sequence of `more_kv` tokens.

        A share of the time goes into others' prefills, so rounds are that much further apart.
        """
        batch = np.minimum(self.slots[j], self.in_flight[j] + 1.0)
        cost = self.cost
        alone = cost.alpha_d_s[j] + cost.beta_d_s[j] * batch
        alone = alone + cost.gamma_d_s[j] * (self.kv[j] + more_kv)
        return np.asarray(alone / (1.0 - self.share[j]), dtype=np.float64)

    def copy(self) -> Load:
        """One that `place` may change."""
        return replace(
            self,
            in_flight=self.in_flight.copy(),
            kv=self.kv.copy(),
            kv_now=self.kv_now.copy(),
            queued_s=self.queued_s.copy(),
            room=self.room.copy(),
            free=self.free.copy(),
        )

    def sizes(self, requests: Requests, i: Index, j: Index) -> tuple[FloatArray, ...]:
        """What request(s) i add to worker(s) j: sequences, seconds of prefill, prompt tokens."""
        prefill_s = self.cost.beta_p_s[j] * requests.uncached[i, j]
        return requests.sequences[i, 0], prefill_s, requests.prompt[i, 0]

    def add(
        self, j: slice | int, sequences: FloatArray, prefill_s: FloatArray, prompt: FloatArray
    ) -> None:
        """So much more is on worker(s) j, of `sizes`."""
        self.in_flight[j] += sequences
        self.queued_s[j] += prefill_s
        self.kv[j] += prompt
        self.kv_now[j] -= prompt
        self.room[j] -= sequences
        self.free[j] -= sequences

    def place(self, requests: Requests, i: int, j: int) -> None:
        """Request i is on worker j: what comes after it finds it there."""
        self.add(j, *self.sizes(requests, i, j))


def ends_at_best_s(requests: Requests, load: Load) -> FloatArray:
    """(n, 1) seconds until each would end, at a high quantile, where it would end first."""
    first, rest = _own(requests, load, slice(None), slice(None))[1:3]
    end = first + _long(requests, slice(None), rest)
    if requests.forbidden is not None:
        end[requests.forbidden] = np.inf
    return np.asarray(end.min(axis=1, keepdims=True), dtype=np.float64)


def terms(
    requests: Requests, load: Load, best_s: FloatArray, i: slice, j: slice | int
) -> tuple[FloatArray, ...]:
    """The terms, in the order of `Term`, of requests i on worker(s) j; `best_s` as above.

    For a slice of workers each is (rows, workers), for one worker (rows,).
    """
    cost, slots, running = load.cost, load.slots[j], load.running[j]
    wait, first, rest = _own(requests, load, i, j)
    weight, output = _column(requests.weight, i, j), _column(requests.output, i, j)
    uncached = requests.uncached[i, j]
    decode = output * rest
    own = first + decode
    both = output * load.left[j] / (output + load.left[j])  # tokens that two make side by side
    longer = cost.beta_d_s[j] + cost.gamma_d_s[j] * (_column(requests.prompt, i, j) + output / 2)
    others = np.minimum(running, slots - 1.0) * cost.beta_p_s[j] * uncached
    others = others + load.in_flight[j] * longer * both
    full = np.minimum(1.0, load.in_flight[j] / slots)
    waited, wanted = _column(requests.waited_s, i, j), _column(requests.ttft_s, i, j)
    late = np.maximum(0.0, waited + first - np.maximum(wanted, waited))
    late = late + output * np.maximum(0.0, rest - _column(requests.tpot_s, i, j))
    end = first + _long(requests, i, rest, j)
    last = np.maximum(load.level_s, _column(best_s, i, j))
    blind = weight * (1.0 + FIRST_TOKEN)
    return (
        blind * wait,
        blind * (first - wait),
        weight * decode,
        weight * own * own / (2.0 * load.scale_s),
        others,
        full * full * own,
        weight * late,
        MAKESPAN * np.maximum(0.0, end - last),
    )


def _own(
    requests: Requests, load: Load, i: slice, j: slice | int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(until a slot is free, until the first token, from token to token) in seconds."""
    cost, slots, running = load.cost, load.slots[j], load.running[j]
    prompt = _column(requests.prompt, i, j)
    rest = load.round_s(j, prompt)
    going = np.maximum(1.0, np.minimum(running, slots))
    ends = np.maximum(0.0, load.in_flight[j] + 1.0 - slots)
    ends = np.maximum(ends, (prompt - load.kv_now[j]) / load.context[j])
    wait = ends * load.left[j] * rest / going
    prefill = load.queued_s[j] + cost.alpha_p_s[j] + cost.beta_p_s[j] * requests.uncached[i, j]
    return wait, wait + prefill, rest


def _long(
    requests: Requests, i: slice, rest: FloatArray, j: slice | int = slice(None)
) -> FloatArray:
    """Seconds of all its tokens, should there be many."""
    tokens = _column(requests.output, i, j) + _column(requests.overrun, i, j)
    return np.asarray(tokens * rest, dtype=np.float64)


def _column(values: FloatArray, i: slice, j: slice | int) -> FloatArray:
    """Rows i of an (n, 1) array: against several workers as a column, against one as they are."""
    return values[i, 0] if isinstance(j, int) else values[i]
