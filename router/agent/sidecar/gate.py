"""The gate before an engine: joins a `Releaser`, which decides, and requests, which wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from router.observe.metrics import AgentMetrics
from solver.batching.outside.release import HeldRequest, Releaser


@dataclass(slots=True, eq=False)
class Pass:
    """A request at the gate; `released` is done when it may go on, or says why it may not."""

    ask: HeldRequest
    released: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Gate:
    """Holds requests until they are released, and tells the releaser what comes of them.

    Whatever happens in one turn of the event loop is decided upon together.
    """

    def __init__(self, books: Releaser, metrics: AgentMetrics) -> None:
        self.books = books
        self.changed = asyncio.Event()  # somebody may want to report the new state
        self._metrics = metrics
        self._held: dict[str, Pass] = {}
        self._soon: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def hold(self, ask: HeldRequest) -> Pass:
        """A request has come."""
        self._held[ask.id] = one = Pass(ask)
        self.books.add(ask, time.monotonic())
        self.consider()
        return one

    def withdraw(self, ids: Many[str], why: Exception) -> bool:
        """Take back a request that is still held, in one step; whether it was."""
        held = [self._held[key] for key in ids if key in self._held]
        if not held:
            return False
        for one in held:
            self._drop(one)
            one.released.set_exception(why)
        return True

    def leave(self, one: Pass) -> None:
        """It has been answered, or nobody waits for it any more."""
        self._drop(one)
        one.released.cancel()

    def _drop(self, one: Pass) -> None:
        self._held.pop(one.ask.id, None)
        self.books.leave(one.ask, time.monotonic())
        self.consider()

    def hear(self, one: Pass, index: int, tokens: int) -> None:
        """So many more tokens of a choice have come."""
        if index < len(one.ask.sequences):
            self.books.observe_tokens(one.ask.sequences[index].id, tokens, time.monotonic())

    def correct(self, one: Pass, made: int) -> None:
        """The engine says how many tokens a request of one sequence has made so far."""
        if len(one.ask.sequences) == 1:
            self.books.in_flight.correct(one.ask.id, made)

    def end(self, one: Pass, index: int, made: int | None = None) -> None:
        """A choice has made its last token; `made`: how many in all, where the engine says so."""
        if index < len(one.ask.sequences):
            self.books.end(one.ask, index, time.monotonic(), made)
            self.consider()

    def consider(self) -> None:
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
        for release in self.books.releases(now):
            self._metrics.prefill_insertions.labels(release.reason.value).inc()
            for ask in release.requests:
                self._held.pop(ask.id).released.set_result(None)
        for action, seconds in self.books.in_flight.timings:
            self._metrics.iteration_duration.labels(action.value).observe(seconds)
        self.books.in_flight.timings.clear()
        if self._alarm is not None:
            self._alarm.cancel()
        deadline = self.books.next_deadline()
        wait_s = None if deadline is None else max(0.0, deadline - now)
        loop = asyncio.get_running_loop()
        self._alarm = None if wait_s is None else loop.call_later(wait_s, self._decide)
        self.changed.set()
