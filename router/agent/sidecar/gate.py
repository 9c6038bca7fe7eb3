"""The gate before an engine: joins a `Releaser`, which decides, and requests, which wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from router.observe.metrics import AgentMetrics
from solver.batching.outside.held import HeldRequest
from solver.batching.outside.release import Releaser


@dataclass(slots=True, eq=False)
class PendingRelease:
    """A request at the gate; `released` is done when it may go on, or says why it may not.

    `made` counts its tokens, as far as they are seen.
    """

    request: HeldRequest
    released: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    made: int = 0


class Gate:
    """Holds requests until they are released, and tells the releaser what comes of them.

    Whatever happens in one turn of the event loop is decided upon together.
    """

    def __init__(self, releaser: Releaser, metrics: AgentMetrics) -> None:
        self.releaser = releaser
        self.changed = asyncio.Event()  # somebody may want to report the new state
        self._metrics = metrics
        self._held: dict[str, PendingRelease] = {}
        self._soon: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def hold(self, request: HeldRequest) -> PendingRelease:
        """A request has come."""
        self._held[request.id] = pending = PendingRelease(request)
        self.releaser.add(request, time.monotonic())
        self.reconsider()
        return pending

    def withdraw(self, ids: Many[str], why: Exception) -> bool:
        """Take back a request that is still held, in one step; whether it was."""
        held = [self._held[key] for key in ids if key in self._held]
        if not held:
            return False
        for pending in held:
            self._drop(pending)
            pending.released.set_exception(why)
        return True

    def remove(self, pending: PendingRelease) -> None:
        """It has been answered, or nobody waits for it any more."""
        self._drop(pending)
        pending.released.cancel()

    def _drop(self, pending: PendingRelease) -> None:
        self._held.pop(pending.request.id, None)
        self.releaser.leave(pending.request, time.monotonic())
        self.reconsider()

    def add_tokens(self, pending: PendingRelease, index: int, tokens: int) -> None:
        """So many more tokens of a choice have come."""
        pending.made += tokens
        if index < len(pending.request.sequences):
            self.releaser.observe_tokens(
                pending.request.sequences[index].id, tokens, time.monotonic()
            )

    def correct(self, pending: PendingRelease, made: int) -> None:
        """The engine says how many tokens a request of one sequence has made so far."""
        if len(pending.request.sequences) == 1:
            self.releaser.in_flight.correct(pending.request.id, made)

    def end(self, pending: PendingRelease, index: int, made: int | None = None) -> None:
        """A choice has made its last token; `made`: how many in all, where the engine says so."""
        if index < len(pending.request.sequences):
            self.releaser.end(pending.request, index, time.monotonic(), made)
            self.reconsider()

    def reconsider(self) -> None:
        """Something has changed: decide at the end of this turn of the event loop."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._decide)

    def close(self) -> None:
        """Decide nothing any more."""
        for handle in (self._soon, self._alarm):
            if handle is not None:
                handle.cancel()

    def _decide(self) -> None:
        self._soon = None
        now = time.monotonic()
        for release in self.releaser.releases(now):
            self._metrics.prefill_insertions.labels(release.reason.value).inc()
            for request in release.requests:
                self._held.pop(request.id).released.set_result(None)
        for action, seconds in self.releaser.in_flight.timings:
            self._metrics.iteration_duration.labels(action.value).observe(seconds)
        self.releaser.in_flight.timings.clear()
        if self._alarm is not None:
            self._alarm.cancel()
        deadline = self.releaser.next_deadline()
        wait_s = None if deadline is None else max(0.0, deadline - now)
        loop = asyncio.get_running_loop()
        self._alarm = None if wait_s is None else loop.call_later(wait_s, self._decide)
        self.changed.set()
