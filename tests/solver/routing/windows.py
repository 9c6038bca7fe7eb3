"""Windows of requests and loads of workers, for tests of plans: any that may be, small ones."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import numpy as np
from hypothesis import strategies as st

from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.routing.asked import Asked
from solver.routing.columns import numbers, row_of
from solver.routing.joint import Question
from solver.routing.problem import Job, WorkerView


def worker(rng: random.Random) -> WorkerView:
    """Empty, busy or full, with or without a known memory, fast or slow."""
    slots = rng.randint(1, 6)
    in_flight = rng.randint(0, slots + 2)
    running = rng.randint(0, min(slots, in_flight))
    kv = running * rng.uniform(0.0, 600.0)
    gamma = rng.choice([0.0, 1e-5])
    return WorkerView(
        cost=CostModel(0.02, 0.0003, 0.03, 0.001, gamma).scaled(rng.choice([0.5, 1.0, 3.0])),
        slots=slots,
        in_flight=in_flight,
        backlog_s=rng.uniform(0.0, 10.0),
        prefill_s=rng.choice([0.0, 0.3, 0.9, 1.5]),
        kv_free=None,
        running=running,
        left_tokens=rng.uniform(0.0, 400.0) * (in_flight > 0),
        kv_tokens=kv,
        kv_now=max(0.0, rng.choice([inf, 4000.0, 800.0]) - kv),
        room=max(0, slots + 1 - in_flight),
    )


def job(rng: random.Random) -> Job:
    """With somebody waiting, or in bulk; of one sequence, or of two."""
    return Job(
        prompt_tokens=rng.choice([rng.randint(1, 100), rng.randint(1, 3000)]),
        expected_tokens=rng.uniform(1.0, 500.0),
        sequences=rng.choice([1, 1, 1, 2]),
        weight=rng.choice([0.25, 1.0, 4.0]),
        overrun_tokens=rng.uniform(0.0, 300.0),
        targets=rng.choice([NO_TARGETS, Targets(2.0, 0.1), Targets(0.5, 0.05)]),
    )


def window(n: int, m: int, seed: int) -> Asked:
    """n requests and m workers; each request is allowed somewhere."""
    rng = random.Random(f"{n}/{m}/{seed}")
    jobs = [job(rng) for _ in range(n)]
    everyone, eligible = frozenset(range(m)), None
    if rng.random() < 0.5:
        few = [frozenset(rng.sample(range(m), rng.randint(1, m))) for _ in jobs]
        eligible = [rng.choice([everyone, some]) for some in few]
    cached = None
    if rng.random() < 0.5:
        shares = [[rng.choice([0.0, 0.0, rng.random()]) for _ in range(m)] for _ in jobs]
        cached = np.array([[job.prompt_tokens] for job in jobs]) * np.array(shares)
    return Asked(
        [row_of(job, rng.uniform(0.0, 3.0)) for job in jobs],
        [numbers(worker(rng)) for _ in range(m)],
        (
            [rng.choice([0.0, 4.0]) for _ in range(m)],
            [rng.choice([0.0, 0.2, 0.95]) for _ in range(m)],
        ),
        rng.uniform(0.0, 60.0),
        np.array([rng.choice([(0, 0.0, 0), (1, 0.2, 700)]) for _ in range(m)]).T,
        cached,
        eligible,
    )


def question(n: int, m: int, seed: int) -> Question:
    """The same as arrays, without those who are held."""
    asked = replace(window(n, m, seed), placed=None)
    return Question(asked.requests, asked.load)


def questions(most_requests: int = 6, most_workers: int = 3) -> st.SearchStrategy[Question]:
    """Any, up to so many."""
    sizes = st.integers(1, most_requests), st.integers(1, most_workers)
    return st.builds(question, *sizes, st.integers(0, 1 << 32))
