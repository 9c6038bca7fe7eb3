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

from router.agent.sidecar.health import AGAIN_S, LOOK_S, QUICK_S, Silence
from router.http.connections import HOP_BY_HOP, Connections, Reply
from router.http.errors import Headers, WorkerUnreachable
from router.settings.agent import AgentSettings

log = logging.getLogger(__name__)

CONNECT_S = 2.0
# Shorter than vLLM keeps idle connections (5 s), and most others.
KEEP_ALIVE_S = 4.0
PROBE_S = 0.5  # between looks at it


class Unusable(Exception):
    """It cannot be served from; the message says why, and what to do."""


class Need:
    """A request; should the server die before its client was sent a byte, it is given up."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.lost = False

    def lose(self) -> None:
        """The server is down."""
        if not self.lost and self.task is not None:
            self.lost = True
            self.task.cancel()


class Upstream:
    """Follows one server for as long as the sidecar runs.

    Attributes:
        up: whether it serves.
        models: the entries of its ``/v1/models`` by id.
        model: the one that this sidecar reports.
        lives: how often it has come up.
        moved: called whenever it comes up or goes down.
    """

    def __init__(self, settings: AgentSettings, connections: Connections) -> None:
        assert settings.upstream is not None
        self.url = settings.upstream
        self.up = False
        self.lives = 0
        self.models: dict[str, dict[str, Any]] = {}
        self._wanted = settings.model if "model" in settings.model_fields_set else None
        self.model = settings.model
        self.moved: Callable[[], None] = lambda: None
        self._connections = connections
        self._needs: set[Need] = set()
        self._sent: set[Need] = set()  # the server has them, or is getting them
        self._silence = Silence()
        self._heard_s = 0.0
        self._why = ""
        self._timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_S)
        self._look = asyncio.Event()

    @property
    def entry(self) -> dict[str, Any]:
        """What it says of the model."""
        return self.models.get(self.model, {})

    @contextmanager
    def needed(self) -> Iterator[Need]:
        """For all of a request: until its client was sent a byte, it fails with the server.

        Raises:
            WorkerUnreachable: in the place of the cancellation by which it is told.
        """
        need = Need()
        self._needs.add(need)
        try:
            yield need
        except asyncio.CancelledError:
            if not need.lost or need.task is None:
                raise
            need.task.uncancel()
            raise WorkerUnreachable("This worker's engine is down.") from None
        finally:
            self._needs.discard(need)
            self._sent.discard(need)

    def answered(self, need: Need) -> None:
        """Its client has got a byte: from now on it lives as long as its connection."""
        self._needs.discard(need)

    def heard(self) -> None:
        """A byte has come: it lives."""
        self._heard_s = time.monotonic()

    async def send(
        self,
        need: Need,
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
        left_out = HOP_BY_HOP | {b"accept-encoding"} if plain else HOP_BY_HOP
        sent = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in headers
            if name not in left_out
        ]
        self._sent.add(need)
        try:
            response = await self._connections.session.request(
                method,
                URL(self.url + target, encoded=True),
                data=body or None,
                headers=sent,
                skip_auto_headers=("Content-Type",),
                timeout=self._timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("upstream not reached", extra={"why": repr(error)})
            self._look.set()
            raise WorkerUnreachable("This worker's engine could not be reached.") from error
        self.heard()
        return Reply(response)

    async def run(self) -> None:
        """Look at it until cancelled."""
        broken, silence = 0, self._silence
        while True:
            asked_s, sent = time.monotonic(), set(self._sent)
            try:
                models = await self._probe(AGAIN_S if self.up and silence.misses else LOOK_S)
                after_s = time.monotonic() - asked_s
                silence.answered(after_s, working=not sent.isdisjoint(self._sent))
                self._rise(models)
                broken = 0
            except TimeoutError:
                heard = self._heard_s > asked_s + QUICK_S
                if silence.missed(heard=heard, idle=not sent and not self._sent):
                    self._fall(f"it answered none of {silence.most} looks")
                elif silence.misses:
                    continue
            except (aiohttp.ClientConnectorError, Unusable) as error:
                self._fall(str(error) or type(error).__name__)
            except (aiohttp.ClientError, OSError) as error:
                broken += 1  # once may be a connection that it had just closed
                if broken == 1:
                    continue
                self._fall(str(error) or type(error).__name__)
            self._look.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), PROBE_S)

    async def fetch(self, path: str, limit_s: float = LOOK_S) -> tuple[int, bytes]:
        """Status and body of one of its pages."""
        async with self._connections.session.get(
            self.url + path, timeout=aiohttp.ClientTimeout(total=limit_s), allow_redirects=False
        ) as response:
            return response.status, await response.read()

    async def _probe(self, limit_s: float) -> dict[str, dict[str, Any]]:
        """Its models.

        Raises:
            Unusable: if it cannot be served from.
        """
        status, body = await self.fetch("/v1/models", limit_s)
        if status in (401, 403):
            if self._wanted is None:
                raise Unusable("it asks for a key: say by --model which model it serves")
            return {self._wanted: {}}
        if status != 200:
            raise Unusable(f"GET /v1/models answered {status}: is it an OpenAI-compatible server?")
        try:
            models = {str(entry["id"]): dict(entry) for entry in orjson.loads(body)["data"]}
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise Unusable("its /v1/models is not OpenAI's list of models") from error
        if not models:
            raise Unusable("it serves no model")
        if self._wanted is not None and self._wanted not in models:
            raise Unusable(f"it serves {', '.join(models)}, and not --model {self._wanted}")
        return models

    def _rise(self, models: dict[str, dict[str, Any]]) -> None:
        self.models = models
        self.model = self._wanted or next(iter(models))
        self.heard()
        if not self.up:
            log.info("upstream is up", extra={"upstream": self.url, "model": self.model})
            self.up, self._why = True, ""
            self.lives += 1
            self.moved()

    def _fall(self, why: str) -> None:
        if self.up or why != self._why:
            log.warning("upstream is down", extra={"upstream": self.url, "why": why})
        self._why = why
        if self.up:
            self.up = False
            for need in list(self._needs):
                need.lose()
            self.moved()
