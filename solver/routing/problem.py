"""From prompts and workers to a packing `Problem`: the cost matrix and its side constraints.

The cost of request i on worker j comes from j's cost model at the occupancy that j will have once
its share of the window has arrived: an iteration's fixed cost is shared by all who take part, so
a request is dear on an empty worker and cheap on a busy one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

import numpy as np

from solver.arrays import LARGEST, BoolArray, FloatArray
from solver.batching.sequence import SPARE_ROUNDS
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostColumns, CostModel, request_s, span_s
from solver.lengths.distribution import LengthDistribution
from solver.packing.problem import Problem


@dataclass(slots=True)
class Job:
    """What the planner knows of a request.

    Attributes:
        prompt_tokens, expected_tokens: over all its sequences.
        sequences: answers that it wants; each takes a slot, and they run side by side.
        weight: what a second of its waiting is worth, relative to others.
        due_s: when it should be done, by the planner's clock; infinite: whenever.
        lengths: the distribution of one answer's length, where it is known.
        overrun_tokens: by how much one answer in fifty is longer than expected, or more.
        targets: limits on its times to the first token and between tokens.
        tenant: whose it is.
        bulk: nobody waits for it, so engines let it step back for all other.
        unhinted_tokens: what would be expected if its client had said nothing, over all sequences;
            0: as much as is expected.
    """

    prompt_tokens: int
    expected_tokens: float
    sequences: int = 1
    weight: float = 1.0
    due_s: float = inf
    lengths: LengthDistribution | None = None
    overrun_tokens: float = 0.0
    targets: Targets = NO_TARGETS
    tenant: str = ""
    bulk: bool = False
    unhinted_tokens: float = 0.0

    @property
    def charged_tokens(self) -> float:
        """Output tokens that it is charged for until it has ended: no hint makes it cheaper."""
        return max(self.expected_tokens, self.unhinted_tokens)

    @property
    def reserved_tokens(self) -> float:
        """Of prompt and output, what limits and bounds count of it until it has ended."""
        return self.prompt_tokens + self.charged_tokens

    @property
    def kv_tokens(self) -> float:
        """Cached tokens at its end."""
        return self.prompt_tokens + self.expected_tokens


@dataclass(slots=True)
class WorkerView:
    """What the planner knows of a worker.

    Attributes:
        cost: its iteration times.
        slots: sequences that it runs at once.
        in_flight: sequences that it has been given and has not finished.
        running: of these, those that decode.
        left_tokens: expected tokens still to come of one in flight, on average; 0: nothing is.
        kv_tokens: cached tokens now.
        kv_now: cached tokens for which there is room now, as `room_now`; infinite: no known limit.
        room: sequences that it may be sent now.
        backlog_s: engine seconds at full slots that those still take.
        prefill_s: seconds of it that are prefills yet to come.
        kv_free: cached tokens still free beside what those will need; None: no known limit.
        yielding: of those in flight, sequences that give up their slots to whoever is planned.
        online: the same for requests that somebody waits for, where bulk work is in flight that
            steps back for them; None: it is no different for them.
    """

    cost: CostModel
    slots: int
    in_flight: int
    backlog_s: float
    prefill_s: float
    kv_free: float | None
    running: int = 0
    left_tokens: float = 0.0
    kv_tokens: float = 0.0
    kv_now: float = inf
    room: int = 0
    yielding: int = 0
    online: WorkerView | None = None

    def yields(self, sequences: int, prefill_s: float, kv_tokens: float, room: int) -> WorkerView:
        """It, with what `online` sees: bulk work of so much steps back, which leaves this room.

        It still takes part in rounds, and takes slots from who comes next.
        """
        online = replace(
            self,
            prefill_s=max(0.0, self.prefill_s - prefill_s),
            kv_now=self.kv_now + kv_tokens,
            room=room,
            yielding=sequences,
        )
        return replace(self, online=online)


def room_now(kv_tokens: float, held: float, awaited: int, left_tokens: float) -> float:
    """Cached tokens for which there is room now where `held` of `kv_tokens` are taken.

    Engines keep some rounds free for each of those in flight whom somebody waits for, of whom each
    is to make `left_tokens` more (`SPARE_ROUNDS`): who comes before they have them waits.
    """
    return kv_tokens - held - awaited * min(SPARE_ROUNDS, left_tokens)


def sequences_a_worker(jobs: Sequence[Job], workers: int) -> int:
    """Sequences of a window that one worker may expect, before anything is planned."""
    return ceil(sum(job.sequences for job in jobs) / max(1, workers))


def build_problem(
    jobs: Sequence[Job],
    workers: Sequence[WorkerView],
    eligible: Sequence[frozenset[int]] | None = None,
    cached_tokens: FloatArray | None = None,
    now: float = 0.0,
) -> Problem:
    """The problem of placing `jobs` on `workers` on top of what these already have.

    `eligible` are, for each job, the indices of the workers that may serve it (None: all of them);
    `cached_tokens` (n, m) prompt tokens of job i that worker j would not have to prefill; `now` is
    the time by which jobs are due later.

    Memory limits apply only where all jobs could fit at once. Beyond that, requests queue at the
    workers in any case and memory is shared over time, which is what the cost measures.
    """
    sequences = np.array([[job.sequences] for job in jobs], dtype=np.float64)
    prompt = np.array([[job.prompt_tokens] for job in jobs], dtype=np.float64)
    output = np.array([[job.expected_tokens] for job in jobs], dtype=np.float64)
    columns = CostColumns.of([worker.cost for worker in workers])
    slots = np.array([worker.slots for worker in workers], dtype=np.float64)
    flying = np.array([worker.in_flight for worker in workers], dtype=np.float64)
    occupancy = np.minimum(slots, np.maximum(1.0, flying + sequences_a_worker(jobs, len(workers))))
    backlog = np.array([worker.backlog_s for worker in workers])
    cost = sequences * request_s(columns, prompt / sequences, output / sequences, slots)
    span = backlog + span_s(columns, prompt, output / sequences, occupancy)
    cached = np.zeros_like(span) if cached_tokens is None else cached_tokens
    cost = np.maximum(0.0, cost - columns.beta_p_s * cached)
    span = span - columns.beta_p_s * cached
    kv = (prompt + output)[:, 0]
    return Problem.of(  # beyond the largest number that it takes, work is as good as endless
        np.minimum(cost, LARGEST),
        np.minimum(backlog, LARGEST),
        span_s=np.minimum(span, LARGEST),
        eligible=None if eligible is None else _eligible(eligible, len(workers)),
        kv_tokens=kv,
        kv_capacity=_room(kv, workers),
        weight=[job.weight for job in jobs],
        due_s=[max(0.0, job.due_s - now) for job in jobs],
    )


def _eligible(eligible: Sequence[frozenset[int]], workers: int) -> BoolArray:
    rows = {allowed: np.isin(np.arange(workers), list(allowed)) for allowed in set(eligible)}
    return np.array([rows[allowed] for allowed in eligible]).reshape(len(eligible), workers)


def _room(kv: FloatArray, workers: Sequence[WorkerView]) -> FloatArray:
    free = np.array([np.inf if w.kv_free is None else max(0.0, w.kv_free) for w in workers])
    fits_at_once = kv.sum() <= free.sum() and (len(kv) == 0 or kv.max() <= free.max())
    return free if fits_at_once else np.full(len(free), np.inf)
