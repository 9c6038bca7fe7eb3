"""Workers that never change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from router.gateway.fleet.discovery.source import Endpoint, Endpoints


class Static:
    """A list of URLs."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._endpoints = tuple(Endpoint(url) for url in urls)

    async def fleets(self) -> AsyncIterator[Endpoints]:
        """One set."""
        yield self._endpoints
