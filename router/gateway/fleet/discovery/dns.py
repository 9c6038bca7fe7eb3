"""Workers behind a name: every address that it has, looked up again and again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from router.gateway.fleet.discovery.source import Endpoint, Endpoints
from router.settings.addresses import DnsName

log = logging.getLogger(__name__)

EVERY_S = 5.0  # for as long CoreDNS, as Kubernetes sets it up, lets an answer be kept

Resolve = Callable[[str], Awaitable[Iterable[str]]]


async def resolve(name: str) -> list[str]:
    """The name's IPv4 addresses, or its IPv6 addresses if it has no others.

    A server may have one of each kind, and is one worker.

    Raises:
        OSError: if it has none, or nobody can be asked.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    addresses = {
        family: [str(row[4][0]) for row in found if row[0] == family] for family, *_ in found
    }
    return addresses.get(socket.AF_INET) or addresses.get(socket.AF_INET6, [])


class Dns:
    """The addresses of one name; when a lookup fails, those of the last one stand."""

    def __init__(self, name: DnsName, resolve: Resolve = resolve, every_s: float = EVERY_S) -> None:
        self._name, self._resolve, self._every_s = name, resolve, every_s

    async def fleets(self) -> AsyncIterator[Endpoints]:
        """A set after each lookup that finds another one."""
        latest: Endpoints | None = None
        failing = False
        while True:
            try:
                addresses = sorted(set(await self._resolve(self._name.name)))
            except Exception as error:  # whatever it is, the workers that are known are served
                if not failing:
                    why = str(error) or type(error).__name__
                    log.warning("name not resolved", extra=self._extra(why=why))
                failing = True
            else:
                if failing:
                    log.info("name is resolved again", extra=self._extra())
                failing = False
                found = tuple(self._endpoint(address) for address in addresses)
                if found != latest:
                    latest = found
                    yield found
            await asyncio.sleep(self._every_s)

    def _endpoint(self, address: str) -> Endpoint:
        host = f"[{address}]" if ":" in address else address
        if self._name.secure:
            name = self._name.name.removesuffix(".")
            return Endpoint(f"https://{host}:{self._name.port}", tls_name=name)
        return Endpoint(f"http://{host}:{self._name.port}")

    def _extra(self, **more: str) -> dict[str, str]:
        return {"source": str(self._name), **more}
