"""What no plan can be made of is refused by itself; everybody else is served."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from math import inf, nan

import pytest

from router.gateway.planning.isolation import UnplannableError
from router.gateway.planning.ticket import Placement
from router.wire import AgentState, WireError
from solver.cost.model import MOST_MS, CostModel
from solver.routing.problem import Job
from tests.router.gateway.fleet import Half, half, state, ticket

BAD_JOBS = {
    "endless": Job(70, inf),
    "no number": Job(70, nan),
    "negative": Job(-(10**9), 300.0),
    "no sequences": Job(70, 300.0, sequences=0),
    "a defect": Job(70, 300.0, targets=None),  # type: ignore[arg-type]
}


async def place(made: Half, *jobs: Job) -> list[Placement | BaseException]:
    tickets = [replace(ticket(str(k)), job=job) for k, job in enumerate(jobs)]
    places = (made.dispatcher.place(one) for one in tickets)
    return await asyncio.gather(*places, return_exceptions=True)


async def test_one_request_that_cannot_be_planned_is_refused_alone() -> None:
    for kind, job in BAD_JOBS.items():
        async with half(2, plan_deadline_s=0) as made:
            found = await place(made, Job(70, 300.0), job, Job(70, 300.0))
            after = await place(made, Job(70, 300.0))
        kinds = [type(one) for one in (*found, *after)]
        assert kinds == [Placement, UnplannableError, Placement, Placement], kind
        assert made.dispatcher.unsent == 0


async def test_the_largest_request_that_is_let_in_is_planned_as_the_longest() -> None:
    async with half(2, plan_deadline_s=0) as made:
        found = await place(made, Job(1 << 34, float(1 << 34), sequences=2048))
    assert [type(one) for one in found] == [Placement]


@dataclass
class Broken:
    """A cost model that answers with nonsense."""

    number: float

    def __getattr__(self, _: str) -> float:
        return self.number

    def decode_s(self, *_: float) -> float:
        return self.number

    def backlog_s(self, *_: float, **__: float) -> float:
        raise OverflowError("as this test wants it")


async def test_a_worker_with_impossible_figures_is_down_and_the_others_serve() -> None:
    async with half(2, plan_deadline_s=0) as made:
        first, second = made.workers
        first._cost = Broken(nan)  # type: ignore[assignment]
        (found,) = await place(made, Job(70, 300.0))
    assert isinstance(found, Placement)
    assert found.worker is second
    assert not first.up


@pytest.mark.parametrize("name", sorted(CostModel.names_ms()))
@pytest.mark.parametrize("value", [1e200, MOST_MS * 1.001, inf, nan, -1.0])
def test_no_term_of_a_cost_model_is_beyond_what_an_engine_could_be(name: str, value: float) -> None:
    told = state("a").to_json()
    mixed = {"alpha_m_ms": 1.0, "beta_mp_ms": 1.0, "beta_md_ms": 1.0}
    told["cost_ms"] = {**told["cost_ms"], **mixed, name: value}
    line = json.dumps(told).encode()
    with pytest.raises(WireError, match="not an agent's state"):
        AgentState.decode(line)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slots", 0), ("slots", 1 << 40), ("kv_tokens", 1 << 80), ("max_model_len", -1),
        ("running", -5), ("queued", 1e300), ("kv_held", -1), ("utilization", inf),
        ("name", ""), ("name", "a\nb"), ("name", "x" * 10_000), ("model", "a\r\nx: y"),
        ("engine", "\x1b[31m"), ("policy", ["a"]), ("cost_ms", {}), ("draining", "perhaps"),
    ],
)  # fmt: skip
def test_every_figure_and_name_of_an_agent_is_bounded(field: str, value: object) -> None:
    told = {**state("a").to_json(), field: value}
    line = json.dumps(told).encode()
    with pytest.raises(WireError) as refused:
        AgentState.decode(line)
    assert len(str(refused.value)) < 1000
