"""A gateway's part in telling each other, made from its settings; without peers there is none."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.routing import Route

from router.gateway.fleet.workers import Workers
from router.gateway.peers.hearing import Hearing
from router.gateway.peers.lines import SENDS_PATH
from router.gateway.peers.peers import Peers
from router.gateway.peers.sends import Sends
from router.gateway.peers.telling import Telling
from router.gateway.siblings.folder import Folder
from router.http.connections import Connections
from router.http.drain import Drain
from router.observe.metrics import GatewayMetrics
from router.settings.gateway import GatewaySettings
from router.settings.secrets import read_secrets


class Peering:
    """See the module.

    Attributes:
        sends: what this process tells; None: nobody is told anything.
        peers: what gateways elsewhere have, if some are named.
        guarded: paths that look for themselves at who asks.
    """

    def __init__(
        self, settings: GatewaySettings, connections: Connections, folder: Folder | None
    ) -> None:
        several = settings.peers or folder is not None
        self._settings, self._connections, self._folder = settings, connections, folder
        self.sends = Sends(connections.gateway) if several else None
        self.peers = Peers(self.sends) if self.sends is not None and settings.peers else None
        self.guarded = (SENDS_PATH,) if several else ()
        self._hearing: Hearing | None = None

    def add(self, app: FastAPI, workers: Workers, metrics: GatewayMetrics, drain: Drain) -> None:
        """Tell, and listen once it runs."""
        if self.sends is None:
            return
        secrets = read_secrets(self._settings.secret_file)
        telling = Telling(self.sends, secrets, drain)
        app.router.routes.append(Route(SENDS_PATH, telling, methods=["POST"]))
        app.state.hot[SENDS_PATH.encode()] = telling  # it writes to its listeners at once
        self._hearing = Hearing(
            self._settings,
            self._connections,
            workers,
            self.sends,
            self.peers,
            metrics,
            self._folder,
        )
        workers.before_plan = self._hearing.catch_up

    async def run(self) -> None:
        """Listen, until cancelled."""
        if self._hearing is not None:
            await self._hearing.run()

    def told(self) -> list[dict[str, Any]]:
        """The other gateways, for who looks at them."""
        return [] if self._hearing is None else self._hearing.told()
