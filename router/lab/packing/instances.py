"""Seeded packing problems of every kind that a window can be, for the planner's bench.

Requests take what a lognormal length (mean 345 tokens, deviation 188, as GSM8K's answers) takes at
10 ms a token. Unequal workers have half, once or twice the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from solver.arrays import FloatArray
from solver.packing.problem import Problem

Make = Callable[[int, int, int], Problem]  # requests, workers, seed
TOKEN_S, SIGMA = 0.01, 0.51
MEAN_TOKENS = 345.0
SPEEDS = (0.5, 1.0, 2.0)
# Backlogs are up to this share of what the window adds to a worker of speed 1.
BACKLOG = 0.3
TIGHT = 0.05  # memory left over in a plan that is known to fit


def _work(requests: int, rng: np.random.Generator) -> FloatArray:
    tokens = rng.lognormal(np.log(MEAN_TOKENS) - SIGMA**2 / 2, SIGMA, requests)
    return np.asarray(np.maximum(1.0, tokens) * TOKEN_S)


def _slowness(workers: int, rng: np.random.Generator) -> FloatArray:
    return 1.0 / rng.choice(SPEEDS, workers)


def _backlog(work: FloatArray, slowness: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(rng.uniform(0, BACKLOG, len(slowness)) * work.sum() / (1 / slowness).sum())


def equal(requests: int, workers: int, seed: int) -> Problem:
    """Equal, empty workers."""
    rng = np.random.default_rng(seed)
    return Problem.related_of(_work(requests, rng), np.ones(workers))


def loaded(requests: int, workers: int, seed: int) -> Problem:
    """Unequal workers with backlogs."""
    rng = np.random.default_rng(seed)
    work, slowness = _work(requests, rng), _slowness(workers, rng)
    return Problem.related_of(work, slowness, _backlog(work, slowness, rng))


def two_way(requests: int, workers: int, seed: int) -> Problem:
    """Unequal workers; each request may go to two of them."""
    return _eligible(requests, workers, seed, 2)


def four_way(requests: int, workers: int, seed: int) -> Problem:
    """Unequal workers; each request may go to four of them."""
    return _eligible(requests, workers, seed, 4)


def _eligible(requests: int, workers: int, seed: int, choices: int) -> Problem:
    rng = np.random.default_rng(seed)
    work, slowness = _work(requests, rng), _slowness(workers, rng)
    eligible = np.zeros((requests, workers), dtype=np.bool_)
    for row in eligible:
        row[rng.choice(workers, choices, replace=False)] = True
    return Problem.of(np.outer(work, slowness), eligible=eligible)


def affinity(requests: int, workers: int, seed: int) -> Problem:
    """Equal workers; most requests have a prefix cached on one of them, worth 20 to 70 %."""
    rng = np.random.default_rng(seed)
    work = _work(requests, rng)
    saving = np.zeros((requests, workers))
    home, share = rng.integers(0, workers, requests), rng.uniform(0.2, 0.7, requests)
    cached = rng.random(requests) < 0.7
    saving[np.arange(requests), home] = np.where(cached, share * work, 0.0)
    return Problem.of(np.outer(work, np.ones(workers)), prefix_saving_s=saving)


def hardware(requests: int, workers: int, seed: int) -> Problem:
    """Workers whose speeds differ, in prefill and decode each on their own: unrelated times."""
    rng = np.random.default_rng(seed)
    prefill = rng.lognormal(0.0, 1.0, requests) * 0.3
    cost = np.outer(prefill, rng.uniform(0.5, 2.0, workers))
    cost += np.outer(_work(requests, rng), rng.uniform(0.5, 2.0, workers))
    return Problem.of(cost)


def noisy(requests: int, workers: int, seed: int) -> Problem:
    """Unequal workers, and each pair of a request and a worker up to 10 % off: unrelated times."""
    rng = np.random.default_rng(seed)
    work, slowness = _work(requests, rng), _slowness(workers, rng)
    return Problem.of(np.outer(work, slowness) * rng.uniform(0.9, 1.1, (requests, workers)))


def wild(requests: int, workers: int, seed: int) -> Problem:
    """Each pair of a request and a worker has a factor of its own, from a half to two."""
    rng = np.random.default_rng(seed)
    work = _work(requests, rng)
    return Problem.of(work[:, None] * rng.uniform(0.5, 2.0, (requests, workers)))


def memory(requests: int, workers: int, seed: int) -> Problem:
    """Equal workers whose memory is 5 % more than some plan needs."""
    rng = np.random.default_rng(seed)
    work, tokens = _work(requests, rng), rng.integers(100, 2000, requests).astype(np.float64)
    somewhere = rng.permutation(np.arange(requests) % workers)
    room = np.bincount(somewhere, tokens, workers) * (1 + TIGHT)
    return Problem.of(np.outer(work, np.ones(workers)), kv_tokens=tokens, kv_capacity=room)


def everything(requests: int, workers: int, seed: int) -> Problem:
    """Unequal workers with backlogs, four choices each, and memory 5 % above need."""
    rng = np.random.default_rng(seed)
    base = four_way(requests, workers, seed)
    work, slowness = _work(requests, rng), np.ones(workers)
    tokens = rng.integers(100, 2000, requests).astype(np.float64)
    load, room = np.zeros(workers), np.zeros(workers)
    for i in np.argsort(-base.cost_s.min(axis=1)):  # a plan that is known to fit
        j = int(np.argmin(load + base.cost_s[i]))
        load[j] += base.cost_s[i, j]
        room[j] += tokens[i]
    return Problem.of(
        base.cost_s,
        _backlog(work, slowness, rng) * 0.5,
        kv_tokens=tokens,
        kv_capacity=np.maximum(room * (1 + TIGHT), tokens.max()),
    )


KINDS: Mapping[str, Make] = {
    "equal": equal,
    "loaded": loaded,
    "two-way": two_way,
    "four-way": four_way,
    "affinity": affinity,
    "hardware": hardware,
    "noisy": noisy,
    "wild": wild,
    "memory": memory,
    "everything": everything,
}
