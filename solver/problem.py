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

from solver.cost import CostColumns, CostModel, request_s, span_s
from solver.types import BoolArray, FloatArray, Problem

# What is left of running requests is spread from nothing to about twice its mean: slots fall free
# evenly over twice the mean.
SOON = 2.0


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
        backlog_s: engine seconds at full slots that those still take.
        prefill_s: seconds of it that are prefills yet to come.
        kv_free: cached tokens still free beside what those will need; None: no known limit.
    """

    cost: CostModel
    slots: int
    in_flight: int
    backlog_s: float
    prefill_s: float
    kv_free: float | None


def arriving(jobs: Sequence[Job], workers: int) -> int:
    """Sequences of a window that one worker may expect, before anything is planned."""
    return ceil(sum(job.sequences for job in jobs) / max(1, workers))


def build(
    jobs: Sequence[Job],
    workers: Sequence[WorkerView],
    eligible: Sequence[frozenset[int]] | None = None,
    cached_tokens: FloatArray | None = None,
) -> Problem:
    """The problem of placing `jobs` on `workers` on top of what these already have.

    `eligible` are, for each job, the indices of the workers that may serve it (None: all of them);
    `cached_tokens` (n, m) prompt tokens of job i that worker j would not have to prefill.

    Memory limits apply only where all jobs could fit at once. Beyond that, requests queue at the
    workers in any case and memory is shared over time, which is what the cost measures.
    """
    sequences = np.array([[job.sequences] for job in jobs], dtype=np.float64)
    prompt = np.array([[job.prompt_tokens] for job in jobs], dtype=np.float64)
    output = np.array([[job.expected_tokens] for job in jobs], dtype=np.float64)
    columns = CostColumns.of([worker.cost for worker in workers])
    slots = np.array([worker.slots for worker in workers], dtype=np.float64)
    flying = np.array([worker.in_flight for worker in workers], dtype=np.float64)
    occupancy = np.minimum(slots, np.maximum(1.0, flying + arriving(jobs, len(workers))))
    backlog = np.array([worker.backlog_s for worker in workers])
    if sequences.sum() <= np.maximum(0.0, slots - flying).sum():
        taken = np.maximum(0.0, flying + 1.0 - slots)
        each = SOON * backlog / slots
        before = np.array([worker.prefill_s for worker in workers]) + taken * each
        cost = columns.alpha_p_s + columns.beta_p_s * prompt + (taken > 0) * each
    else:
        before = backlog
        cost = sequences * request_s(columns, prompt / sequences, output / sequences, slots)
    span = before + span_s(columns, prompt, output / sequences, occupancy)
    if cached_tokens is not None:
        cost -= columns.beta_p_s * cached_tokens
        span -= columns.beta_p_s * cached_tokens
    kv = (prompt + output)[:, 0]
    return Problem.of(
        cost,
        before,
        span_s=span,
        eligible=None if eligible is None else _eligible(eligible, len(workers)),
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
