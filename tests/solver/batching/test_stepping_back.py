"""Bulk work beside online work in one engine: who waits for whom, and what is lost."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.batching.batcher import Batcher
from solver.batching.online import FIRST_TOKEN_ITERATIONS, TURN_S
from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.batching.queue import ORDERS, make_queue
from solver.batching.sequence import Sequence
from solver.batching.targets import Targets
from solver.cost.profiles import PROFILES
from solver.sim.request import Request
from tests.solver.sim.drive import Run, Way, simulate

MIXES = PROFILES["llama-2-70b-h100-tp8"].cost  # 21 ms a round, 41 ms a thousand prompt tokens
STAGES = PROFILES["llama-65b-ascend"].cost
COSTS = {"mixed": MIXES, "exclusive": STAGES}


def bulk(count: int, prompt: int = 200, output: int = 300) -> list[Request]:
    return [Request(f"b{k}", prompt, output, 0.0, (), Priority.BULK) for k in range(count)]


def online(count: int, every_s: float, targets: Targets, start_s: float = 1.0) -> list[Request]:
    return [
        Request(f"o{k}", 300, 40, start_s + k * every_s, (), Priority.DEFAULT, inf, targets)
        for k in range(count)
    ]


def first_token_s(run: Run, mark: str = "o") -> list[float]:
    pairs = zip(run.fleet.requests, run.fleet.first_s.tolist(), strict=True)
    return [first - one.arrival_s for one, first in pairs if one.id.startswith(mark)]


sizes = st.tuples(st.integers(1, 60), st.integers(1, 30))
arrivals = st.lists(st.tuples(sizes, st.floats(0, 3), st.booleans()), min_size=1, max_size=30)


@given(
    arrivals,
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(sorted(COSTS)),
    st.integers(1, 6),
    st.sampled_from((inf, 200.0, 100.0)),
    st.sampled_from((0.02, 0.04, 0.1, inf)),
    st.sampled_from((inf, 16.0)),
)
@settings(max_examples=100)
def test_every_schedule_with_bulk_work_keeps_the_contract(
    load: list[tuple[tuple[int, int], float, bool]],
    policy: str,
    cost: str,
    slots: int,
    kv_tokens: float,
    tpot_s: float,
    budget: float,
) -> None:
    """All that an outsider can check, and where slot-time went; every request ends."""
    requests = [
        Request(str(k), *size, at_s, (), Priority.BULK if waits else Priority.DEFAULT)
        for k, (size, at_s, waits) in enumerate(load)
    ]
    wanted = Targets(1.0, tpot_s)
    requests = [r if r.priority is Priority.BULK else replace(r, wanted=wanted) for r in requests]
    way = Way(COSTS[cost].to_ms(), slots, policy, kv_tokens=kv_tokens, prefill_budget=budget)
    run = simulate(requests, way)
    run.check()
    batcher = run.fleet.workers[0].batcher
    seconds = sum(batcher.ledger.seconds.values())
    assert seconds == pytest.approx(slots * run.report.makespan_s)
    assert (batcher.kv_held, batcher.running, batcher.queued) == (0, 0, 0)
    assert batcher.backlog_s(batcher.output_to_come()) == 0


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("slots", [32, 8])
def test_who_comes_waits_for_no_more_than_its_targets_let_it(policy: str, slots: int) -> None:
    """However much bulk work there is, and though it holds all the slots when the first comes."""
    targets = Targets(0.3, 0.05)
    requests = online(40, 0.7, targets)
    # Bulk work is alone when the first comes, which may have to wait for one long stage.
    run = simulate([*bulk(150), *requests], Way(MIXES.to_ms(), slots, policy))
    alone = simulate(requests, Way(MIXES.to_ms(), slots, policy))
    assert max(first_token_s(run)[1:]) < FIRST_TOKEN_ITERATIONS * 0.05 + max(first_token_s(alone))
    assert (
        run.report.makespan_s
        < 1.25 * simulate(bulk(150), Way(MIXES.to_ms(), slots, policy)).report.makespan_s + 40 * 0.7
    )


def test_bulk_work_alone_is_served_as_if_it_were_not_bulk() -> None:
    for policy in POLICIES:
        ours = simulate(bulk(60), Way(STAGES.to_ms(), 8, policy))
        others = [replace(r, priority=Priority.DEFAULT, wanted=Targets()) for r in bulk(60)]
        assert (
            ours.report.makespan_s
            == simulate(others, Way(STAGES.to_ms(), 8, policy)).report.makespan_s
        )


def test_nothing_is_thrown_away_while_there_is_memory_and_a_slot() -> None:
    """It stands still instead, and goes on."""
    requests = [*bulk(24), *online(60, 0.05, Targets(0.2, 0.0225))]
    run = simulate(requests, Way(MIXES.to_ms(), 128))
    assert run.report.preemptions == 0
    assert run.report.slot_seconds["paused"] > 0


def test_memory_for_online_work_comes_from_the_youngest_bulk_work() -> None:
    requests = [*bulk(20, 400, 400), *online(10, 0.1, Targets(0.5, 0.05), 5.0)]
    run = simulate(requests, Way(MIXES.to_ms(), 64, kv_tokens=9000))
    run.check()
    lost = {key for line in run.schedule for key in line.preempted}
    assert lost
    assert all(key.startswith("b") for key in lost)
    assert max(first_token_s(run)[1:]) < 0.5


def test_bulk_work_that_was_overtaken_for_long_has_its_turn() -> None:
    """As in `tests.solver.sim.test_priorities`, on an engine whose targets leave it no room."""
    served_s = 200 * STAGES.decode_s(4) / 4
    stream = [
        Request(f"i{k}", 50, 200, k * served_s / 1.2, (), Priority.DEFAULT, inf, Targets(2, 0.001))
        for k in range(560)
    ]
    run = simulate([*bulk(5, 50, 100), *stream], Way(STAGES.to_ms(), 4, order="fcfs"))
    run.check()
    ends = dict(zip((r.id for r in run.fleet.requests), run.fleet.end_s.tolist(), strict=True))
    assert max(ends[f"b{k}"] for k in range(5)) < max(ends.values()) - 60


@pytest.mark.parametrize(
    ("cost", "count", "size", "kv_tokens"),
    [
        ("mixed", 1, (200, 300), inf),  # it decodes when the first who is waited for comes
        ("exclusive", 1, (3000, 3), inf),  # it is in its prefill
        ("mixed", 2, (900, 400), 2400.0),  # one decodes, and the other has lost its memory
    ],
)
def test_bulk_work_that_stands_still_in_its_slot_has_its_turn_too(
    cost: str, count: int, size: tuple[int, int], kv_tokens: float
) -> None:
    """Somebody always decodes whose targets leave it no room, for twice as long."""
    slow = COSTS[cost].scaled(10.0)
    first_s = 0.85 * (size[1] - 3) * slow.decode_s(count) + 0.1
    way = Way(slow.to_ms(), 8, order="fcfs", kv_tokens=kv_tokens, prefill_budget=512)
    every_s = 30 * slow.decode_s(2)
    stream = online(int(2 * TURN_S / every_s), every_s, Targets(2, 0.001), first_s)
    run = simulate([*bulk(count, *size), *stream], way)
    run.check()
    ends = dict(zip((r.id for r in run.fleet.requests), run.fleet.end_s.tolist(), strict=True))
    assert max(ends.values()) > 1.8 * TURN_S
    for k in range(count):
        assert TURN_S < ends[f"b{k}"] < 1.5 * TURN_S
    assert (run.report.preemptions > 0) == (kv_tokens < inf)


MEMORY = 400
# Shares of an engine's memory: of many sizes, nearly all of it, and all.
shares = st.one_of(st.floats(0.01, 0.2), st.floats(0.01, 1.0), st.floats(0.8, 1.0), st.just(1.0))
asked = st.tuples(
    shares,
    st.integers(1, 30),
    st.floats(0.0, 1.0),
    st.sampled_from(Priority),
    st.sampled_from((0.001, 0.02, 0.1, inf)),
)


@given(
    st.lists(asked, min_size=1, max_size=20),
    st.sampled_from((0.5, 30.0, 2000.0)),
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(ORDERS),
    st.sampled_from(sorted(COSTS)),
    st.sampled_from((1, 2, 3, 8, 16)),
    st.sampled_from((inf, 16.0)),
)
@settings(max_examples=150)
def test_an_engine_never_idles_while_somebody_waits_who_fits_into_it_alone(
    load: list[tuple[float, int, float, Priority, float]],
    span_s: float,
    policy: str,
    order: str,
    name: str,
    slots: int,
    budget: float,
) -> None:
    """Whatever came before, so nobody is held back until something else comes, or time passes."""
    cost = COSTS[name]
    waiting = make_queue(order, slots, cost.decode_s(slots))
    core = Batcher(
        slots, MEMORY, cost, POLICIES[policy](), 0.0, waiting=waiting, prefill_budget=budget
    )
    todo = list[tuple[Sequence, int]]()
    for k, (share, most, at, priority, tpot_s) in enumerate(load):
        size = max(2, int(share * MEMORY))
        output = min(most, size - 1)
        targets = Targets() if priority is Priority.BULK else Targets(1.0, tpot_s)
        sequence = Sequence(str(k), size - output, 15.0, output, at * span_s)
        todo.append((replace(sequence, priority=priority, targets=targets), output))
    todo.sort(key=lambda one: one[0].arrival_s, reverse=True)
    left, now = dict[str, int](), 0.0
    while todo or left:
        while todo and (todo[-1][0].arrival_s <= now or not left):
            sequence, output = todo.pop()
            now, left[sequence.id] = max(now, sequence.arrival_s), output
            core.add(sequence, now)
        stage = core.next_stage(now)
        assert stage is not None, "it idles"
        assert stage.prefill or stage.decode
        now += stage.duration_s(cost)
        for one in stage.decode:
            left[one.id] -= 1
        ended = [one.id for one in stage.decode if not left[one.id]]
        for key in ended:
            del left[key]
        core.finish_stage(stage, ended, now)
    assert (core.kv_held, core.running, core.queued) == (0, 0, 0)
