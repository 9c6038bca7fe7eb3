"""Our policies inside a real vLLM: the same tokens as its own scheduler makes, in other iterations.

They run in an environment of its own (`make test-engines`), with a tiny model, on one thread.
"""

from __future__ import annotations

import importlib
import json
import time
from collections import deque
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from solver.batching.online import TURN_S
from solver.batching.outside.follow import Follower
from solver.batching.policies import POLICIES
from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, NO_TARGETS, Targets
from solver.cost.model import CostModel
from tests.engines.vllm_runs import Bench, Load, Run, kind_of

pytestmark = [
    # Not by importing it: that brings torch, which counts its threads once and for all.
    pytest.mark.skipif(find_spec("vllm") is None, reason="no vLLM here: make test-engines"),
    pytest.mark.filterwarnings("default"),  # vLLM's imports warn
    pytest.mark.timeout(900),
]

BALANCED = Load.draw((16, 384), (8, 160), count=32)
PREFILL_HEAVY = Load.draw((128, 384), (4, 32), count=48)
# As measured once on one thread; a mixed iteration takes 1 ms beyond its parts.
COST = {"alpha_p_ms": 2.9, "beta_p_ms": 0.05, "alpha_d_ms": 2.9, "beta_d_ms": 0.12}
MIXES = {**COST, "alpha_m_ms": 3.9, "beta_mp_ms": 0.05, "beta_md_ms": 0.12}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def own(bench: Bench) -> Run:
    """The balanced load under vLLM's own scheduler."""
    run = bench.play(BALANCED, bench.make_scheduler(None))
    assert [len(tokens) for tokens in run.tokens] == [output for _, _, output in BALANCED.requests]
    return run


def settled(scheduler: Any) -> Follower:
    """Its view of the engine after a step more, which sees what the last one has ended."""
    assert scheduler.schedule().total_num_scheduled_tokens == 0
    follower: Follower = scheduler._follower
    return follower


def test_vllm_starts_with_our_class_by_name(bench: Bench) -> None:
    from router.agent.engines.vllm import Makespan

    assert isinstance(bench.core.scheduler, Makespan)


@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_are_those_of_vllms_own_scheduler(bench: Bench, own: Run, policy: str) -> None:
    scheduler = bench.make_scheduler(policy)
    run = bench.play(BALANCED, scheduler)
    assert run.tokens == own.tokens
    assert run.iterations["empty"] == 0
    if policy in {"prefill-first", "threshold"}:
        assert run.iterations["mixed"] == 0
    follower = settled(scheduler)
    assert (follower.decoding, follower.kv_decoding) == ({}, 0)
    assert follower.progress.finishes == len(BALANCED.requests)


@pytest.mark.parametrize("cost", [COST, MIXES], ids=["exclusive", "mixed"])
def test_fewer_iterations_carry_prompts(bench: Bench, cost: dict[str, float]) -> None:
    own = bench.play(PREFILL_HEAVY, bench.make_scheduler(None))
    ours = bench.play(PREFILL_HEAVY, bench.make_scheduler("adaptive", json.dumps(cost)))
    assert ours.tokens == own.tokens
    assert ours.with_prefill < own.with_prefill
    assert (ours.iterations["mixed"] > 0) == (cost is MIXES)


@pytest.mark.parametrize(("cost", "most"), [(COST, 160), (MIXES, 120)], ids=["alone", "mixed"])
def test_targets_bound_the_prompts_of_a_step_beside_others(
    bench: Bench, own: Run, cost: dict[str, float], most: int
) -> None:
    """Twice what a step takes without prompts, with 16 that decode: 7.7 or 5.8 ms of prompts."""

    def beside(targets: str) -> list[int]:
        scheduler = bench.make_scheduler("adaptive", json.dumps(cost), targets=targets)
        follower, found = scheduler._follower, list[int]()
        begin = follower.begin_iteration

        def begun(prompt_tokens: int, batch: int) -> Any:
            if follower.decoding:
                found.append(prompt_tokens)
            return begin(prompt_tokens, batch)

        follower.begin_iteration = begun
        assert bench.play(BALANCED, scheduler).tokens == own.tokens
        return found

    chunks = beside("tpot=2ms")
    assert max(chunks) <= most < max(beside("none"))
    if cost is COST:
        assert not any(one and other for one, other in pairwise(chunks))


def test_longest_first_takes_fewer_iterations(bench: Bench, own: Run) -> None:
    ours = bench.play(BALANCED, bench.make_scheduler("mixed", json.dumps(MIXES)))
    assert sum(ours.iterations.values()) < 0.95 * sum(own.iterations.values())


def test_tokens_are_the_same_when_memory_runs_out(bench: Bench, own: Run) -> None:
    for policy in ("adaptive", "prefill-first"):
        scheduler = bench.make_scheduler(policy, json.dumps(MIXES), blocks=20)
        run = bench.play(BALANCED, scheduler)
        assert run.preempted > 0
        assert run.tokens == own.tokens
        assert not settled(scheduler).decoding


def test_room_that_is_not_there_stalls_nobody(
    bench: Bench, own: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from router.agent.engines.vllm import scheduler as module

    monkeypatch.setattr(module, "count_fitting", lambda contexts, _: len(list(contexts)))
    run = bench.play(BALANCED, bench.make_scheduler("prefill-first", blocks=20))
    assert run.tokens == own.tokens
    assert 0 < run.iterations["empty"] <= run.with_prefill


def test_a_request_may_leave_at_any_time(bench: Bench, own: Run) -> None:
    from vllm import SamplingParams, TokensPrompt

    engine, before = bench.llm.llm_engine, bench.core.scheduler
    bench.core.scheduler = scheduler = bench.make_scheduler("adaptive", json.dumps(MIXES))
    for k, (_, prompt, outputs) in enumerate(BALANCED.requests):
        params = SamplingParams(temperature=0, max_tokens=outputs, ignore_eos=True)
        engine.add_request(str(k), TokensPrompt(prompt_token_ids=list(prompt)), params)
    done: dict[int, tuple[int, ...]] = {}
    gone: set[int] = set()
    step = 0
    while engine.has_unfinished_requests():
        for answer in engine.step():
            if answer.finished:
                done[int(answer.request_id)] = tuple(answer.outputs[0].token_ids)
        step += 1
        if step % 5 == 0:
            left = [k for k in range(len(BALANCED.requests)) if k not in done and k not in gone]
            running = len(scheduler.running)
            engine.abort_request([str(k) for k in left[:: max(1, len(left) // 2)]])
            gone |= set(left[:: max(1, len(left) // 2)])
            assert len(scheduler.running) <= running
    bench.core.scheduler = before
    assert gone
    assert set(done) | gone == set(range(len(BALANCED.requests)))
    assert all(own.tokens[k] == tokens for k, tokens in done.items() if k not in gone)
    follower = settled(scheduler)
    assert not follower.decoding
    assert follower.progress.finishes <= len(done)
    assert not scheduler.waiting


def request(key: str, outputs: int, *, priority: int = 0, came_s: float = 0.0) -> Any:
    """As vLLM's engine makes them; `came_s`: so long after now."""
    from vllm import SamplingParams
    from vllm.v1.request import Request

    params = SamplingParams(max_tokens=outputs, ignore_eos=True)
    ids = list(range(10, 40))
    came_s += time.time()
    return Request(key, ids, params, None, arrival_time=came_s, priority=priority)


def test_who_waits_is_ranked_by_length_and_priority(bench: Bench) -> None:
    from vllm.v1.request import RequestStatus

    queue = bench.make_scheduler("adaptive", json.dumps(MIXES)).waiting
    short, long = request("short", 10), request("long", 100)
    urgent, bulk = request("urgent", 10, priority=-1), request("bulk", 1000, priority=1)
    late = request("late", 1000, came_s=3600.0)
    for one in (short, bulk, late, long, urgent):
        queue.add_request(one)
    assert set(queue) == {short, bulk, late, long, urgent}
    assert [r.request_id for r in queue.next_of(3)] == ["urgent", "long", "short"]
    lost = queue.pop_request()
    assert lost is urgent
    lost.status = RequestStatus.PREEMPTED
    queue.prepend_request(lost)
    put_back = queue.next_of(3)[1:]
    assert put_back == [long, short]
    queue.remove_requests([short, bulk])
    queue.prepend_requests([queue.pop_request(), queue.pop_request()])
    assert [queue.pop_request() for _ in range(len(queue))] == [urgent, long, late]
    assert not queue
    with pytest.raises(IndexError):
        queue.peek_request()


@pytest.mark.parametrize("policy", POLICIES)
def test_no_bulk_prompt_comes_in_with_those_of_online_work(bench: Bench, policy: str) -> None:
    from vllm.v1.request import RequestStatus

    scheduler = bench.make_scheduler(policy, json.dumps(MIXES))
    bulk, online = {f"bulk{k}" for k in range(5)}, {"one", "two"}
    for key in (*sorted(bulk), *sorted(online)):
        scheduler.add_request(request(key, 20, priority=int(key in bulk)))
    assert set(scheduler.schedule().num_scheduled_tokens) == online
    assert bulk <= set(scheduler.schedule().num_scheduled_tokens)  # those are prefilled
    scheduler.finish_requests(bulk | online, RequestStatus.FINISHED_ABORTED)


def step(scheduler: Any) -> dict[str, int]:
    """One step, whose tokens are made up; what it carried of each request."""
    from vllm.v1.outputs import ModelRunnerOutput

    output = scheduler.schedule()
    took_part = {k: scheduler.requests[k] for k in output.num_scheduled_tokens}
    sampled = [[] if one.is_prefill_chunk else [50] for one in took_part.values()]
    made = ModelRunnerOutput(list(took_part), {k: i for i, k in enumerate(took_part)}, sampled)
    scheduler.update_from_output(output, made)
    return dict(output.num_scheduled_tokens)


@pytest.mark.parametrize("policy", POLICIES)
def test_bulk_work_stands_still_beside_online_work_and_loses_nothing(
    bench: Bench, policy: str
) -> None:
    """Nine decode in 4 ms; a prompt beside anybody takes longer than that."""
    scheduler = bench.make_scheduler(policy, json.dumps(MIXES), targets="tpot=4ms")
    bulk = [request(f"b{k}", 60, priority=1) for k in range(12)]
    for one in bulk:
        scheduler.add_request(one)
    while not all(one.num_output_tokens > 3 for one in bulk):
        step(scheduler)
    free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    scheduler.add_request(online := request("online", 20))
    assert set(step(scheduler)) == {"online"}  # within one step
    carried = [step(scheduler) for _ in range(19)]
    assert all("online" in one and 2 <= len(one) <= 9 for one in carried)
    assert online.is_finished()
    assert all(one.block_hashes is not None and not one.num_preemptions for one in bulk)
    made = [one.num_output_tokens for one in bulk]
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() <= free
    assert min(made) < max(made)  # the oldest have gone on
    assert set(step(scheduler)) == {one.request_id for one in bulk}
    while scheduler.has_requests():
        step(scheduler)
    assert [one.num_output_tokens for one in bulk] == [60] * len(bulk)
    assert not settled(scheduler).paused


def test_bulk_work_that_came_long_ago_stands_still_no_longer(bench: Bench) -> None:
    scheduler = bench.make_scheduler("adaptive", json.dumps(MIXES), targets="tpot=1ms")
    old = [request(f"b{k}", 60, priority=1, came_s=-TURN_S) for k in range(3)]
    for one in (*old, request("late", 60, priority=1)):
        scheduler.add_request(one)
    while not all(one.num_output_tokens > 3 for one in old):
        step(scheduler)
    scheduler.add_request(online := request("online", 20))
    assert set(step(scheduler)) == {"online"}
    while not online.is_finished():
        assert set(step(scheduler)) == {"online", "b0", "b1", "b2"}
    while scheduler.has_requests():
        step(scheduler)


def test_if_memory_runs_out_bulk_work_loses_its_own(bench: Bench) -> None:
    scheduler = bench.make_scheduler("adaptive", json.dumps(MIXES), blocks=8, targets="tpot=4ms")
    size = scheduler.block_size
    scheduler.add_request(bulk := request("bulk", 4 * size, priority=1))
    for _ in range(size):
        step(scheduler)
    scheduler.add_request(first := request("first", 2 * size))
    step(scheduler)
    scheduler.add_request(second := request("second", 3 * size))
    while scheduler.has_requests():
        step(scheduler)
    assert bulk.num_preemptions
    assert not first.num_preemptions + second.num_preemptions
    assert bulk.num_output_tokens == 4 * size


def test_tokens_are_the_same_when_bulk_work_was_paused(bench: Bench, own: Run) -> None:
    came = [(0 if k < 16 else 12 + 3 * k, *row[1:]) for k, row in enumerate(BALANCED.requests)]
    load = Load(tuple(came), bulk=16)
    scheduler = bench.make_scheduler("adaptive", json.dumps(MIXES), targets="tpot=4ms")
    pauses, pause = [0], scheduler._follower.pause

    def count() -> None:
        pauses[0] += 1
        pause()

    scheduler._follower.pause = count
    run = bench.play(load, scheduler)
    assert run.tokens == own.tokens
    assert pauses[0]
    assert run.preempted == 0
    assert not settled(scheduler).paused


@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_steps_decided_before_the_last_has_ended(bench: Bench, policy: str | None) -> None:
    """VLLM's asynchronous scheduler and ours, two steps in flight; no model: vLLM has none for it
    on CPUs, so tokens are made up.
    """
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.outputs import ModelRunnerOutput

    scheduler = bench.make_scheduler(policy, json.dumps(MIXES), late=True)
    assert isinstance(scheduler, AsyncScheduler)
    requests = [request(str(k), 1 + k % 37) for k in range(60)]
    for one in requests:
        scheduler.add_request(one)
    flying: deque[Any] = deque()
    kinds: list[str] = []
    while scheduler.has_requests() or flying:
        if scheduler.has_requests():
            output = scheduler.schedule()
            kinds.append(kind_of(scheduler, output))
            flying.append((output, {k: scheduler.requests[k] for k in output.num_scheduled_tokens}))
        if len(flying) == 2 or not scheduler.has_requests():
            output, took_part = flying.popleft()
            keys = list(took_part)
            sampled = [[] if r.is_prefill_chunk else [50] for r in took_part.values()]
            made = ModelRunnerOutput(keys, {k: i for i, k in enumerate(keys)}, sampled)
            scheduler.update_from_output(output, made)
        assert len(kinds) < 1000
    assert [one.num_output_tokens for one in requests] == [1 + k % 37 for k in range(60)]
    assert kinds.count("mixed") == 0 or policy not in {"prefill-first", "threshold"}
    if policy is not None:
        follower = settled(scheduler)
        assert not follower.decoding
        assert follower.progress.finishes == sum(r.max_tokens > 1 for r in requests)


def test_it_learns_what_iterations_cost(bench: Bench) -> None:
    scheduler = bench.make_scheduler("adaptive")
    guess = scheduler._follower.cost
    bench.play(BALANCED, scheduler)
    learnt = scheduler._follower.cost
    assert learnt != guess
    assert learnt.mixed is not None
    assert learnt.prefill_s(100) > 0  # where a core is shared, by the token or for all together
    told = bench.make_scheduler("adaptive", json.dumps(COST))._follower
    assert told.cost.to_ms() == pytest.approx(CostModel.from_ms(COST).to_ms())


def test_an_unknown_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    import router.agent.engines.vllm as plugin

    monkeypatch.setattr(vllm, "__version__", "0.99.1")
    with pytest.raises(RuntimeError, match=r"knows vLLM 0\.32\.\*, and 0\.99\.1 is installed"):
        importlib.reload(plugin)


def test_a_bad_setting_keeps_the_engine_from_starting_and_is_named(bench: Bench) -> None:
    with pytest.raises(ValueError, match="MAKESPAN_VLLM_POLICY: unknown policy 'greedy'"):
        bench.make_scheduler("greedy")


def test_bad_settings_are_named(tmp_path: Path) -> None:
    from router.agent.engines.vllm.settings import read_settings

    assert read_settings({}).policy == "adaptive"
    file = tmp_path / "cost.json"
    file.write_text(json.dumps({"cost_ms": MIXES}))
    known = read_settings({"MAKESPAN_VLLM_COST": str(file)}).cost
    assert known is not None
    assert known.mixed is not None
    assert read_settings({}).targets == DEFAULT_TARGETS[Priority.DEFAULT]
    assert read_settings({"MAKESPAN_VLLM_TARGETS": "tpot=50ms"}).targets == Targets(tpot_s=0.05)
    assert read_settings({"MAKESPAN_VLLM_TARGETS": "none"}).targets == NO_TARGETS
    with pytest.raises(ValueError, match=r"MAKESPAN_VLLM_TARGETS: .*tpot=100ms"):
        read_settings({"MAKESPAN_VLLM_TARGETS": "fast"})
    with pytest.raises(ValueError, match=r"MAKESPAN_VLLM_POLICY.*'greedy'.*adaptive"):
        read_settings({"MAKESPAN_VLLM_POLICY": "greedy"})
    for bad, told in {
        '{"alpha_p_ms": 1}': "beta_p_ms is missing",
        '{"alpha_p_ms": ': "Expecting value",
        str(tmp_path / "none.json"): "No such file",
    }.items():
        with pytest.raises(ValueError, match=f"MAKESPAN_VLLM_COST.*{told}"):
            read_settings({"MAKESPAN_VLLM_COST": bad})
