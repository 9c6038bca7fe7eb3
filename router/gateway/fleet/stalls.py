"""Requests at a worker that has fallen silent are taken from it, rather than kept waiting.

Rules:
- an agent promises to tell its state twice a second, so a silence is a sign; a request is given up
  if its agent has told nothing for so long, and then for `STALL_TIMEOUT_S` nothing came for the
  request either. If the agent comes back in time, nothing happens;
- any worker is to send something within the patience of a request that waits for its first byte, to
  it or to another one; a worker that works off a queue does. Who has waited for longer is overdue,
  and leaves if another worker can serve it;
- what its client has had some bytes of stays: only the gateway's `silence_timeout_s` ends it, and
  as long as it is the client that takes no more, the silence is not the worker's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from math import inf
from types import TracebackType

from router.http.asgi import Responder

# Beyond the silence after which an agent is suspect: long enough for a busy machine to go on, and
# for the state stream to be opened again after a mere loss of that connection.
STALL_TIMEOUT_S = 5.0
# Of whoever waits for a first byte: a busy machine may stand still for as long.
LEAST_PATIENCE_S = 0.5


class WorkerStalled(Exception):
    """A request was given up, as its worker sends nothing."""


class Watched:
    """A request, for as long as it is at its worker: between `begin` and `end`, or a context.

    Attributes:
        least_s: seconds of the worker's silence that it waits for its first byte at least.
        trial: it shows whether the worker is well again.
        told: it has counted as overdue.
        held_s: when its client was last seen to keep its answer from coming.

    A context is one of its task, which is cancelled to give it up; what it gives is called at the
    worker's bytes, whose answer goes `out`.

    Raises:
        WorkerStalled: in place of what is inside, if the request is given up.
    """

    begun = told = _given_up = False
    held_s = -inf
    _leave: Callable[[], object] | None = None
    _task: asyncio.Task[object] | None = None
    _others = 0  # cancellations that were asked for before
    _alarm: asyncio.TimerHandle | None = None

    def __init__(
        self,
        guard: StallGuard,
        least_s: float = inf,
        out: Responder | None = None,
        *,
        trial: bool = False,
    ) -> None:
        self._guard, self._out, self.least_s, self.trial = guard, out, least_s, trial
        self.sent_s = time.monotonic()

    def patience(self) -> float:
        """Seconds that it waits in fact: what only those want to know who have waited long."""
        return inf

    def may_leave(self) -> bool:
        """Whether another worker can serve it."""
        return False

    def begin(self, leave: Callable[[], object]) -> None:
        """It is there from now on; `leave` takes it away."""
        self._leave = leave
        self._guard.watched.add(self)
        if self._guard.armed:
            self.limit(STALL_TIMEOUT_S)

    def end(self) -> None:
        """It is there no more."""
        self._leave = None
        self._guard.watched.discard(self)
        if self._alarm is not None:
            self.limit(None)

    def __enter__(self) -> Callable[[], None]:
        self._task = task = asyncio.current_task()
        assert task is not None
        self._others = task.cancelling()
        self.begin(task.cancel)
        return self.heard

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        if not self._given_up or self._task is None:
            return
        if self._task.uncancel() <= self._others and kind is asyncio.CancelledError:
            raise WorkerStalled from error

    def heard(self) -> None:
        """A byte has come for it."""
        guard, self.begun = self._guard, True
        guard.heard_s = time.monotonic()
        if guard.armed:
            self.limit(STALL_TIMEOUT_S)

    def silent_s(self, now: float) -> float:
        """For how long its worker has sent nothing of an answer that it has begun."""
        if self._out is not None and self._out.paused:
            self.held_s = now
        return now - max(self._guard.heard_s, self.held_s) if self.begun else 0.0

    def give_up(self) -> None:
        """It is taken from its worker."""
        if not self._given_up and self._leave is not None:
            self._given_up = True
            self._leave()

    def limit(self, after_s: float | None) -> None:
        """Give it up after so many seconds; None: not by the clock."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if after_s is not None:
            self._alarm = asyncio.get_running_loop().call_later(after_s, self.give_up)


class StallGuard:
    """Watches the requests at one worker; armed while its agent is silent, it times them out.

    Attributes:
        heard_s: when the worker sent its last byte for any request, on the monotonic clock.
        watched: its requests.
        armed: each of them has `STALL_TIMEOUT_S` from then on, or from its last byte.
    """

    def __init__(self) -> None:
        self.heard_s = -inf
        self.watched: set[Watched] = set()
        self.armed = False

    @property
    def answers(self) -> bool:
        """Whether it has begun to answer some of them."""
        return any(one.begun for one in self.watched)

    def arm(self) -> None:
        """The agent is silent."""
        if not self.armed:
            self.armed = True
            self._set_all()

    def disarm(self) -> None:
        """It is back."""
        if self.armed:
            self.armed = False
            self._set_all()

    def overdue(self, now: float) -> Iterator[tuple[Watched, float]]:
        """Those that wait for their first byte beyond their patience, and for how long."""
        for one in tuple(self.watched):
            silent_s = now - max(one.sent_s, self.heard_s)
            if not one.begun and silent_s > one.least_s and silent_s > one.patience():
                yield one, silent_s

    def first_s(self, now: float) -> float:
        """Seconds until the first of them may be overdue; 0 if one has begun, and might stall."""
        if self.answers:
            return 0.0
        waits = (max(one.sent_s, self.heard_s) + one.least_s for one in self.watched)
        return max(0.0, min(waits, default=inf) - now)

    def stalled_s(self, now: float) -> float:
        """For how long nothing has come, though some answer has begun and not ended."""
        return max((one.silent_s(now) for one in self.watched), default=0.0)

    def _set_all(self) -> None:
        for one in self.watched:
            one.limit(STALL_TIMEOUT_S if self.armed else None)
