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
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from solver.plan import first_plan_or_queue
from solver.problem import Job, WorkerView, build
from solver.queueing import rank
from solver.window import WindowPolicy


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A request to be placed: its number, and what a router knows of it."""

    number: int
    arrival_s: float
    prompt_tokens: int
    expected_tokens: float
    hash_ids: tuple[int, ...] = ()


class Target(Protocol):
    """What a dispatcher sees of a worker."""

    @property
    def in_flight(self) -> int:
        """Requests given to it that have not ended."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens in its memory and in prompts that wait for it."""
        ...

    @property
    def room(self) -> int:
        """Requests that it could start soon: free slots and a lead, 0 where memory is full."""
        ...

    @property
    def free_slots(self) -> int:
        """Requests that it could start at once; 0 where memory is full."""
        ...

    @property
    def round_s(self) -> float:
        """Seconds of a decode round at full slots."""
        ...

    def cached_tokens(self, arrival: Arrival) -> int:
        """Of the request's prompt, what it holds in its prefix cache."""
        ...

    def view(self, now: float) -> WorkerView:
        """As the planner sees it."""
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


# Windows as the gateway has them by default.
WINDOW_WAIT_S, WINDOW_SIZE = 0.02, 512
# Beyond its slots a worker is sent this share of them ahead, so that none falls idle and its own
# policy sees who would join a stage.
LEAD = 1 / 8
# A queue is long beyond a window, or beyond so many pairs of a request and a worker: a few
# milliseconds of planning.
MOST_PAIRS = 16_384


class Makespan:
    """Ours: windows, a joint plan, late binding.

    All that is unsent is planned together on top of what the workers still have to do. Sent is what
    the plan gives to workers with free slots (or, where there are none, with room for a lead); the
    rest stays here and is planned again. While the queue is long, only its first requests and those
    workers take part: later plans will say better who should wait for whom. A single worker gets
    everything, as there is nothing to decide.
    """

    def __init__(self, order: str = "longest") -> None:
        self._order = order
        self._windows: WindowPolicy[Arrival] = WindowPolicy(WINDOW_WAIT_S, WINDOW_SIZE)
        self._unsent: list[tuple[float, int, Arrival]] = []

    def arrive(self, arrival: Arrival, now: float) -> None:
        """It joins the open window."""
        self._windows.add(arrival, now)

    def next_deadline(self) -> float | None:
        """When the open window closes by itself."""
        return self._windows.next_deadline()

    def poll(self, now: float, workers: Targets) -> Iterator[Placement]:
        """Close windows that are due; plan what is unsent if somebody has room for it."""
        if not self._unsent and not len(self._windows):
            return
        free = any(worker.room > 0 for worker in workers)
        while (window := self._windows.poll(now, worker_free=free)) is not None:
            for arrival in window.items:
                key = rank(self._order, workers[0].round_s)(arrival)
                insort(self._unsent, (key, arrival.number, arrival))
        if free and self._unsent:
            yield from self._send(workers, now)

    def _send(self, workers: Targets, now: float) -> Iterator[Placement]:
        """Plan, send as far as there is room, and again as long as that sends anything."""
        if len(workers) == 1:
            arrivals = sorted((entry[2] for entry in self._unsent), key=lambda one: one.number)
            self._unsent.clear()
            yield from ((arrival, 0) for arrival in arrivals)
        left = -1
        while self._unsent and left != len(self._unsent):
            left = len(self._unsent)
            among, able, count = self._part(workers)
            if not able:
                return
            planned = [entry[2] for entry in self._unsent[:count]]
            sent: set[int] = set()
            plan = _plan(planned, [workers[j] for j in among], now)
            for arrival, k in zip(planned, plan, strict=True):
                if among[k] in able and workers[among[k]].room > 0:
                    sent.add(arrival.number)
                    yield arrival, among[k]
            rest = [entry for entry in self._unsent[:count] if entry[1] not in sent]
            self._unsent[:count] = rest

    def _part(self, workers: Targets) -> tuple[list[int], list[int], int]:
        """The workers that are planned for, those of them that may be sent to, and how many."""
        count, everybody = len(self._unsent), list(range(len(workers)))
        able = [j for j in everybody if workers[j].free_slots > 0]
        able = able or [j for j in everybody if workers[j].room > 0]
        if count <= WINDOW_SIZE and count * len(workers) <= MOST_PAIRS:
            return everybody, able, count
        return able, able, min(count, 2 * sum(workers[j].room for j in able))


def _plan(arrivals: Sequence[Arrival], workers: Targets, now: float) -> Sequence[int]:
    """The worker of each, from the planner."""
    jobs = [Job(arrival.prompt_tokens, arrival.expected_tokens) for arrival in arrivals]
    cached = None
    if any(arrival.hash_ids for arrival in arrivals):
        cached = np.array([[w.cached_tokens(arrival) for w in workers] for arrival in arrivals])
    views = [worker.view(now) for worker in workers]
    problem = build(jobs, views, cached_tokens=cached)
    return first_plan_or_queue(problem)[1].assignment


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
