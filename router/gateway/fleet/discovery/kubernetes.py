"""Workers behind a Kubernetes Service: its EndpointSlices, listed once and then watched.

What the server says is read by `slices`. A watch goes on from the last version that was heard of,
bookmarks included; the server ends each after a while, and another one follows. All is listed
again if the server has forgotten that version or refuses to go on from it, not if it could not be
reached. Whatever fails, the workers that are known stay, and there is another attempt.

Needs no more rights than to list and watch ``endpointslices`` in the Service's namespace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from router.gateway.fleet.discovery.cluster import access, namespace_of
from router.gateway.fleet.discovery.slices import (
    GONE,
    Slices,
    SlicesError,
    VersionGone,
)
from router.gateway.fleet.discovery.source import Endpoints
from router.settings.addresses import KubernetesService

if TYPE_CHECKING:
    from kubernetes_asyncio.client import DiscoveryV1Api

log = logging.getLogger(__name__)

# Pauses between attempts; an event, and be it a bookmark, begins them anew.
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
WATCH_S = 240  # after which the server ends a watch; it may do so before
# A server sends bookmarks about once a minute: a stream that is silent for longer may be a
# connection that nobody holds any more.
WATCH_TIMEOUT_S = 90.0
LIST_S = 30.0


class Kubernetes:
    """The pods of one Service."""

    def __init__(self, service: KubernetesService) -> None:
        """Refuse what could never work.

        Raises:
            BadSettings: if the client library, the cluster or the namespace is missing.
        """
        self._namespace = namespace_of(service)
        self._service = service
        tls_name = f"{service.service}.{self._namespace}.svc" if service.secure else None
        self._slices = Slices(service.port, tls_name)
        self._complaint: str | None = None

    async def fleets(self) -> AsyncIterator[Endpoints]:
        """A set after each list or event that makes another one of it."""
        latest: Endpoints | None = None
        attempts = 0
        while True:
            try:
                async with aclosing(self._events()) as events:
                    async for is_event in events:
                        attempts = 0 if is_event else attempts
                        if self._slices.endpoints != latest:
                            latest = self._slices.endpoints
                            yield latest
            except VersionGone:
                self._slices.version = None
            except SlicesError as error:
                self._slices.version = None
                self._complain(str(error))
            except Exception as error:  # whatever it is, the workers that are known are served
                self._complain(f"{type(error).__name__}: {error}".removesuffix(": "))
            await asyncio.sleep(RETRY_S[min(attempts, len(RETRY_S) - 1)])
            attempts += 1

    async def _events(self) -> AsyncGenerator[bool, None]:
        """List if need be, then watch to the stream's end; at each turn, whether it is an event."""
        from kubernetes_asyncio.client import ApiClient, DiscoveryV1Api

        async with ApiClient(await access()) as client:
            api = DiscoveryV1Api(client)
            if self._slices.version is None:
                async with await self._list_or_watch(
                    api, aiohttp.ClientTimeout(total=LIST_S)
                ) as response:
                    await _check(response)
                    self._slices.relist(await response.read())
                yield False
            timeout = aiohttp.ClientTimeout(sock_connect=LIST_S, sock_read=WATCH_TIMEOUT_S)
            async with await self._list_or_watch(api, timeout, self._slices.version) as response:
                await _check(response)
                self._complain(self._lack())
                with suppress(aiohttp.SocketTimeoutError):  # as good as its end
                    async for line in response.content:
                        if line.strip():
                            self._slices.apply(line)
                            self._complain(self._lack())
                            yield True

    async def _list_or_watch(
        self, api: DiscoveryV1Api, limits: aiohttp.ClientTimeout, since: str | None = None
    ) -> aiohttp.ClientResponse:
        """List, or watch what changes `since` a version; the answer as it comes.

        The library's own reading would stumble over bookmarks, whose endpoints are null.
        """
        extra: dict[str, Any] = {"_preload_content": False, "_request_timeout": limits}
        if since is not None:
            extra |= {"watch": True, "allow_watch_bookmarks": True, "resource_version": since}
            extra["timeout_seconds"] = WATCH_S
        label = f"kubernetes.io/service-name={self._service.service}"
        answer: Any = await api.list_namespaced_endpoint_slice(
            self._namespace, label_selector=label, **extra
        )
        return cast(aiohttp.ClientResponse, answer)

    def _lack(self) -> str | None:
        portless = self._slices.portless
        return f"no port {self._service.port!r} in {', '.join(portless)}" if portless else None

    def _complain(self, why: str | None) -> None:
        """Log what is wrong once, and once that it is over."""
        if why == self._complaint:
            return
        self._complaint = why
        extra = {"source": str(self._service)}
        if why is None:
            log.info("workers are followed again", extra=extra)
        else:
            log.warning("workers are not followed", extra={**extra, "why": why})


async def _check(response: aiohttp.ClientResponse) -> None:
    """Only 200 has what we asked for.

    Raises:
        VersionGone: if all has to be listed again.
        SlicesError: with the server's own words.
    """
    if response.status == GONE:
        raise VersionGone
    if response.status != 200:
        text = (await response.text())[:300]
        raise SlicesError(f"the API server answers {response.status}: {text}")
