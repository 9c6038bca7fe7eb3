"""The agent's core: slots, memory, order and the books, stage by stage in virtual time."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.lab.simulation.traces import dataset
from solver.batching.batcher import Batcher
from solver.batching.bounds import Work, engine_bound
from solver.batching.ledger import SlotLedger
from solver.batching.policies import POLICIES
from solver.batching.queue import make_queue
from solver.batching.sequence import Sequence, Stage
from solver.cost.model import Action
from solver.cost.profiles import PROFILES
from solver.sim.request import Request
from tests.solver.sim.drive import Way, simulate

PAPER = PROFILES["llama-65b-ascend"]
COST_MS = PAPER.cost.to_ms()
loads = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 80)), min_size=1, max_size=40)


@given(loads, st.sampled_from(sorted(POLICIES)), st.integers(1, 8), st.booleans())
@settings(max_examples=60)
def test_slot_time_adds_up_and_the_bound_holds(
    load: list[tuple[int, int]], policy: str, slots: int, known: bool
) -> None:
    requests = [Request(str(k), *lengths) for k, lengths in enumerate(load)]
    lengths = "known" if known else "unknown"
    run = simulate(requests, Way(COST_MS, slots, policy=policy, lengths=lengths))
    batcher, makespan = run.fleet.workers[0].batcher, run.report.makespan_s
    assert sum(batcher.ledger.seconds.values()) == pytest.approx(slots * makespan)
    ledger = batcher.ledger
    assert ledger.utilization == pytest.approx(run.report.utilization)
    assert ledger.utilization <= ledger.useful <= 1
    held = slots * makespan - ledger.seconds["empty"]
    assert ledger.useful * held == pytest.approx(ledger.utilization * slots * makespan)
    prompt, output = (sum(column) for column in zip(*load, strict=True))
    work = Work(len(load), prompt, output, max(made for _, made in load))
    bound = engine_bound(PAPER.cost, slots, work)
    assert bound <= makespan * (1 + 1e-9)
    assert batcher.efficiency == pytest.approx(bound / makespan)
    assert (batcher.kv_held, batcher.running, batcher.queued, batcher.busy_period) == (
        0,
        0,
        0,
        None,
    )
    assert batcher.backlog_s(batcher.output_to_come()) == 0


def closed_loop(policy: str, slots: int, clients: int, *, known: bool) -> SlotLedger:
    """A third of GSM8K with so many clients, each of which asks again once it has its answer."""
    lengths = [(r.prompt_tokens, r.output_tokens) for r in dataset("gsm8k-llama65b")[0][::3]]
    mean = sum(output for _, output in lengths) / len(lengths)
    core = Batcher(slots, inf, PAPER.cost, POLICIES[policy](), 0.0)
    todo = list(enumerate(lengths))[::-1]
    left: dict[str, int] = {}

    def ask(now: float) -> None:
        if todo:
            k, (prompt, output) = todo.pop()
            left[str(k)] = output
            core.add(Sequence(str(k), prompt, output if known else mean, 512, now), now)

    for _ in range(clients):
        ask(0.0)
    now = 0.0
    while (stage := core.next_stage(now)) is not None:
        now += stage.duration_s(PAPER.cost)
        for running in stage.decode:
            left[running.id] -= 1
        ended = [running.id for running in stage.decode if not left[running.id]]
        core.finish_stage(stage, ended, now)
        for _ in ended:
            ask(now)
    assert not todo
    return core.ledger


@pytest.mark.parametrize("known", [True, False])
def test_waiting_pays_where_clients_take_turns_too(known: bool) -> None:
    first = closed_loop("prefill-first", 14, 16, known=known)
    for policy in ("lagrangian", "adaptive"):
        ours = closed_loop(policy, 14, 16, known=known)
        assert ours.useful > first.useful
        assert sum(ours.seconds.values()) < sum(first.seconds.values())


def batcher(
    slots: int = 1,
    kv_tokens: float = inf,
    *,
    order: str = "longest",
    policy: str = "prefill-first",
    budget: float = inf,
) -> Batcher:
    return Batcher(
        slots,
        kv_tokens,
        PAPER.cost,
        POLICIES[policy](),
        0.0,
        waiting=make_queue(order, slots, PAPER.cost.decode_s(slots)),
        prefill_budget=budget,
    )


def sequence(key: str, prompt: int, expected: float = 10.0, now: float = 0.0) -> Sequence:
    return Sequence(key, prompt, expected, 1000, now)


def advance(core: Batcher, now: float, *ended: str) -> Stage:
    """The next stage, which takes a second; `ended` have their last token then."""
    stage = core.next_stage(now)
    assert stage is not None
    core.finish_stage(stage, ended, now + 1)
    return stage


def prefilled(core: Batcher, now: float = 0.0) -> list[str]:
    stage = core.next_stage(now)
    return [] if stage is None else [chunk.sequence.id for chunk in stage.prefill]


def test_longest_first_within_a_burst() -> None:
    core = batcher(slots=2)
    for key, expected in (("short", 10.0), ("long", 500.0), ("middle", 100.0)):
        core.add(sequence(key, 10, expected), 0.0)
    assert prefilled(core) == ["long", "middle"]


def test_a_short_request_is_not_overtaken_for_ever() -> None:
    """One that is 490 tokens longer may come 490 rounds later, but not more."""
    round_s = PAPER.cost.decode_s(1)
    for later, first in ((480 * round_s, "long"), (500 * round_s, "short")):
        core = batcher()
        core.add(sequence("short", 10, 10.0), 0.0)
        core.add(sequence("long", 10, 500.0, later), later)
        assert prefilled(core, later) == [first]


def test_nobody_overtakes_a_request_that_waits_for_memory() -> None:
    core = batcher(slots=3, kv_tokens=100, order="fcfs")
    core.add(sequence("first", 40), 0.0)
    advance(core, 0.0)
    core.add(sequence("large", 60, now=1.0), 1.0)
    core.add(sequence("small", 5, now=2.0), 2.0)
    assert prefilled(core, 2.0) == []


def test_the_last_admitted_loses_its_memory_first_and_comes_back_before_anybody_else() -> None:
    core = batcher(slots=3, kv_tokens=100, order="fcfs")
    for key in ("first", "second"):
        core.add(sequence(key, 40), 0.0)
    advance(core, 0.0)
    for now in range(1, 11):  # 80 tokens become 100
        assert len(advance(core, now).decode) == 2
    core.add(sequence("new", 5), 11.0)
    stage = advance(core, 11.0, "first")
    assert [s.id for s in stage.decode] == ["first"]
    assert (core.preemptions, core.running, core.kv_held) == (1, 1, 0)
    stage = advance(core, 12.0)
    assert [(c.sequence.id, c.tokens, c.last) for c in stage.prefill] == [
        ("second", 50, True),  # its prompt and the ten tokens that it has made
        ("new", 5, True),
    ]
    assert stage.prefill[0].sequence.slot == 1  # the one that it had before


def test_a_prompt_over_the_budget_takes_several_iterations_on_one_slot() -> None:
    core = batcher(slots=2, budget=30, order="fcfs")
    for key, prompt in (("long", 70), ("short", 25)):
        core.add(sequence(key, prompt), 0.0)
    stages = [advance(core, float(now)) for now in range(5)]
    assert [[(c.sequence.id, c.tokens, c.last) for c in s.prefill] for s in stages] == [
        [("long", 30, False)],
        [("long", 30, False)],
        [("long", 10, True), ("short", 20, False)],
        [("short", 5, True)],
        [],
    ]
    assert [s.id for s in stages[-1].decode] == ["long", "short"]


@pytest.mark.parametrize("moment", ["prefill", "chunk", "decode", "preempted"])
def test_cancelled_requests_leave_whatever_they_are_doing(moment: str) -> None:
    core = batcher(slots=2, kv_tokens=50 if moment == "preempted" else 1000, budget=20)
    core.add(sequence("stays", 10, 100.0), 0.0)
    core.add(sequence("leaves", 30 if moment == "chunk" else 10, 50.0), 0.0)
    now = 0.0
    while not {
        "prefill": True,
        "chunk": core.running == 2,
        "decode": core.progress.rounds == 2,
        "preempted": core.preemptions == 1,
    }[moment]:
        advance(core, now)
        now += 1
    stage = core.next_stage(now)
    assert stage is not None
    core.add(sequence("waiting", 10, now=now), now)
    for key in ("leaves", "waiting", "unknown"):
        core.cancel(key, now + 0.5)
    core.finish_stage(stage, ["stays"], now + 1)
    assert (core.running, core.queued, core.kv_held, core.busy_period) == (0, 0, 0, None)
    assert core.next_stage(now + 1) is None


def test_several_rounds_are_one_stage_only_while_nobody_would_interrupt() -> None:
    """A policy that looks at the forecast every round is asked every round."""
    for policy, rounds in (("prefill-first", 7), ("threshold", 7), ("adaptive", 1)):
        core = batcher(slots=40, policy=policy)
        for k in range(39 + 40):
            core.add(sequence(str(k), 10, 500.0), 0.0)
        advance(core, 0.0)
        advance(core, 1.0, "0")  # one slot is free, the others will not be for long
        stage = core.next_stage(2.0, 7)
        assert stage is not None
        if policy == "prefill-first":
            core.finish_stage(stage, [], 3.0)
            stage = core.next_stage(3.0, 7)
            assert stage is not None
        assert (stage.action, stage.rounds) == (Action.DECODE, rounds)


def test_several_rounds_end_before_memory_does() -> None:
    core = batcher(slots=2, kv_tokens=100)
    for key in ("a", "b"):
        core.add(sequence(key, 20), 0.0)
    advance(core, 0.0)
    stage = core.next_stage(1.0, 1000)
    assert stage is not None
    assert stage.rounds == 30
