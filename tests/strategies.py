"""Hypothesis strategies for packing problems."""

from __future__ import annotations

from hypothesis import strategies as st

from solver.packing.problem import Problem

seconds = st.floats(min_value=0.01, max_value=100.0, allow_nan=False)


@st.composite
def problems(
    draw: st.DrawFn,
    max_requests: int = 6,
    max_workers: int = 3,
    *,
    tight_memory: bool = False,
) -> Problem:
    """Unrelated workers with backlogs, spans, eligibility and memory limits."""
    n = draw(st.integers(1, max_requests))
    m = draw(st.integers(1, max_workers))
    cost = [[draw(seconds) for _ in range(m)] for _ in range(n)]
    span = [[draw(st.sampled_from([0.0, cell, 2 * cell])) for cell in row] for row in cost]
    eligible = [[draw(st.booleans()) for _ in range(m)] for _ in range(n)]
    for row in eligible:
        row[draw(st.integers(0, m - 1))] = True
    kv = [draw(st.integers(1, 10)) for _ in range(n)]
    room = st.integers(5, 20) if tight_memory else st.just(10 * n)
    return Problem.of(
        cost,
        [draw(st.floats(0.0, 100.0)) for _ in range(m)],
        span_s=span,
        eligible=eligible,
        kv_tokens=kv,
        kv_capacity=[draw(room) for _ in range(m)],
    )
