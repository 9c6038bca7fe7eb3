"""Sums of a load are those of its requests, whatever has come and gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from solver.cost.model import CostModel
from solver.routing.load import REPREDICT_TOKENS, WorkerLoad
from solver.routing.problem import Job

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "progress", "remove"]),
        st.integers(0, 4),
        st.integers(1, 50),
        st.booleans(),
    ),
    max_size=40,
)


@given(st.integers(2, 600), st.booleans(), st.integers(1, 100))
def test_what_is_paced_is_in_nobodys_way_until_it_has_ended(n: int, paced: bool, each: int) -> None:
    load = WorkerLoad()
    load.add("x", Job(n * each, 50.0 * n, n), 0.0, streamed=True, paced=paced)
    assert load.sequences == n
    assert load.yielding.sequences == load.paced_sequences == (n if paced else 0)
    waiting = n * each if paced else 0
    assert load.yielding.prompt_tokens == waiting
    assert load.paces("") == paced
    load.progress("x", 3)
    sums = load.yielding
    assert (sums.prompt_tokens, sums.kv_tokens) == (0, waiting), "what is made is held"
    load.remove("x")
    assert load.yielding == WorkerLoad().yielding
    assert load.paced_sequences == 0
    assert not load.paces("")


@given(STEPS)
def test_bulk_work_is_added_up_as_it_comes_runs_and_goes(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    load, jobs = WorkerLoad(), dict[int, Job]()
    for what, key, tokens, bulk in steps:
        if what == "add" and key not in jobs:
            jobs[key] = Job(tokens, 20.0, sequences=1 + key % 2, bulk=bulk)
            load.add(key, jobs[key], 0.0, streamed=True)
        elif what == "progress":
            load.progress(key, tokens)
        elif what == "remove":
            load.remove(key)
            jobs.pop(key, None)
        own = {key: job for key, job in jobs.items() if job.bulk}
        begun = {key: job for key, job in own.items() if load.made(key)}
        assert load.yielding.sequences == sum(job.sequences for job in own.values())
        waiting = sum(job.prompt_tokens for key, job in own.items() if key not in begun)
        assert load.yielding.prompt_tokens == waiting
        cached = sum(job.prompt_tokens + load.made(key) for key, job in begun.items())
        assert load.yielding.kv_tokens == cached


@given(
    st.integers(1, 4000), st.integers(1, 4), st.integers(1, 64), st.floats(0, 200, allow_nan=False)
)
def test_what_is_not_seen_is_counted_alike_while_it_runs_and_when_it_is_left(
    prompt: int, sequences: int, slots: int, elapsed_s: float
) -> None:
    """Within the tokens that are counted at once; whatever was expected of it."""
    cost = CostModel(0.01, 0.0001, 0.02, 0.0001)
    left, running = WorkerLoad(), WorkerLoad()
    left.add(0, Job(prompt, 1.0 * sequences, sequences), 0.0, streamed=False)
    running.add(0, Job(prompt, 1e9, sequences), 0.0, streamed=False)
    running.advance(cost, slots, elapsed_s)
    made = left.made_unseen(0, cost, slots, elapsed_s)
    assert abs(made - running.made(0)) <= (REPREDICT_TOKENS + 1) * sequences
    assert left.made_unseen(0, cost, slots, 0.0) == left.made_unseen(1, cost, slots, 9.0) == 0
