"""A request's place in an agent's queue, and what a gateway told of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from router.http.asgi import Scope, header
from router.http.request_headers import read_urgency
from router.wire import EXPECTED_TOKENS, PACE, TURN, WAITED_MS
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets
from solver.routing.fair import Turn


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """A job's place in the queue: how long it has waited elsewhere, and how urgent it is.

    `ahead_s`: it was sent in its tenant's turn, and keeps its place among those sent so, as if it
    had come so much sooner; None: tenants do not take turns. `pace_s`: the turn of each of its
    answers is so much later than that of the one before.
    Its targets, as all of it, count from when it came to the gateway; its deadline from now.
    """

    waited_s: float = 0.0
    priority: Priority = Priority.DEFAULT
    deadline_s: float = inf
    targets: Targets = NO_TARGETS
    ahead_s: float | None = None
    pace_s: float = 0.0

    def turn(self, now: float, index: int = 0) -> Turn:
        """Its tenant's turn, if it comes now, for that one of its answers."""
        return Turn.of(self.ahead_s, now, index * self.pace_s)


DEFAULT_POSITION = QueuePosition()


def read_queue_position(scope: Scope) -> QueuePosition:
    """From the request's headers.

    Raises:
        RequestError: naming the header that is wrong.
    """
    urgency = read_urgency(scope)
    waited_s = (_number(header(scope, WAITED_MS), 0.0) or 0.0) / 1000
    targets = Targets(urgency.targets.ttft_s + waited_s, urgency.targets.tpot_s)
    ahead_s = _number(header(scope, TURN), 0.0)
    pace_s = _number(header(scope, PACE), 0.0) or 0.0
    return QueuePosition(waited_s, urgency.priority, urgency.deadline_s, targets, ahead_s, pace_s)


def read_hint(scope: Scope) -> float | None:
    """Output tokens of one choice as a gateway expects them, if it makes sense."""
    return _number(header(scope, EXPECTED_TOKENS), 1.0)


def _number(value: bytes | None, least: float) -> float | None:
    """A number that a gateway sent along, if it makes sense."""
    try:
        number = float(value) if value is not None else -1.0
    except ValueError:
        return None
    return number if least <= number < inf else None
