"""What the planner sees of a worker is kept until it changes, and never any older."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from router.gateway.fleet.worker import Worker
from solver.routing.problem import Job
from solver.routing.slots import PlainSlots
from tests.router.gateway.fleet import COST, state

KEYS = st.sampled_from("abcd")


def send(streamed: bool) -> Callable[[Worker, str, float], None]:
    return lambda worker, key, now: worker.load.add(key, Job(70, 90.0, 2), now, streamed=streamed)


def toggle(name: str) -> Callable[[Worker, str, float], None]:
    return lambda worker, _, __: setattr(worker, name, not getattr(worker, name))


CHANGES: dict[str, Callable[[Worker, str, float], None]] = {
    "sent": send(streamed=True),
    "sent unseen": send(streamed=False),
    "a token": lambda worker, key, _: worker.load.progress(key, 1),
    "ended": lambda worker, key, _: worker.load.remove(key),
    "answers": lambda worker, _, __: worker.health.answered(),
    "fails": lambda worker, _, now: worker.health.failed(now, "it is broken"),
    "is full": lambda worker, _, now: worker.health.busy(now, "it is full", 1.0, trial=False),
    "is tried again": lambda worker, _, now: worker.health.wake(now),
    "is away": lambda worker, _, __: worker.health.lost("it is away"),
    "leaves or stays": toggle("leaving"),
    "slower than thought": lambda worker, _, now: worker.speed.rounds.observe(1.0, 1.0 + now),
    "prefills slower": lambda worker, _, now: worker.speed.prefills.observe(1.0, 1.0 + now),
    "a report": lambda worker, key, _: worker.update_state(state("w", slots=ord(key) - 90)),
    "drains": lambda worker, _, __: worker.update_state(state("w", draining=True)),
    "nothing": lambda _, __, ___: None,
}


@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), KEYS, st.floats(0.0, 3.0))))
def test_a_view_is_what_it_would_be_if_it_were_made_now(
    steps: list[tuple[str, str, float]],
) -> None:
    worker, now = Worker("http://w:1", PlainSlots(4), COST), 0.0
    for change, key, later_s in steps:
        CHANGES[change](worker, key, now)
        now += later_s
        assert worker.view(now) == worker._new_view(worker.cost, worker.slots, now)
        assert worker.view(now) is worker.view(now)
        if worker.state is None:
            assert worker.cost == COST.scaled(*worker.speed.factors)
