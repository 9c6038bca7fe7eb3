"""Run an application under uvicorn until it is told to stop, and stop in order.

First refuse new work, then let running requests end, at most for the drain time, then close.

One that has a successor on its socket (SIGHUP, from a supervisor) leaves instead: it accepts nobody
any more, serves whoever is connected and asks to come back over another connection, and stops in
order once nobody is, or after `LEAVE_S`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp

from router.http.drain import LEAVE_S, Drain, stop_signals
from router.http.errors import RouterError
from router.http.hosts import hosts_of
from router.http.hot import CLOSE
from router.http.protocol import bounded_protocol
from router.http.sockets import url_of

log = logging.getLogger(__name__)

PARENT_CHECK_S = 0.5
LEAVE_LOOK_S = 0.1  # between looks whether everybody is gone
# Longer than clients and load balancers keep idle connections, so that they close them, not we.
KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    _exits = False
    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain, self._change = drain, asyncio.Event()
        self._leaves_s: float | None = None  # until when

    @property
    def should_exit(self) -> bool:
        """Whether it is to end, as a signal or whoever holds it has said."""
        return self._exits

    @should_exit.setter
    def should_exit(self, exits: bool) -> None:
        self._exits = exits
        self._look()

    def _look(self) -> None:
        """See to what has changed, be it said in another thread or by a signal."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._change.set)

    async def main_loop(self) -> None:
        """As uvicorn's, which looks around ten times a second; this one only while it leaves."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            leaving = self._leaves_s is not None
            with suppress(TimeoutError):
                await asyncio.wait_for(self._change.wait(), LEAVE_LOOK_S if leaving else None)
            self._change.clear()

    def leave(self) -> None:
        """Serve only those who are connected, each once more, and then stop."""
        if self.should_exit or self._leaves_s is not None or not self.started:
            return
        log.info("leaving: another process accepts from now on")
        self._leaves_s = time.monotonic() + LEAVE_S
        for server in self.servers:
            server.close()
        self._say_close()
        self._look()

    def _say_close(self) -> None:
        """Answers that begin from now on end their connections."""
        self.config.encoded_headers = [*self.config.encoded_headers, CLOSE]
        self.server_state.default_headers = self.config.encoded_headers

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Part of uvicorn's server."""
        self._say_close()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Part of uvicorn's server."""
        if self._leaves_s is not None and (
            not self.server_state.connections or time.monotonic() > self._leaves_s
        ):
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn would raise the signal again after an orderly stop, which is then no success.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        elif not self.should_exit:
            self._drain.begin()
            self.should_exit = True


@dataclass(frozen=True, slots=True)
class Beside:
    """What a process serves on a Unix socket, for others of its kind."""

    app: ASGIApp
    path: Path


class _Beside(uvicorn.Server):
    """Until the server beside it has ended."""

    def __init__(self, beside: Beside) -> None:
        config = uvicorn.Config(
            beside.app,
            uds=str(beside.path),
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the other's."""
        yield


def serve(
    app: FastAPI,
    sock: socket.socket,
    *,
    drain_s: float,
    client_timeout_s: float,
    allowed_hosts: Collection[str],
    drain: Drain,
    follow_parent: bool,
    tls: tuple[Path, Path] | None = None,
    beside: Beside | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; `follow_parent`: stop, too, if the supervisor dies.

    Under a supervisor SIGHUP means to `leave` to a successor.

    `tls`: a certificate and its key, checked; `beside`: served as long, on a socket of its own.

    Raises:
        SystemExit: with 1, if it could not start, or ends because something in it has failed.
    """
    _raise_file_limit()
    config = uvicorn.Config(
        app,
        http=bounded_protocol(client_timeout_s, hosts_of(sock, allowed_hosts)),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=ceil(drain_s),
        timeout_keep_alive=KEEP_ALIVE_S,
        ssl_certfile=None if tls is None else tls[0],
        ssl_keyfile=None if tls is None else tls[1],
    )
    logging.getLogger("uvicorn.error").addFilter(untold)
    server = _Server(config, drain)

    async def run() -> None:
        log.info("listening", extra={"url": url_of(sock, secure=tls is not None)})
        watch = asyncio.create_task(_follow(server)) if follow_parent else None
        if follow_parent:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.leave)
        elif signal.SIGHUP in stop_signals():
            hang_up = partial(server.handle_exit, signal.SIGHUP, None)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
        other = None if beside is None else _Beside(beside)
        answers = None if other is None else asyncio.create_task(other.serve())
        await server.serve(sockets=[sock])
        if watch is not None:
            watch.cancel()
        if other is not None and answers is not None:
            other.should_exit = True
            await answers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    if drain.failed or not (server.started or drain.begun):
        log.critical("stopped, as it could not go on")
        sys.exit(1)
    log.info("stopped")


def untold(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's is news: how a request has ended has a line of its own.

    An answer that cannot go on, as its worker has failed, is ended by an error that uvicorn meets:
    nothing else makes it close a connection in the middle of a body.
    """
    error = record.exc_info[1] if record.exc_info else None
    while error is not None and not isinstance(error, RouterError):
        error = error.__cause__
    return error is None


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
