"""The server that a sidecar stands before: whether it lives, what it serves, and requests to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import orjson
from yarl import URL

from router.agent.sidecar.health import PROBE_TIMEOUT_S, QUICK_S, REPROBE_TIMEOUT_S, HealthCheck
from router.http.connections import Connections, Reply, read_bounded, told_of
from router.http.errors import Headers, NoCapacityError, WorkerUnreachable
from router.http.reply import hop_by_hop
from router.http.request_headers import KEY_HEADERS
from router.settings.agent import AgentSettings
from router.settings.secrets import bearer, read_key

log = logging.getLogger(__name__)

DOWN = "This worker's engine is down."
RETRY_AFTER_S = 2.0  # when to come back to it then
CONNECT_S = 2.0
PROBE_INTERVAL_S = 0.5  # between probes
MOST_PAGE_BYTES = 1 << 20  # of models and metrics, which have some tens of thousands


class UpstreamUnusable(Exception):
    """It cannot be served from; the message says why, and what to do."""


class PendingRequest:
    """A request; should the server die before its client was sent a byte, it is given up."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.aborted = False

    def abort(self) -> None:
        """The server is down."""
        if not self.aborted and self.task is not None:
            self.aborted = True
            self.task.cancel()


class Upstream:
    """Follows one server for as long as the sidecar runs.

    Attributes:
        up: whether it serves.
        models: the entries of its ``/v1/models`` by id.
        model: the one that this sidecar reports.
        generation: how often it has come up.
        on_change: called whenever it comes up or goes down.
    """

    def __init__(self, settings: AgentSettings, connections: Connections) -> None:
        assert settings.upstream is not None
        self.url = settings.upstream
        self.up = False
        self.generation = 0
        self.models: dict[str, dict[str, Any]] = {}
        self._model_setting = settings.model if "model" in settings.model_fields_set else None
        self.model = settings.model
        self.on_change: Callable[[], None] = lambda: None
        self._connections = connections
        self._pending: set[PendingRequest] = set()
        self._sent: set[PendingRequest] = set()  # the server has them, or is getting them
        self._health = HealthCheck()
        self._last_byte_s = 0.0
        self._down_reason = ""
        self._timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S)
        self._probe_now = asyncio.Event()
        file = settings.upstream_key_file
        self._key = bearer(None if file is None else read_key(file, "upstream_key_file"))

    @property
    def model_entry(self) -> dict[str, Any]:
        """What it says of the model."""
        return self.models.get(self.model, {})

    def check(self) -> None:
        """Whether it serves.

        Raises:
            NoCapacityError: if it is down.
        """
        if not self.up:
            raise NoCapacityError(DOWN, retry_after_s=RETRY_AFTER_S)

    @contextmanager
    def pending(self) -> Iterator[PendingRequest]:
        """For all of a request: until its client was sent a byte, it fails with the server.

        Raises:
            WorkerUnreachable: in the place of the cancellation by which it is told.
        """
        pending = PendingRequest()
        self._pending.add(pending)
        try:
            yield pending
        except asyncio.CancelledError:
            if not pending.aborted or pending.task is None:
                raise
            pending.task.uncancel()
            raise WorkerUnreachable(DOWN) from None
        finally:
            self._pending.discard(pending)
            self._sent.discard(pending)

    def answered(self, pending: PendingRequest) -> None:
        """Its client has got a byte: from now on it lives as long as its connection."""
        self._pending.discard(pending)

    def saw_bytes(self) -> None:
        """A byte has come: it lives."""
        self._last_byte_s = time.monotonic()

    async def send(
        self,
        pending: PendingRequest,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        *,
        plain: bool = False,
    ) -> Reply:
        """A request with its headers and body as they came; returns once the answer begins.

        `plain`: the answer is to be read here, so it must not come compressed.

        Raises:
            WorkerUnreachable: if none begins.
        """
        left_out = hop_by_hop(headers) | ({b"accept-encoding"} if plain else frozenset())
        if self._key:
            left_out |= KEY_HEADERS
        sent = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in headers
            if name not in left_out
        ]
        sent += self._key.items()
        self._sent.add(pending)
        try:
            response = await self._connections.request(
                method,
                URL(self.url + target, encoded=True),
                data=body or None,
                headers=sent,
                skip_auto_headers=("Content-Type",),
                timeout=self._timeout,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("upstream not reached", extra={"why": told_of(error)})
            self._probe_now.set()
            raise WorkerUnreachable("This worker's engine could not be reached.") from error
        self.saw_bytes()
        return Reply(response)

    async def run(self) -> None:
        """Probe it until cancelled."""
        broken, health = 0, self._health
        while True:
            asked_s, sent = time.monotonic(), set(self._sent)
            try:
                models = await self._probe(
                    REPROBE_TIMEOUT_S if self.up and health.failures else PROBE_TIMEOUT_S
                )
                after_s = time.monotonic() - asked_s
                health.answered(after_s, working=not sent.isdisjoint(self._sent))
                self._mark_up(models)
                broken = 0
            except TimeoutError:
                bytes_seen = self._last_byte_s > asked_s + QUICK_S
                if health.failed(bytes_seen=bytes_seen, idle=not sent and not self._sent):
                    self._mark_down(f"it answered none of {health.unhealthy_threshold} looks")
                elif health.failures:
                    continue
            except (aiohttp.ClientConnectorError, UpstreamUnusable) as error:
                self._mark_down(str(error) or type(error).__name__)
            except (aiohttp.ClientError, OSError) as error:
                broken += 1  # once may be a connection that it had just closed
                if broken == 1:
                    continue
                self._mark_down(str(error) or type(error).__name__)
            self._probe_now.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._probe_now.wait(), PROBE_INTERVAL_S)

    async def fetch(self, path: str, limit_s: float = PROBE_TIMEOUT_S) -> tuple[int, bytes]:
        """Status and body of one of its pages.

        Raises:
            UpstreamUnusable: if that is larger than any such page.
        """
        async with self._connections.session.get(
            self.url + path,
            timeout=aiohttp.ClientTimeout(total=limit_s),
            allow_redirects=False,
            headers=self._key,
        ) as response:
            body = await read_bounded(response, MOST_PAGE_BYTES)
            if body is None:
                raise UpstreamUnusable(f"its {path} is more than {MOST_PAGE_BYTES} bytes")
            return response.status, body

    async def _probe(self, limit_s: float) -> dict[str, dict[str, Any]]:
        """Its models.

        Raises:
            UpstreamUnusable: if it cannot be served from.
        """
        status, body = await self.fetch("/v1/models", limit_s)
        if status in (401, 403):
            if self._key:
                raise UpstreamUnusable("it does not take the key of --upstream-key-file")
            if self._model_setting is None:
                raise UpstreamUnusable(
                    "it asks for a key: give it by --upstream-key-file, or say by --model which "
                    "model it serves"
                )
            return {self._model_setting: {}}
        if status != 200:
            raise UpstreamUnusable(
                f"GET /v1/models answered {status}: is it an OpenAI-compatible server?"
            )
        try:
            models = {str(entry["id"]): dict(entry) for entry in orjson.loads(body)["data"]}
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise UpstreamUnusable("its /v1/models is not OpenAI's list of models") from error
        if not models:
            raise UpstreamUnusable("it serves no model")
        if self._model_setting is not None and self._model_setting not in models:
            raise UpstreamUnusable(
                f"it serves {', '.join(models)}, and not --model {self._model_setting}"
            )
        return models

    def _mark_up(self, models: dict[str, dict[str, Any]]) -> None:
        self.models = models
        self.model = self._model_setting or next(iter(models))
        self.saw_bytes()
        if not self.up:
            log.info("upstream is up", extra={"upstream": self.url, "model": self.model})
            self.up, self._down_reason = True, ""
            self.generation += 1
            self.on_change()

    def _mark_down(self, why: str) -> None:
        if self.up or why != self._down_reason:
            log.warning("upstream is down", extra={"upstream": self.url, "why": why})
        self._down_reason = why
        if self.up:
            self.up = False
            for pending in list(self._pending):
                pending.abort()
            self.on_change()
