"""Requests and workers as columns of numbers: what a plan sees of them.

Rules:
- `Requests` is what is known of each request, `Load` what each worker has to do;
- nothing in them changes: what a plan places on the way is summed up beside them
  (`solver.routing.objective.Pairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import fsum
from operator import attrgetter

import numpy as np

from solver.arrays import BoolArray, FloatArray
from solver.cost.model import CostColumns, request_s
from solver.errors import ProblemError
from solver.routing import formulas
from solver.routing.formulas import ARRAYS, Figures
from solver.routing.problem import Job, WorkerView


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """n requests as the objective sees them; all are (n, 1) but `uncached` and `twice`.

    Attributes:
        prompt: tokens over all its sequences.
        output, overrun: expected tokens of one sequence, and how many more it may well make.
        sequences: slots that it takes.
        weight: what a second of its own is worth.
        waited_s: since it came.
        ttft_s, tpot_s: its targets; infinite: none.
        uncached: (n, m) prompt tokens that worker j would have to prefill; `twice`: those of them
            that another worker has.
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
    twice: FloatArray
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
        return cls.from_rows(list(map(row_of, jobs, waited_s)), workers, cached, eligible)

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Figures],
        workers: int,
        cached: FloatArray | None = None,
        eligible: Sequence[frozenset[int]] | None = None,
    ) -> Requests:
        """The same from what `row_of` says of each."""
        prompt, output, overrun, sequences, weight, waited, ttft, tpot = (
            np.array(rows, dtype=np.float64).reshape(len(rows), 8).T[:, :, None]
        )
        uncached, twice = np.repeat(prompt, workers, axis=1), np.zeros((len(rows), workers))
        if cached is not None:
            uncached = np.maximum(0.0, uncached - cached)
            twice = uncached - uncached.min(axis=1, keepdims=True)
        forbidden = None
        if eligible is not None:
            rows_of = {
                allowed: ~np.isin(np.arange(workers), list(allowed)) for allowed in set(eligible)
            }
            forbidden = np.array([rows_of[allowed] for allowed in eligible])
        return cls(
            *(prompt, output, overrun, sequences, weight, waited, ttft, tpot),
            *(uncached, twice, forbidden),
        )

    def __len__(self) -> int:
        """How many."""
        return len(self.prompt)


def row_of(job: Job, waited_s: float) -> Figures:
    """Of a request that has waited for so long, the columns of `Requests` but the last three."""
    targets, sequences = job.targets, job.sequences
    return (
        job.prompt_tokens,
        job.expected_tokens / sequences,
        job.overrun_tokens,
        sequences,
        job.weight,
        waited_s,
        targets.ttft_s,
        targets.tpot_s,
    )


# Places in a row.
PROMPT, OUTPUT, OVERRUN, SEQUENCES, WEIGHT, WAITED, TTFT = 0, 1, 2, 3, 4, 5, 6
PAIRS = ("uncached", "twice")
# Of each request, whatever the worker.
COLUMNS = tuple(f.name for f in fields(Requests) if f.name not in {*PAIRS, "forbidden"})


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """m workers and what they have, (m,) each.

    Attributes:
        cost: terms of their cost models.
        slots: sequences that each runs at once.
        in_flight: sequences given to it and not ended; `running` of these decode.
        left: expected tokens still to come of one in flight; 0: nothing is.
        kv: cached tokens; `kv_now` more fit now.
        context: cached tokens of one that runs, on average: what its end sets free.
        queued_s: seconds of prefills that are still queued there.
        rate: requests a second that it is sent lately.
        share: of its time that goes into their prefills.
        room: sequences that may be sent to it.
        yielding: of those in flight, sequences that give up their slots.
        level_s: seconds until the whole fleet has done all, work taken as liquid.
        left_s: seconds that those in flight still take, summed up over the fleet.
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
    rate: FloatArray
    share: FloatArray
    room: FloatArray
    yielding: FloatArray
    level_s: float
    left_s: float

    @classmethod
    def of(cls, views: Sequence[WorkerView], lately: FloatArray, level_s: float) -> Load:
        """From what is known of each worker, and what it was sent lately.

        `lately` is (2, m): requests, and seconds of prefill, a second.

        Raises:
            ProblemError: without a worker.
        """
        if not views:
            raise ProblemError("load: there is no worker")
        return cls.from_numbers(table(views), lately, level_s)

    @classmethod
    def from_numbers(
        cls,
        known: FloatArray,
        lately: FloatArray,
        level_s: float,
        placed: FloatArray | None = None,
    ) -> Load:
        """The same from (`NUMBERS`, m), which it keeps, and what is placed on top of it.

        `placed` is (3, m) sequences, seconds of prefill and prompt tokens.
        """
        figures, ahead_s = formulas.load_of(known, lately, placed, ARRAYS)
        in_flight, slots, running, queued, kv_now, context, left, kv = figures[COSTS : COSTS + 8]
        rate, share, room, yielding = figures[COSTS + 8 :]
        return cls(
            cost_of(known),
            slots,
            in_flight,
            running,
            left,
            kv,
            kv_now,
            context,
            queued,
            rate,
            share,
            room,
            yielding,
            level_s,
            fsum(ahead_s.tolist()),
        )


# Of a worker, in this order: the terms of its cost model, and what it has to do.
COST_TERMS = tuple(f.name for f in fields(CostColumns))
COSTS = len(COST_TERMS)
_VIEWED = (
    "slots",
    "in_flight",
    "running",
    "left_tokens",
    "kv_tokens",
    "kv_now",
    "prefill_s",
    "room",
    "backlog_s",
    "yielding",
)
NUMBERS = COST_TERMS + _VIEWED
SLOTS, BACKLOG = NUMBERS.index("slots"), NUMBERS.index("backlog_s")
BETA_P = NUMBERS.index("beta_p_s")
# By what `formulas.room_of` tells whether a worker is open.
CLOSING = [NUMBERS.index(name) for name in ("alpha_p_s", "room", "prefill_s", "kv_now")]
numbers: Callable[[WorkerView], tuple[float, ...]] = attrgetter(
    *(f"cost.{name}" for name in COST_TERMS), *_VIEWED
)


def table(views: Sequence[WorkerView]) -> FloatArray:
    """(`NUMBERS`, m) of workers."""
    rows = np.array([numbers(view) for view in views], dtype=np.float64)
    return rows.reshape(-1, len(NUMBERS)).T.copy()


def cost_of(known: FloatArray) -> CostColumns:
    """Of (`NUMBERS`, m)."""
    return CostColumns(*known[:COSTS])


def water_level_s(
    count: int, prompt_tokens: float, output_tokens: float, known: FloatArray
) -> float:
    """Seconds until workers (`NUMBERS`, m) have done `count` more requests, were work liquid.

    `prompt_tokens` and `output_tokens` are those of all together.
    """
    prompt, output = np.asarray(prompt_tokens / count), np.asarray(output_tokens / count)
    return level_s(count, known[BACKLOG], request_s(cost_of(known), prompt, output, known[SLOTS]))


def level_s(count: int, busy_s: FloatArray, each_s: FloatArray) -> float:
    """As `formulas.level_s`, to the last bit: of many workers."""
    order = np.lexsort((each_s, busy_s))
    start_s, a_second = busy_s[order], 1.0 / np.maximum(formulas.LEAST_EACH_S, each_s[order])
    done = start_s * a_second
    done[0] += count
    levels = np.cumsum(done) / np.cumsum(a_second)
    above = np.flatnonzero(start_s[1:] >= levels[:-1])
    return float(levels[above[0] if len(above) else -1])
