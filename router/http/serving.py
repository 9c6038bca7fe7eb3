"""Run an application under uvicorn until it is told to stop, and stop in order.

First refuse new work, then let running requests end, at most for the drain time, then close.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from math import ceil
from types import FrameType

import uvicorn
import uvloop
from fastapi import FastAPI

from router.http.slow_readers import SlowReaders
from router.http.sockets import url_of

log = logging.getLogger(__name__)

PARENT_CHECK_S = 0.5
# Longer than clients and load balancers keep idle connections, so that they close them, not we.
BACKLOG = 2048  # connections that wait to be accepted, as uvicorn has it
KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_drain = on_drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn would raise the signal again after an orderly stop, which is then no success.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        elif not self.should_exit:
            self._on_drain()
            self.should_exit = True


def serve(
    app: FastAPI,
    sock: socket.socket,
    *,
    drain_s: float,
    on_drain: Callable[[], None],
    follow_parent: bool,
) -> None:
    """Serve until SIGTERM or SIGINT; `follow_parent`: stop, too, if the supervisor dies."""
    _raise_file_limit()
    config = uvicorn.Config(
        app,
        http=SlowReaders,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=ceil(drain_s),
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = _Server(config, on_drain)

    async def run() -> None:
        sock.listen(BACKLOG)  # from here on clients wait rather than being refused
        log.info("listening", extra={"url": url_of(sock)})
        watch = asyncio.create_task(_follow(server)) if follow_parent else None
        await server.serve(sockets=[sock])
        if watch is not None:
            watch.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    log.info("stopped")


def _raise_file_limit() -> None:
    """Two connections a request soon pass the usual soft limit of 1,024 open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _follow(server: uvicorn.Server) -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells of a parent's death
        await asyncio.sleep(PARENT_CHECK_S)
    log.warning("the supervisor is gone: stopping")
    server.should_exit = True
