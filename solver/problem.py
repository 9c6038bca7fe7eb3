"""From prompts and workers to a packing `Problem`: the cost matrix and its side constraints.

The cost of request i on worker j comes from j's cost model at the occupancy that j will have once
its share of the window has arrived: an iteration's fixed cost is shared by all who take part, so
a request is dear on an empty worker and cheap on a busy one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from solver.cost import CostModel
from solver.types import BoolArray, FloatArray, Problem


@dataclass(frozen=True, slots=True)
class Job:
    """What the planner knows of a request.

    Attributes:
        prompt_tokens, expected_tokens: over all its sequences.
        sequences: answers that it wants; each takes a slot, and they run side by side.
    """

    prompt_tokens: int
    expected_tokens: float
    sequences: int = 1

    @property
    def kv_tokens(self) -> float:
        """Cached tokens at its end."""
        return self.prompt_tokens + self.expected_tokens


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What the planner knows of a worker.

    Attributes:
        cost: its iteration times.
        slots: sequences that it runs at once.
        in_flight: sequences that it has been given and has not finished.
        backlog_s: seconds until it has finished those.
        kv_free: cached tokens still free beside what those will need; None: no known limit.
    """

    cost: CostModel
    slots: int
    in_flight: int
    backlog_s: float
    kv_free: float | None


def arriving(jobs: Sequence[Job], workers: int) -> int:
    """Sequences of a window that one worker may expect, before anything is planned."""
    return ceil(sum(job.sequences for job in jobs) / max(1, workers))


def build(
    jobs: Sequence[Job], workers: Sequence[WorkerView], eligible: Sequence[frozenset[int]]
) -> Problem:
    """The problem of placing `jobs` on `workers` on top of what these already have.

    `eligible` are, for each job, the indices of the workers that may serve it.

    Memory limits apply only where all jobs could fit at once. Beyond that, requests queue at the
    workers in any case and memory is shared over time, which is what the cost measures.
    """
    prompt = np.array([job.prompt_tokens for job in jobs], dtype=np.float64)
    output = np.array([job.expected_tokens for job in jobs], dtype=np.float64)
    sequences = np.array([job.sequences for job in jobs], dtype=np.float64)
    more = arriving(jobs, len(workers))
    cost = np.empty((len(jobs), len(workers)))
    span = np.empty_like(cost)
    for j, worker in enumerate(workers):
        occupancy = float(min(worker.slots, max(1, worker.in_flight + more)))
        each = worker.cost.request_s(prompt / sequences, output / sequences, occupancy)
        cost[:, j] = sequences * each
        span[:, j] = worker.cost.span_s(prompt, output / sequences, occupancy)
    kv = prompt + output
    return Problem.of(
        cost,
        [worker.backlog_s for worker in workers],
        span_s=span,
        eligible=_eligible(eligible, len(workers)),
        kv_tokens=kv,
        kv_capacity=_room(kv, workers),
    )


def _eligible(eligible: Sequence[frozenset[int]], workers: int) -> BoolArray:
    rows = {allowed: np.isin(np.arange(workers), list(allowed)) for allowed in set(eligible)}
    return np.array([rows[allowed] for allowed in eligible]).reshape(len(eligible), workers)


def _room(kv: FloatArray, workers: Sequence[WorkerView]) -> FloatArray:
    free = np.array([np.inf if w.kv_free is None else max(0.0, w.kv_free) for w in workers])
    fits_at_once = kv.sum() <= free.sum() and (len(kv) == 0 or kv.max() <= free.max())
    return free if fits_at_once else np.full(len(free), np.inf)
