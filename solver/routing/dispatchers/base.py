"""Which worker gets a request: what other routers do, and ours.

Rules:
- a dispatcher is told of arrivals, and asked who goes where whenever anything has happened;
- it sees of a worker only what a router can: what it was given and what has come back (`Target`;
  how old that is, where engines are polled, is `solver.sim.stale`'s);
- each placement is carried out before the next one is asked for.

The ones that others use place one request at a time, as it comes. Ours (`Makespan`) gathers
windows, plans them, and sends only what a worker can start soon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Protocol

from solver.batching.priority import WEIGHT, Priority
from solver.batching.targets import NO_TARGETS, Targets
from solver.cost.model import CostModel
from solver.lengths.distribution import LengthDistribution
from solver.routing import rolling
from solver.routing.problem import Job


@dataclass(eq=False)
class Arrival:
    """A request to be placed: its number, and what a router knows of it; `tenant`: whose it is.

    `forecast` predicts its length again, None where nothing has been learnt since; `ahead_s`:
    tenants took turns when it was placed, so workers keep to their order, in which it counts as so
    much sooner; `held_back`: it waited on
    purpose until it was placed, as bulk work does (`solver.routing.backlog`).
    """

    number: int
    arrival_s: float
    prompt_tokens: int
    expected_tokens: float
    hash_ids: tuple[int, ...] = ()
    priority: Priority = Priority.DEFAULT
    due_s: float = inf
    lengths: LengthDistribution | None = None
    targets: Targets = NO_TARGETS
    forecast: Callable[[], tuple[float, LengthDistribution | None] | None] = lambda: None
    tenant: str = ""
    ahead_s: float | None = None
    held_back: bool = False

    @property
    def came_s(self) -> float:
        """When it came."""
        return self.arrival_s

    def predict_again(self) -> None:
        """With what has been learnt since the last time."""
        found = self.forecast()
        if found is not None:
            self.expected_tokens, self.lengths = found
            self.__dict__.pop("job", None)  # it is made anew

    @cached_property
    def job(self) -> Job:
        """As the planner sees it."""
        return Job(
            self.prompt_tokens,
            self.expected_tokens,
            weight=WEIGHT[self.priority],
            due_s=self.due_s,
            overrun_tokens=0.0 if self.lengths is None else self.lengths.overrun,
            targets=self.targets,
            tenant=self.tenant,
            bulk=self.priority is Priority.BULK,
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has been answered, as its last bytes tell a router.

    Attributes:
        number: which arrival's.
        worker: by which of the workers.
        uncached_tokens: what was prefilled of its prompt.
        output_tokens: how long its answer was.
    """

    number: int
    worker: int
    uncached_tokens: int
    output_tokens: int


class Load(Protocol):
    """What a rule that looks at one request alone sees of a worker."""

    @property
    def in_flight(self) -> int:
        """Requests given to it that have not ended."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens in its memory and in prompts that wait for it."""
        ...

    @property
    def waiting(self) -> int:
        """Of those in flight, requests that wait for a slot."""
        ...

    @property
    def running(self) -> int:
        """Of those in flight, requests that hold a slot."""
        ...

    @property
    def slots(self) -> int:
        """Requests that it can run at once."""
        ...

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of those that wait for a slot, less what its prefix cache had of them."""
        ...

    @property
    def prefill_tokens(self) -> int:
        """The same, and what is left to prefill of those that hold a slot."""
        ...

    @property
    def kv_used(self) -> int:
        """Tokens in its memory."""
        ...

    @property
    def kv_capacity(self) -> float:
        """Tokens that fit into its memory; infinite: no limit."""
        ...

    @property
    def cost(self) -> CostModel:
        """Its iteration times."""
        ...

    @property
    def round_s(self) -> float:
        """Seconds of a decode round at full slots."""
        ...

    def cached_tokens(self, arrival: Arrival) -> int:
        """Of the request's prompt, what it holds in its prefix cache."""
        ...


class Target(Load, rolling.Target, Protocol):
    """What a dispatcher sees of a worker."""

    def made(self, arrival: Arrival) -> int:
        """Output tokens that have come of a request that is there."""
        ...


Placement = tuple[Arrival, int]


Loads = Sequence[Load]
Workers = Sequence[Target]


class Dispatcher(Protocol):
    """Places requests on workers."""

    def arrive(self, arrival: Arrival, now: float) -> None:
        """A request has come."""
        ...

    def poll(self, now: float, workers: Workers) -> Iterator[Placement]:
        """Who goes where now; whoever is not named waits for a later call."""
        ...

    def next_deadline(self) -> float | None:
        """When to poll again even if nothing happens."""
        ...

    def ended(self, ended: Ended, now: float) -> None:
        """A request has been answered in full."""
        ...


Choice = Callable[[Arrival, Loads], int]


class Immediate:
    """Places every request as it comes, by a rule that looks at that request alone."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._waiting: list[Arrival] = []

    def arrive(self, arrival: Arrival, now: float) -> None:  # noqa: ARG002
        """It will be placed at the next poll."""
        self._waiting.append(arrival)

    def poll(self, now: float, workers: Loads) -> Iterator[Placement]:  # noqa: ARG002
        """All of them."""
        for arrival in self._waiting:
            yield arrival, self._choice(arrival, workers)
        self._waiting.clear()

    def next_deadline(self) -> float | None:
        """Nobody waits."""
        return None

    def ended(self, ended: Ended, now: float) -> None:
        """It remembers nothing."""
