"""When a window of requests closes.

Rules:
- a request waits only while waiting can help: if a worker could start one now, the window closes;
- no request waits longer than `max_wait_s`, and no window holds more than `max_size`;
- what closes depends on the times given, never on how often one asks: requests delivered one by
  one or together, with the same times, close the same windows.

Must not know: clocks, workers, plans. The shell calls `poll` whenever something has changed and
again at `next_deadline`.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class CloseReason(StrEnum):
    """Why a window closed."""

    WORKER_FREE = "worker_free"
    SIZE = "size"
    WAIT = "wait"


class Window(NamedTuple, Generic[T]):
    """Requests that are planned together.

    `opened_s` is the arrival of the oldest, `closed_s` when the window closed.
    """

    items: tuple[T, ...]
    opened_s: float
    closed_s: float
    reason: CloseReason


class WindowPolicy(Generic[T]):
    """Gathers arrivals into windows; see the module's rules."""

    def __init__(self, max_wait_s: float, max_size: int) -> None:
        self._max_wait_s, self._max_size = max_wait_s, max_size
        self._waiting: deque[tuple[float, T]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T, now: float) -> None:
        """A request has arrived."""
        self._waiting.append((now, item))

    def discard(self, item: T) -> None:
        """Its client has left; unknown items are ignored."""
        self._waiting = deque(entry for entry in self._waiting if entry[1] != item)

    def next_deadline(self) -> float | None:
        """When the oldest request must go at the latest; None if none waits."""
        return self._waiting[0][0] + self._max_wait_s if self._waiting else None

    def poll(self, now: float, *, worker_free: bool) -> Window[T] | None:
        """The window that closes at `now`, if any.

        `worker_free`: some worker could start one of these requests at once.
        """
        deadline = self.next_deadline()
        if deadline is None:
            return None
        if len(self._waiting) >= self._max_size:
            full_s = self._waiting[self._max_size - 1][0]
            if full_s < deadline:
                return self._take(full_s, CloseReason.SIZE)
        if deadline <= now:
            return self._take(deadline, CloseReason.WAIT)
        return self._take(now, CloseReason.WORKER_FREE) if worker_free else None

    def _take(self, closed_s: float, reason: CloseReason) -> Window[T]:
        opened, first = self._waiting.popleft()
        items = [first]
        while self._waiting and len(items) < self._max_size:
            arrived = self._waiting[0][0]
            if arrived > closed_s or (arrived == closed_s and reason is CloseReason.WAIT):
                break  # it came when the window had closed
            items.append(self._waiting.popleft()[1])
        return Window(tuple(items), opened, closed_s, reason)
