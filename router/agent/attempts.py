"""The requests here by the names that gateways gave them, so that they can take them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

from router.http.errors import RecalledError
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
    def register(self, name: str | None, ids: list[str]) -> Iterator[None]:
        """For as long as it is here."""
        mine = name is not None and self._ids.setdefault(name, ids) is ids
        try:
            yield
        finally:
            if mine and name is not None:
                del self._ids[name]

    def recall(self, wanted: Recall) -> Recall:
        """Withdraw those that have not begun, at one moment; which that were."""
        found = (name for name in dict.fromkeys(wanted.requests) if self._withdraw(name))
        return Recall(tuple(islice(found, wanted.most)))

    def _withdraw(self, name: str) -> bool:
        return self._queue.withdraw(self._ids.get(name, ()), RecalledError())
