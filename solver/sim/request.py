"""One request of a trace, as the simulator takes it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from solver.batching.priority import Priority
from solver.batching.targets import DEFAULT_TARGETS, Targets
from solver.errors import ProblemError


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sends and what comes of it.

    Attributes:
        id: unique in its trace.
        prompt_tokens: length of the prompt, at least 1.
        output_tokens: length of the answer, at least 1; policies see it only where lengths are
            known.
        arrival_s: seconds since the trace began.
        hash_ids: hashes of the prompt's blocks, in order; two prompts share a prefix as far as
            their hashes agree. Empty where unknown.
        priority: its head start in queues.
        deadline_s: seconds after its arrival by which it should be done; infinite: whenever.
        wanted: its targets, where they are not its priority's.
        tenant: whose it is.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    arrival_s: float = 0.0
    hash_ids: tuple[int, ...] = ()
    priority: Priority = Priority.DEFAULT
    deadline_s: float = inf
    wanted: Targets | None = None
    tenant: str = ""

    @property
    def targets(self) -> Targets:
        """What its user would feel."""
        return DEFAULT_TARGETS[self.priority] if self.wanted is None else self.wanted

    @property
    def due_s(self) -> float:
        """When it should be done."""
        return self.arrival_s + self.deadline_s

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            if getattr(self, name) < 1:
                raise ProblemError(f"request {self.id}: {name} must be at least 1")
        if not 0 <= self.arrival_s < float("inf"):
            raise ProblemError(f"request {self.id}: arrival_s must be a number >= 0")
        if not self.deadline_s > 0:
            raise ProblemError(f"request {self.id}: deadline_s must be above 0")
