"""One fleet from all sources: what each told last, taken together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from router.gateway.fleet.discovery.dns import Dns
from router.gateway.fleet.discovery.source import Endpoints, Source, merge
from router.gateway.fleet.discovery.static import Static
from router.settings.addresses import DnsName, parse

log = logging.getLogger(__name__)


class Discovery:
    """Listens to several sources.

    `named`: URLs of single workers that settings say something of, by the setting. Which of them is
    no worker's is told once, when every source has told its own.
    """

    def __init__(self, sources: Sequence[Source], named: Mapping[str, Iterable[str]]) -> None:
        self._sources, self._named = sources, named
        self._latest: list[Endpoints | None] = [None for _ in sources]

    async def run(self, publish: Callable[[Endpoints], None]) -> None:
        """Tell of the whole fleet whenever a source does; until all have ended, or cancelled."""
        async with asyncio.TaskGroup() as group:
            for k, source in enumerate(self._sources):
                group.create_task(self._listen(k, source, publish))

    async def _listen(self, k: int, source: Source, publish: Callable[[Endpoints], None]) -> None:
        async for endpoints in source.fleets():
            self._latest[k] = endpoints
            known = [one for one in self._latest if one is not None]
            fleet = merge(chain.from_iterable(known))
            publish(fleet)
            if len(known) == len(self._latest):
                self._tell_strangers(fleet)

    def _tell_strangers(self, fleet: Endpoints) -> None:
        workers = {one.url for one in fleet}
        for setting, urls in self._named.items():
            for url in sorted(set(urls) - workers):
                log.warning("no worker has this URL", extra={"url": url, "setting": setting})
        self._named = {}


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
