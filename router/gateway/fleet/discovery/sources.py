"""One fleet from all sources: what each told last, taken together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain

from router.gateway.fleet.discovery.dns import Dns
from router.gateway.fleet.discovery.source import Endpoints, Source, merge
from router.gateway.fleet.discovery.static import Static
from router.settings.addresses import DnsName, parse


class Discovery:
    """Listens to several sources."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._latest: list[Endpoints] = [() for _ in sources]

    async def run(self, publish: Callable[[Endpoints], None]) -> None:
        """Tell of the whole fleet whenever a source does; until all have ended, or cancelled."""
        async with asyncio.TaskGroup() as group:
            for k, source in enumerate(self._sources):
                group.create_task(self._listen(k, source, publish))

    async def _listen(self, k: int, source: Source, publish: Callable[[Endpoints], None]) -> None:
        async for endpoints in source.fleets():
            self._latest[k] = endpoints
            publish(merge(chain.from_iterable(self._latest)))


def sources(workers: Sequence[str]) -> list[Source]:
    """What the gateway's setting `worker` names.

    Raises:
        BadSettings: if one of them cannot work here.
    """
    found: list[Source] = []
    urls: list[str] = []
    for address in map(parse, workers):
        if isinstance(address, str):
            urls.append(address)
        elif isinstance(address, DnsName):
            found.append(Dns(address))
        else:
            from router.gateway.fleet.discovery.kubernetes import Kubernetes

            found.append(Kubernetes(address))
    return [Static(urls), *found] if urls else found
