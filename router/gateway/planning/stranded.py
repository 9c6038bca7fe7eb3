"""Requests that nobody can take now: they wait for a worker, so long and so many as is allowed.

A fleet that has scaled to zero, or whose workers all load or are full, gets some time; only then is
a request refused. Whoever waits is tried again at each change of the fleet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.gateway.planning.ticket import Ticket


class Stranded:
    """Holds such requests; `give_up` is called with each whose time is over.

    A request's time counts from when it was found so first, and goes on while the only workers that
    may serve it are tried and found wanting; `served` says that it is over.
    """

    def __init__(self, wait_s: float, most: int, give_up: Callable[[Ticket], None]) -> None:
        self._wait_s, self._most, self._give_up = wait_s, most, give_up
        self._waiting: set[Ticket] = set()
        self._alarms: dict[Ticket, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ticket: Ticket) -> bool:
        """It waits, unless too many do, or it has waited for long enough."""
        if ticket not in self._alarms:
            if self._wait_s <= 0 or len(self._alarms) >= self._most:
                return False
            loop = asyncio.get_running_loop()
            self._alarms[ticket] = loop.call_later(self._wait_s, self._give_up, ticket)
        self._waiting.add(ticket)
        return True

    def pop_all(self) -> list[Ticket]:
        """Somebody may be able to take them; in the order of their arrival."""
        found = sorted(self._waiting, key=lambda ticket: ticket.arrival_s)
        self._waiting.clear()
        return found

    def served(self, ticket: Ticket) -> None:
        """It has been placed, or is gone."""
        self._waiting.discard(ticket)
        if (alarm := self._alarms.pop(ticket, None)) is not None:
            alarm.cancel()
