"""The requests here by the names that gateways gave them, so that they can take them back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from math import inf
from typing import Protocol

from router.http.errors import ExpiredError, RecalledError
from router.wire import Recall


class RecallableQueue(Protocol):
    """Whoever has requests of which some have not begun."""

    def withdraw(self, ids: Sequence[str], why: Exception) -> bool:
        """Take back a request that has not begun, in one step; whether it had not."""
        ...


class Attempts:
    """Attempts under way and their sequences; a name that comes twice stays with its first."""

    def __init__(self, queue: RecallableQueue) -> None:
        self._queue = queue
        self._ids: dict[str, list[str]] = {}

    @contextmanager
    def register(self, name: str | None, ids: list[str], deadline_s: float = inf) -> Iterator[None]:
        """For as long as it is here; should it not begin in `deadline_s` from now, it expires."""
        mine = name is not None and self._ids.setdefault(name, ids) is ids
        expire = partial(self._queue.withdraw, ids, ExpiredError())
        loop = asyncio.get_running_loop()
        alarm = None if deadline_s == inf else loop.call_later(deadline_s, expire)
        try:
            yield
        finally:
            if alarm is not None:
                alarm.cancel()
            if mine and name is not None:
                del self._ids[name]

    def recall(self, wanted: Recall) -> Recall:
        """Withdraw those that have not begun, at one moment; which that were."""
        found = (name for name in dict.fromkeys(wanted.requests) if self._withdraw(name))
        return Recall(tuple(islice(found, wanted.most)))

    def _withdraw(self, name: str) -> bool:
        return self._queue.withdraw(self._ids.get(name, ()), RecalledError())
