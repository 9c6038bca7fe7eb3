"""What happens to workers, told to their `health`; what changes is logged, counted and acted upon.

`health` decides; here are the clock, the log, and the alarms for trials that are due. Of a server
with several ranks any worker stands for all: their health is one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from math import inf

from router.gateway.fleet.health import Health, Standing
from router.gateway.fleet.worker import Worker
from router.http.errors import Cramped, WorkerRefused, WorkerUnreachable
from router.observe.metrics import GatewayMetrics
from router.observe.repeats import Repeats

log = logging.getLogger(__name__)

# A begun answer that stands still for so long is no prefill of somebody else's prompt, unless the
# prompts that are under way say so.
STALLED_S, STALLED_PREFILLS = 5.0, 3.0
MOST_REASONS = 10  # of one standing that are logged in a minute
# Why somebody stands out.
ODD = "it ends requests far sooner than others do: it gets no more than its even share"
FRESH_S = 0.5  # who has sent a byte since is not silent; less than any patience


class Conditions:
    """Tells workers' healths what happens.

    `on_change` hears of each change, and of the standing before.
    """

    def __init__(
        self, metrics: GatewayMetrics, on_change: Callable[[Worker, Standing], None]
    ) -> None:
        self._metrics, self._on_change = metrics, on_change
        self._alarms: dict[Health, asyncio.TimerHandle] = {}
        self._said = Repeats(log)

    # What looks tell.

    def answered(self, worker: Worker) -> None:
        """It has answered a look, and serves."""
        worker.stall_guard.disarm()
        self._tell(worker, Health.answered)

    def missed(self, worker: Worker, why: str) -> None:
        """It has not answered a look in time."""
        self._tell(worker, lambda health: health.missed(why))

    def silent(self, worker: Worker, why: str) -> None:
        """Its agent should have told its state."""
        worker.stall_guard.arm()
        self._tell(worker, lambda health: health.silent(why))

    def lost(self, worker: Worker, why: str) -> None:
        """It cannot be reached, or does not serve; looks will find out when it is back."""
        if worker.state is not None:
            worker.stall_guard.arm()
        self._tell(worker, lambda health: health.lost(why))

    # What requests tell.

    def served(self, worker: Worker, *, trial: bool) -> None:
        """It has begun to answer a request well."""
        if not worker.health.untouched:
            now = time.monotonic()
            self._tell(worker, lambda health: health.served(now, trial=trial))

    def failed(self, worker: Worker, why: str, *, trial: bool, begun: bool = False) -> None:
        """A request has failed there; `begun`: it had begun to answer it well."""
        now = time.monotonic()
        self._tell(worker, lambda health: health.failed(now, why, trial=trial, begun=begun))

    def unreached(self, worker: Worker, error: WorkerUnreachable, *, trial: bool) -> None:
        """A request has not come there, or got no answer.

        Whether nobody listens is soon seen; a host that says nothing costs its time; and where it
        is this process that has no room for a connection, its worker is as if it were full.
        """
        if isinstance(error, WorkerRefused):
            self.lost(worker, error.reason)
        elif isinstance(error, Cramped):
            self.busy(worker, error.reason, None, trial=trial)
        else:
            self.failed(worker, error.reason, trial=trial)

    def busy(self, worker: Worker, why: str, for_s: float | None, *, trial: bool) -> None:
        """It is full, or takes nothing for `for_s` seconds."""
        now = time.monotonic()
        self._tell(worker, lambda health: health.busy(now, why, for_s, trial=trial))

    def stand(self, worker: Worker, stands_out: bool, more: float) -> None:
        """Whether it stands out among others, and how much more it may be sent (`evenness`)."""
        self._tell(worker, lambda health: health.stand(ODD if stands_out else "", more))

    def left(self, worker: Worker) -> None:
        """A request that was to show whether it is well again has left it."""
        now = time.monotonic()
        self._tell(worker, lambda health: health.left(now, trial=True))

    def watch(self, worker: Worker, now: float) -> None:
        """Whether requests wait there for too long; those that another may serve go there."""
        guard = worker.stall_guard
        for request, silent_s in guard.overdue(now):
            if not request.told and (request.trial or not worker.health.held):
                request.told = True  # all who wait together are one silence
                why = (
                    f"a request had no byte for {silent_s:.1f} s, and nothing else came; "
                    f"{request.patience():.1f} s are several times what was predicted"
                )
                self._overdue(worker, now, why, trial=request.trial)
            if request.may_leave():
                request.give_up()
        stalled_s = guard.stalled_s(now)
        if stalled_s > STALLED_S and stalled_s > STALLED_S + STALLED_PREFILLS * _prefill_s(worker):
            if not worker.health.held:
                why = f"nothing came for {stalled_s:.1f} s in the middle of answers"
                self._overdue(worker, now, why, trial=False)
        elif worker.health.standing is Standing.SUSPECT and now - guard.heard_s < FRESH_S:
            self._tell(worker, Health.spoke)

    def _overdue(self, worker: Worker, now: float, why: str, *, trial: bool) -> None:
        self._tell(worker, lambda health: health.overdue(now, why, trial=trial))

    def forget(self, worker: Worker) -> None:
        """Its server has left the fleet."""
        if (alarm := self._alarms.pop(worker.health, None)) is not None:
            alarm.cancel()

    def _tell(self, worker: Worker, event: Callable[[Health], None]) -> None:
        health = worker.health
        before = health.standing, health.reason, health.rank, health.places
        event(health)
        self._set_alarm(worker)
        if (health.standing, health.reason) != before[:2]:
            Context().run(self._log, worker, before[0])
        if (health.standing, health.reason, health.rank, health.places) != before:
            self._on_change(worker, before[0])

    def _log(self, worker: Worker, before: Standing) -> None:
        """Of a change of standing, and of new reasons; such a line is about no request."""
        health = worker.health
        name = worker.name if worker.rank is None else worker.url
        about: dict[str, object] = {"worker": name, "why": health.reason or None}
        up = health.standing is Standing.UP
        what = f"worker is {health.standing.value}"
        if health.standing is not before:
            self._metrics.worker_changes.labels(health.standing.value).inc()
            about = {"worker": name, "models": list(worker.models)} if up else about
            log.log(logging.INFO if up else logging.WARNING, what, extra=about)
        elif up and health.reason:
            odd = health.reason == ODD
            what = "worker stands out" if odd else "worker takes nothing for a moment"
            self._said.say(logging.INFO, what, worker.url, about, most=MOST_REASONS)
        elif not up:
            self._said.say(logging.WARNING, what, worker.url, about, most=MOST_REASONS)

    def _set_alarm(self, worker: Worker) -> None:
        """Wake its health when the time has come."""
        self.forget(worker)
        until_s = worker.health.until_s
        if until_s != inf:
            wait_s = max(0.0, until_s - time.monotonic())
            self._alarms[worker.health] = asyncio.get_running_loop().call_later(
                wait_s, self._tell, worker, self._wake
            )

    @staticmethod
    def _wake(health: Health) -> None:
        health.wake(time.monotonic())


def _prefill_s(worker: Worker) -> float:
    """Of prompts that are still to be prefilled at its server."""
    return max(one.load.prefill_s(one.cost) for one in worker.address.workers)
