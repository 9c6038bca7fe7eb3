"""What is noted of each worker that a traced request is sent to, for its spans."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from router.gateway.explanations.choice import Choice
from router.gateway.planning.ticket import Placement
from router.observe.spans import Value, new_id


@dataclass(slots=True)
class Attempt:
    """One worker that a request was sent to, and the plan that said so.

    Attributes:
        planned_s: when the plan was ready, in seconds since the epoch; `took_s`, how long it took.
        sent_s, ended_s: on the monotonic clock.
        why: what ended it there, if not an answer; `failed`, it was a failure.
    """

    worker: str
    url: str
    planned_s: float
    took_s: float
    window: dict[str, Value]
    plan: dict[str, Value]
    predicted_s: float
    sent_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    why: str | None = None
    failed: bool = False
    id: str = field(default_factory=new_id)

    def end(self, why: str, *, failed: bool) -> None:
        """It goes on to another worker, if there is one."""
        self.ended_s, self.why, self.failed = time.monotonic(), why, failed


def begin_attempt(placement: Placement, choice: Choice) -> Attempt:
    """A request goes where its plan says; the plan itself is not held on to."""
    made, batch, worker = placement.plan, placement.plan.batch, placement.worker
    window: dict[str, Value] = {
        "makespan.window.requests": len(made.requests),
        "makespan.window.closed_by": made.reason.value,
        "makespan.window.open_s": made.wait_s,
    }
    decided: dict[str, Value] = {
        "makespan.plan.number": made.seen.number,
        "makespan.plan.method": made.seen.method,
        "makespan.plan.workers": len(made.seen.names),
        "makespan.plan.cost_s": made.plan.total_s,
        "makespan.plan.makespan_s": batch.makespan_s,
        "makespan.plan.lower_bound_s": batch.lower_bound_s,
        "makespan.worker": worker.name,
    }
    return Attempt(
        worker.name,
        worker.url,
        made.seen.planned_s,
        made.took_s,
        window,
        decided,
        choice.finish_s,
    )
