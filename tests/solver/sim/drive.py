"""Runs the simulator in the ways that tests need, and asks the outsider what to make of it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from solver.batching.policies import POLICIES
from solver.cost.model import CostModel
from solver.routing.dispatchers import dispatcher
from solver.sim.fleet import Fleet
from solver.sim.forecast import length_forecaster
from solver.sim.report import Report, report
from solver.sim.request import Request
from solver.sim.schedule import ScheduleLine
from solver.sim.stale import seen_every
from solver.sim.worker import Worker, WorkerSetting
from tests.solver.sim.outsider import Findings, Hardware, check


@dataclass(frozen=True)
class Way:
    """How to serve requests; everything but the requests."""

    cost_ms: Mapping[str, float]
    slots: int
    policy: str = "adaptive"
    order: str = "longest"
    lengths: str = "known"
    kv_tokens: float = inf
    prefill_budget: float = inf
    prefix_cache: bool = False
    workers: int = 1
    speeds: Sequence[float] = (1.0,)
    dispatch: str = "makespan"
    stale_s: float = 0.0
    cache_knowledge: str = "exact"
    seed: int = 0


@dataclass(frozen=True)
class Run:
    """What a simulation came to."""

    way: Way
    requests: Sequence[Request]
    fleet: Fleet
    report: Report
    schedule: Sequence[ScheduleLine]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What a schedule file says."""
        return [json.loads(json.dumps(line.to_json())) for line in self.schedule]

    def check(self) -> Findings:
        """Refused if the schedule or the report breaks the contract."""
        hardware = {
            worker.name: Hardware(
                worker.cost.to_ms(), self.way.slots, self.way.kv_tokens, self.way.prefill_budget
            )
            for worker in self.fleet.workers
        }
        rows = [asdict(request) | asdict(request.targets) for request in self.requests]
        return check(rows, self.lines, hardware, self.report.to_json())


def simulate(requests: Sequence[Request], way: Way) -> Run:
    """From beginning to end."""
    lines: list[ScheduleLine] = []
    cost = CostModel.from_ms(way.cost_ms)
    alike = WorkerSetting(
        way.slots,
        way.kv_tokens,
        way.prefill_budget,
        way.order,
        way.prefix_cache,
        way.cache_knowledge,
    )
    workers = [
        Worker(
            f"w{j}",
            cost.scaled(1 / way.speeds[j % len(way.speeds)]),
            alike,
            POLICIES[way.policy](),
            lines.append,
        )
        for j in range(way.workers)
    ]
    dispatch = seen_every(way.stale_s, dispatcher(way.dispatch, random.Random(way.seed)))
    fleet = Fleet(requests, workers, dispatch, length_forecaster(way.lengths, way.seed))
    fleet.run()
    return Run(way, requests, fleet, report(fleet), lines)
