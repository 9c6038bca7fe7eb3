"""A gateway's planning half without sockets: workers that have reported once, and a dispatcher."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.workers import Workers
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.planner import Planner
from router.gateway.planning.ticket import Ticket
from router.http.connections import Connections
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewaySettings
from router.wire import AgentState
from solver.cost.profiles import PROFILES
from solver.routing.problem import Job

COST = PROFILES["llama-65b-ascend"].cost


def state(name: str, *, speed: float = 1.0, slots: int = 16, draining: bool = False) -> AgentState:
    return AgentState(
        name=name,
        model="llama-65b",
        engine="emulated",
        policy="lagrangian",
        slots=slots,
        kv_tokens=10**6,
        max_model_len=2048,
        cost_ms=COST.scaled(1 / speed).to_ms(),
        running=0,
        queued=0,
        kv_held=0,
        utilization=0.0,
        draining=draining,
    )


def ticket(key: str, expected: float = 300.0, prompt: int = 70) -> Ticket:
    return Ticket(
        request_id=f"id-{key}",
        model="llama-65b",
        job=Job(prompt, expected),
        least_tokens=prompt,
        streamed=True,
    )


def random_tickets(count: int, seed: int = 1) -> list[Ticket]:
    rng = random.Random(seed)
    return [ticket(str(k), float(rng.randint(20, 512)), rng.randint(20, 200)) for k in range(count)]


class Half:
    """Workers, dispatcher, planner and metrics, as `create_app` joins them."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.metrics = GatewayMetrics()
        self.workers = Workers(settings, Connections(), self.metrics)
        self.workers.update(Endpoint(url) for url in settings.worker)
        self.planner = Planner(settings.plan_deadline_s, self.metrics)
        self.dispatcher = Dispatcher(settings, self.workers, self.planner, self.metrics)

    async def warm(self) -> None:
        """Wait until the solver's process answers."""
        self.planner.solver.ready()
        await self.planner.solver.warm()

    def fill(self) -> None:
        """Fill every worker's slots and lead, so that windows gather."""
        for worker in self.workers:
            for k in range(worker.room):
                worker.load.add(f"old-{k}", Job(50, 100.0), time.monotonic(), streamed=True)

    def empty(self) -> None:
        """All of those end at one moment."""
        for worker in self.workers:
            for k in range(len(worker.load)):
                worker.load.remove(f"old-{k}")
        self.dispatcher.reconsider()


@asynccontextmanager
async def half(workers: int, *, slots: int = 16, **settings: object) -> AsyncIterator[Half]:
    """A running dispatcher before `workers` workers of unequal speed."""
    urls = ",".join(f"http://w{j}:1" for j in range(workers))
    made = Half(GatewaySettings(worker=urls, **settings))  # type: ignore[arg-type]
    for j, worker in enumerate(made.workers):
        worker.update_state(state(f"w{j}", speed=(0.5, 1, 2)[j % 3], slots=slots))
        made.workers._mark_up(worker)
    task = asyncio.create_task(made.dispatcher.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.planner.stop()
