"""The latest requests by id, as the dashboard and ``/makespan/v1/requests`` show them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import chain, islice

from router.gateway.explanations.request_record import RequestRecord


class RequestLog:
    """The latest requests by id, running ones always, finished ones up to a number.

    `running` counts the requests in the gateway now: those whose bodies are in; `ended` all that
    have ended. `settle` is called before anybody reads a record.
    """

    def __init__(self, remember: int, settle: Callable[[], None] = lambda: None) -> None:
        self._remember, self._settle, self.ended = remember, settle, 0
        self._begun: set[RequestRecord] = set()
        self._running: dict[str, RequestRecord] = {}
        self._ended: OrderedDict[str, RequestRecord] = OrderedDict()

    @property
    def running(self) -> int:
        """Requests in the gateway now."""
        return len(self._begun)

    def begin(self, record: RequestRecord) -> None:
        """A request has come; one with the same id as before takes its place here."""
        self._begun.add(record)
        self._running[record.id] = record

    def end(self, record: RequestRecord) -> bool:
        """It has ended, or was refused before it began; whether it had begun."""
        self.ended += 1
        begun = record in self._begun
        self._begun.discard(record)
        if self._running.get(record.id) is record:
            del self._running[record.id]
        self._ended[record.id] = record
        self._ended.move_to_end(record.id)
        while len(self._ended) > self._remember:
            self._ended.popitem(last=False)
        return begun

    def latest_ended(self) -> Iterable[RequestRecord]:
        """Those that are remembered, the last to end first."""
        self._settle()
        return reversed(self._ended.values())

    def in_flight(self) -> Iterable[RequestRecord]:
        """Those that run, the oldest first."""
        return self._running.values()

    def latest(self, most: int) -> list[RequestRecord]:
        """Those that run or have ended last, the newest first; at most a quarter wait for a worker.

        However many wait, there is something to see of those that have gone somewhere.
        """
        self._settle()
        running = self._running.values()
        waiting = (record for record in reversed(running) if record.worker is None)
        placed = (record for record in reversed(running) if record.worker is not None)
        newest = chain(
            islice(waiting, most // 4),
            islice(placed, most),
            islice(reversed(self._ended.values()), most),
        )
        return sorted(newest, key=lambda record: -record.received_s)[:most]

    def find(self, request_id: str) -> RequestRecord | None:
        """The request with this id, if it is still remembered."""
        self._settle()
        return self._running.get(request_id) or self._ended.get(request_id)
