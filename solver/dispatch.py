"""Which worker gets a request: what other routers do, and ours.

Rules:
- a dispatcher is told of arrivals, and asked who goes where whenever anything has happened;
- it sees of a worker only what a router can: what it was given and what has come back (`Target`);
- each placement is carried out before the next one is asked for.

The ones that others use place one request at a time, as it comes. Ours (`Makespan`) gathers
windows, plans them, and sends only what a worker can start soon.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Protocol

import numpy as np

from solver import rolling
from solver.arrays import FloatArray
from solver.distribution import LengthDistribution
from solver.plan import first_plan_or_queue
from solver.priority import WEIGHT, Priority
from solver.problem import Job
from solver.rolling import Rolling


@dataclass(frozen=True, eq=False)
class Arrival:
    """A request to be placed: its number, and what a router knows of it."""

    number: int
    arrival_s: float
    prompt_tokens: int
    expected_tokens: float
    hash_ids: tuple[int, ...] = ()
    priority: Priority = Priority.DEFAULT
    due_s: float = inf
    lengths: LengthDistribution | None = None

    @cached_property
    def job(self) -> Job:
        """As the planner sees it."""
        return Job(
            self.prompt_tokens,
            self.expected_tokens,
            weight=WEIGHT[self.priority],
            due_s=self.due_s,
            overrun_tokens=0.0 if self.lengths is None else self.lengths.overrun,
        )


class Target(rolling.Target, Protocol):
    """What a dispatcher sees of a worker."""

    @property
    def in_flight(self) -> int:
        """Requests given to it that have not ended."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens in its memory and in prompts that wait for it."""
        ...

    def cached_tokens(self, arrival: Arrival) -> int:
        """Of the request's prompt, what it holds in its prefix cache."""
        ...


Placement = tuple[Arrival, int]
Targets = Sequence[Target]


class Dispatcher(Protocol):
    """Places requests on workers."""

    def arrive(self, arrival: Arrival, now: float) -> None:
        """A request has come."""
        ...

    def poll(self, now: float, workers: Targets) -> Iterator[Placement]:
        """Who goes where now; whoever is not named waits for a later call."""
        ...

    def next_deadline(self) -> float | None:
        """When to poll again even if nothing happens."""
        ...


Choice = Callable[[Arrival, Targets], int]


class Immediate:
    """Places every request as it comes, by a rule that looks at that request alone."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._waiting: list[Arrival] = []

    def arrive(self, arrival: Arrival, now: float) -> None:  # noqa: ARG002
        """It will be placed at the next poll."""
        self._waiting.append(arrival)

    def poll(self, now: float, workers: Targets) -> Iterator[Placement]:  # noqa: ARG002
        """All of them."""
        for arrival in self._waiting:
            yield arrival, self._choice(arrival, workers)
        self._waiting.clear()

    def next_deadline(self) -> float | None:
        """Nobody waits."""
        return None


def round_robin() -> Choice:
    """One after the other."""
    turn = -1

    def choose(_: Arrival, workers: Targets) -> int:
        nonlocal turn
        turn = (turn + 1) % len(workers)
        return turn

    return choose


def uniform(rng: random.Random) -> Choice:
    """Any."""
    return lambda _, workers: rng.randrange(len(workers))


def least_requests(_: Arrival, workers: Targets) -> int:
    """The one with the fewest requests in flight; of equals the first."""
    return min(range(len(workers)), key=lambda j: workers[j].in_flight)


def least_tokens(_: Arrival, workers: Targets) -> int:
    """The one with the fewest tokens in memory or waiting; of equals the first."""
    return min(range(len(workers)), key=lambda j: workers[j].tokens)


def power_of_two(rng: random.Random) -> Choice:
    """Of two drawn at random, the one with fewer requests in flight."""

    def choose(_: Arrival, workers: Targets) -> int:
        if len(workers) == 1:
            return 0
        a, b = rng.sample(range(len(workers)), 2)
        return a if workers[a].in_flight <= workers[b].in_flight else b

    return choose


# SGLang's gateway, policy `cache_aware`: its defaults, in requests and as ratios.
MATCH_SHARE = 0.3
IMBALANCE_REQUESTS, IMBALANCE_RATIO = 64, 1.5


def prefix_aware(arrival: Arrival, workers: Targets) -> int:
    """The one that holds the longest prefix, unless the fleet is out of balance.

    Out of balance (the largest load is both `IMBALANCE_REQUESTS` and `IMBALANCE_RATIO` times above
    the smallest), or if nobody holds `MATCH_SHARE` of the prompt: the fewest requests in flight.
    """
    loads = [worker.in_flight for worker in workers]
    high, low = max(loads), min(loads)
    if not arrival.hash_ids or (high - low > IMBALANCE_REQUESTS and high > IMBALANCE_RATIO * low):
        return loads.index(low)
    cached = [worker.cached_tokens(arrival) for worker in workers]
    longest = max(cached)
    if longest < MATCH_SHARE * arrival.prompt_tokens:
        return loads.index(low)
    return min((j for j, c in enumerate(cached) if c == longest), key=loads.__getitem__)


class Makespan:
    """Ours: windows, a joint plan, late binding; see `solver.rolling`."""

    def __init__(self, order: str = "longest") -> None:
        self._rolling: Rolling[Arrival, Target] = Rolling(order, cached=_cached)

    def arrive(self, arrival: Arrival, now: float) -> None:
        """It joins the open window."""
        self._rolling.add(arrival, now)

    def next_deadline(self) -> float | None:
        """When the open window closes by itself."""
        return self._rolling.next_deadline()

    def poll(self, now: float, workers: Targets) -> Iterator[Placement]:
        """Plan, send as far as there is room, and again as long as that sends anything."""
        index = {id(worker): j for j, worker in enumerate(workers)}
        sent = True
        while sent and (selection := self._rolling.select(now, workers)) is not None:
            sent = False
            plan = first_plan_or_queue(selection.problem)[1]
            for arrival, worker in self._rolling.take(selection, plan.assignment):
                sent = True
                yield arrival, index[id(worker)]


def _cached(arrivals: Sequence[Arrival], workers: Targets) -> FloatArray | None:
    if not any(arrival.hash_ids for arrival in arrivals):
        return None
    return np.array([[w.cached_tokens(arrival) for w in workers] for arrival in arrivals])


def dispatcher(name: str, rng: random.Random, order: str = "longest") -> Dispatcher:
    """A new one, by name; `order` is that of the workers' queues, which ours keeps too."""
    return DISPATCHERS[name](rng, order)


DISPATCHERS: Mapping[str, Callable[[random.Random, str], Dispatcher]] = {
    "makespan": lambda _, order: Makespan(order),
    "round-robin": lambda _, __: Immediate(round_robin()),
    "random": lambda rng, _: Immediate(uniform(rng)),
    "least-requests": lambda _, __: Immediate(least_requests),
    "least-tokens": lambda _, __: Immediate(least_tokens),
    "power-of-two": lambda rng, _: Immediate(power_of_two(rng)),
    "prefix-aware": lambda _, __: Immediate(prefix_aware),
}
