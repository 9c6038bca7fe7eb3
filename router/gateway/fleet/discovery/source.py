"""What every source of workers offers: sets of them, each time that they have changed.

Rules:
- a source tells the whole set, never a difference, so that nothing adds up to a wrong one;
- what it cannot ask about it does not change: without an answer the last set stands;
- a source judges nobody's health; whether a worker is up the gateway sees for itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One worker's base URL; `draining`: it is about to go, and takes nothing new.

    `tls_name`: whose certificate it has, if that is not its URL's.
    """

    url: str
    draining: bool = False
    tls_name: str | None = None


# In an order that stays the same as long as they do: of two that bear one name the first keeps it.
Endpoints = tuple[Endpoint, ...]


class Source(Protocol):
    """Where sets of workers come from."""

    def fleets(self) -> AsyncIterator[Endpoints]:
        """The set as soon as it is known, and again whenever it has changed."""
        ...


def merge(endpoints: Iterable[Endpoint]) -> Endpoints:
    """Each worker once, where it was named first; who is named twice goes only if both say so."""
    found: dict[str, Endpoint] = {}
    for one in endpoints:
        first = found.setdefault(one.url, one)
        found[one.url] = replace(first, draining=first.draining and one.draining)
    return tuple(found.values())
