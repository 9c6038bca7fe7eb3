"""Adapters: who has one loaded is cheaper than who must load it, and no more than that."""

from __future__ import annotations

import time
from typing import Any

import pytest

from router.gateway.fleet.adapters import LOAD_S, Adapters, with_loading
from router.gateway.fleet.reports import PlainLook
from router.gateway.fleet.worker import Worker
from router.observe.engine_metrics import Signals, read_signals
from solver.routing.problem import Job
from solver.routing.slots import Known, PlainSlots
from tests.router.gateway.fleet import COST, Half, half, ticket

MODELS: dict[str, dict[str, Any]] = {
    "llama-65b": {"id": "llama-65b"},
    **{name: {"id": name, "parent": "llama-65b"} for name in ("a", "b", "c")},
}
PAGE = """
vllm:lora_requests_info{max_lora="2",running_lora_adapters="old",waiting_lora_adapters=""} 1.7e9
vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b",waiting_lora_adapters="c"} 1.8e9
vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 1.6e9
"""


def test_the_latest_line_counts() -> None:
    assert read_signals(PAGE.encode()) == Signals(adapters=("a", "b"), most_adapters=2)


def test_what_was_used_longest_ago_is_let_go_of() -> None:
    adapters = Adapters()
    assert not adapters.listed
    adapters.list(MODELS)
    assert adapters.listed
    assert [adapters.lacks(name) for name in MODELS] == [False, True, True, True]
    adapters.see(("a", "b", "none"), 2)
    assert [adapters.lacks(name) for name in MODELS] == [False, False, False, True]
    adapters.use("a")
    adapters.use("c")
    assert [adapters.lacks(name) for name in MODELS] == [False, False, True, False]
    adapters.use("llama-65b")
    adapters.list({name: MODELS[name] for name in ("llama-65b", "a")})
    assert [adapters.lacks(name) for name in MODELS] == [False, False, False, False]


def plain(made: Half) -> list[Worker]:
    for worker in made.workers:
        worker.update_plain(PlainLook(MODELS), 0.0)
        made.workers._mark_up(worker)
    return list(made.workers)


def test_metrics_of_who_has_adapters_are_read_before_it_has_work() -> None:
    made = Worker("http://a", PlainSlots(4, known=Known.SET), COST)
    before = made.wants_metrics
    made.update_plain(PlainLook(MODELS, Signals(adapters=("a",), most_adapters=2)), 0.0)
    assert (before, made.wants_metrics) == (False, True)
    assert not made.adapters.lacks("a")


async def test_a_plan_sends_it_where_it_is_loaded_unless_that_takes_longer() -> None:
    async with half(2) as made:
        workers = plain(made)
        for k in (0, 1, 0):
            workers[k].adapters.use("a")
            workers[1 - k].adapters.use("b")
            for name, wanted in (("a", workers[k]), ("b", workers[1 - k])):
                one = ticket(f"{name}{k}")
                one.model = name
                placed = await made.dispatcher.place(one)
                assert placed.worker is wanted
                made.dispatcher.release(one, placed.worker)
        workers[0].adapters.use("a")
        for k in range(workers[0].room):
            workers[0].load.add(k, Job(50, 100.0), time.monotonic(), streamed=True)
        one = ticket("last")
        one.model = "a"
        assert (await made.dispatcher.place(one)).worker is workers[1]


def test_loading_is_told_as_prompt_tokens_that_take_as_long() -> None:
    class One:
        def __init__(self, loaded: str) -> None:
            self.cost, self.adapters = COST, Adapters()
            self.adapters.list(MODELS)
            self.adapters.use(loaded)

    found = with_loading(["a", "llama-65b"], [One("a"), One("b")], None)
    assert found is not None
    assert found.tolist() == [[0.0, pytest.approx(-LOAD_S / COST.beta_p_s)], [0.0, 0.0]]
    assert COST.prefill_s(-found[0, 1]) - COST.alpha_p_s >= LOAD_S * 0.99
    assert with_loading(["llama-65b"], [One("a")], None) is None
