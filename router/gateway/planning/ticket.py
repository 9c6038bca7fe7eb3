"""A request that wants a worker, and where it goes."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from router.gateway.explanations.plan_record import PlanRecord
from router.gateway.fleet.worker import Worker
from solver.batching.priority import Priority
from solver.routing.marks import NO_PROMPT, Beginnings, Hashed
from solver.routing.problem import Job

# In a request's scope: the worker that a plan of bulk work means it for.
NEAR = "makespan.near"
# Names of attempts begin with their gateway's (`router.wire`), and never come twice: the rest is
# this process's own.
_PROCESS = secrets.token_hex(4)
_serial = itertools.count()


@dataclass(slots=True, eq=False)
class Placement:
    """Where a request goes: its worker, the plan that says so, and its place in that plan."""

    worker: Worker
    plan: PlanRecord
    index: int


class Waiter(Protocol):
    """Whoever waits for a place: a future, or what is told in its way."""

    def done(self) -> bool:
        """Whether it has been told."""
        ...

    def set_result(self, placement: Placement, /) -> None:
        """There is one."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """There will be none."""
        ...


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that wants a worker; itself the key of its load, as a client's id may come twice.

    Attributes:
        job: its size and urgency, as the planner sees them.
        least_tokens: prompt and output tokens that its longest choice has room for, at least.
        streamed: its tokens can be counted as they come.
        arrival_s: when it came, on the monotonic clock.
        priority: its head start in queues.
        prompt: as far as caches go: hashes of its blocks, where they are worth looking for, and
            names of its marks, as engines are to tell of it.
        block_tokens: tokens in each block, over all its sequences.
        excluded: workers that have failed it.
        session: the conversation that it belongs to, by a name of its tenant's.
        only: the one worker that may serve it, if it goes on from what that one has; `carried`:
            tokens of that.
        near: the worker that a plan of all bulk work means it for, as long as that is well.
        planned: plans that it has been in.
        recalled: times that it has been taken back from a worker.
        attempt: its name at the worker that it is sent to.
        uncached: prompt tokens that its worker's cache is not known to hold.
        ahead_s: tenants took turns when it was sent, and its own counts as so much sooner.
        pace_s: seconds from the turn of one of its answers to that of the next, if it has several.
        over_share_s: then, slot-seconds that its tenant was over its share; below 0: under.
        trial: its answer shows whether the worker that it is sent to is well again.
        recall_pending: that worker has been asked to give it back.
        again: predicts its job anew, or says None.
    """

    request_id: str
    model: str
    job: Job
    least_tokens: int
    streamed: bool
    arrival_s: float = field(default_factory=time.monotonic)
    priority: Priority = Priority.DEFAULT
    prompt: Hashed = NO_PROMPT
    block_tokens: float = 0.0
    excluded: set[Worker] = field(default_factory=set)
    session: str = ""
    only: Worker | None = None
    carried: int = 0
    near: Worker | None = None
    planned: int = 0
    recalled: int = 0
    attempt: str = ""
    uncached: float = 0.0
    ahead_s: float | None = None
    pace_s: float = 0.0
    over_share_s: float | None = None
    trial: bool = False
    recall_pending: bool = False
    placed: Waiter | None = None
    again: Callable[[], Job | None] = lambda: None

    @property
    def sequences(self) -> int:
        """Its choices, of all its prompts."""
        return self.job.sequences

    @property
    def blocks(self) -> tuple[int, ...]:
        """Hashes of its prompt's blocks."""
        return self.prompt.blocks

    @property
    def marks(self) -> bytes:
        """Names of its prompt's marks."""
        return self.prompt.marks

    @property
    def beginnings(self) -> Beginnings:
        """Its prompt, as engines are to tell of it."""
        return Beginnings(self.marks, self.block_tokens / self.sequences)

    @property
    def prompt_tokens(self) -> int:
        """Of its prompt, over all its sequences."""
        return self.job.prompt_tokens

    @property
    def expected_tokens(self) -> float:
        """Output tokens of one choice: how long it will run."""
        return self.job.expected_tokens / self.job.sequences

    @property
    def due_s(self) -> float:
        """When it should be done, on the monotonic clock; infinite: whenever."""
        return self.job.due_s

    @property
    def came_s(self) -> float:
        """When it came, on the monotonic clock."""
        return self.arrival_s

    def predict_again(self) -> None:
        """With what has been learnt since the last time."""
        self.job = self.again() or self.job

    def is_eligible_for(self, worker: Worker) -> bool:
        """Whether `worker` may serve it at all."""
        if self.model not in worker.models or worker in self.excluded:
            return False
        if self.only is not None and worker is not self.only:
            return False
        most = worker.max_model_len(self.model)
        return most is None or self.least_tokens <= most

    def new_attempt(self, gateway: str) -> None:
        """It is sent to a worker."""
        self.attempt, self.recall_pending = f"{gateway}-{_PROCESS}-{next(_serial)}", False

    @property
    def waiting(self) -> bool:
        """Whether it is still to be placed."""
        return self.placed is not None and not self.placed.done()
