"""`makespan gateway --processes N`: one gateway in several processes, under one supervisor.

Each process listens on a socket of its own at the one port (`router.http.sockets.listen_together`)
that its supervisor holds open, so that who has connected is served by whoever comes next there. A
process that ends is started again, and one that has stood still for long is ended. At SIGHUP all
are replaced, one by one: a successor starts on the same socket, and once it is ready its
predecessor leaves (`router.http.serving`). At SIGTERM all stop in order. A process whose supervisor
is gone stops by itself.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from math import inf
from pathlib import Path
from tempfile import mkdtemp

from router.children import BAD_SETTINGS, Child, flags, stop_event
from router.gateway.siblings.board import wipe
from router.gateway.siblings.folder import Folder
from router.http.drain import LEAVE_S
from router.http.sockets import listen_together
from router.settings.gateway import GatewaySettings

log = logging.getLogger(__name__)

LOOK_S = 0.2  # between looks at whether all live: nobody waits for long at a socket without one
START_S = 60.0  # for a successor to be ready, a guard; a busy machine takes some seconds
ANSWER_S = 2.0  # for a process to say whether it is ready, or it is asked again
# Whether it stands still it is asked so often, and in vain so many times in a row: more than half a
# minute, in which the busiest machine lets it answer. Counted, as clocks go on while all sleep.
ASK_S, MOST_MISSES = 2.0, 10
# Pauses before a process is started again that has not lived for `LIVED_S`: a broken one does not
# spin, and one that was killed is soon back.
PAUSES_S, LIVED_S = (0.0, 0.5, 1.0, 2.0, 5.0), 60.0


class _Place:
    """A socket, and the process that serves it."""

    def __init__(self, name: str, sock: socket.socket, arguments: Sequence[str]) -> None:
        self._parts = name, sock, arguments
        self.child = self._start()
        self.successor: Child | None = None
        self._started_s, self._ended, self._due_s = time.monotonic(), 0, inf

    def _start(self) -> Child:
        child = Child(*self._parts)
        child.start()
        return child

    def children(self) -> list[Child]:
        """Whoever has been started and may live."""
        return [self.child] if self.successor is None else [self.child, self.successor]

    def look(self, folder: Folder) -> None:
        """Start it again, now or when its pause is over, if it has ended."""
        now, child = time.monotonic(), self.child
        if child.running() or self.successor is not None:
            return
        if self._due_s == inf:
            _ended(folder, child)
            self._ended = 0 if now - self._started_s > LIVED_S else self._ended
            self._due_s = now + PAUSES_S[min(self._ended, len(PAUSES_S) - 1)]
            assert child.process is not None
            about = {"child": child.name, "status": child.process.returncode}
            log.warning("a process of the gateway has ended; starting it again", extra=about)
        if now >= self._due_s:
            self._ended, self._started_s, self._due_s = self._ended + 1, now, inf
            self.child = self._start()

    async def replace(self, folder: Folder, drain_s: float) -> bool:
        """Let a successor take its place; whether that was ready in time."""
        self.successor = self._start()
        if not await _ready(folder, self.successor):
            log.error("not replaced, as its successor is not ready", extra={"child": _name(self)})
            await self.successor.stop(drain_s)
            _ended(folder, self.successor)
            self.successor = None
            return False
        await self.child.stop(LEAVE_S + drain_s, signal.SIGHUP)
        _ended(folder, self.child)
        self.child, self.successor = self.successor, None
        self._started_s, self._ended = time.monotonic(), 0
        return True


def _name(place: _Place) -> str:
    return place.child.name


def _ended(folder: Folder, child: Child) -> None:
    assert child.process is not None
    wipe(folder.board, child.process.pid)
    folder.fold(child.process.pid)


class _Alone(HTTPConnection):
    """To a process on its own socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("sibling", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        """Part of `HTTPConnection`."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _status(path: Path) -> int | None:
    """Of a process's word on whether it is ready; None: it says nothing."""
    client = _Alone(path)
    try:
        client.request("GET", "/ready")
        return client.getresponse().status
    except (HTTPException, OSError):
        return None
    finally:
        client.close()


async def _ready(folder: Folder, child: Child) -> bool:
    assert child.process is not None
    deadline, path = time.monotonic() + START_S, folder.socket_of(child.process.pid)
    while child.running() and time.monotonic() < deadline:
        if await asyncio.to_thread(_status, path) == 200:
            return True
        await asyncio.sleep(0.05)
    return False


async def _watch(place: _Place, folder: Folder) -> None:
    """End its process if that stands still: the kernel goes on dealing connections to it.

    Not while it starts, nor while a successor takes its place.
    """
    child, misses = place.child, -1  # below 0: it has not answered yet
    while True:
        await asyncio.sleep(ASK_S)
        if child is not place.child or place.successor is not None:
            child, misses = place.child, -1
        if child.process is None or not child.running():
            continue
        if await asyncio.to_thread(_status, folder.socket_of(child.process.pid)) is not None:
            misses = 0
        elif misses >= 0:
            misses += 1
        if misses > MOST_MISSES and child is place.child and place.successor is None:
            log.error(
                "a process of the gateway stands still: ending it", extra={"child": child.name}
            )
            child.process.kill()
            misses = -1


def serve_together(settings: GatewaySettings) -> None:
    """Run the processes until told to stop.

    Raises:
        BadSettings: if the port is taken.
        SystemExit: with what a process refused its settings with; 1 if one has not ended well.
    """
    path = Path(mkdtemp(prefix="makespan-"))  # nobody else may look into it
    try:
        sockets = listen_together(settings.host, settings.port, settings.processes)
        status = asyncio.run(_run(settings, Folder(path), sockets))
    finally:
        shutil.rmtree(path, ignore_errors=True)
    sys.exit(status)


async def _run(settings: GatewaySettings, folder: Folder, sockets: Sequence[socket.socket]) -> int:
    told = [name for name in settings.model_fields_set if name not in ("host", "port")]
    arguments = ["gateway", *flags(settings, told), "--siblings", str(folder.path)]
    stop, roll = stop_event(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, roll.set)
    places = [_Place(f"gateway-{k}", sock, arguments) for k, sock in enumerate(sockets)]
    tasks = [asyncio.create_task(_roll(places, folder, settings.drain_s, roll))]
    tasks += [asyncio.create_task(_watch(place, folder)) for place in places]
    refused = False
    while not (stop.is_set() or refused):
        for place in places:
            place.look(folder)
        refused = any(place.child.refused() for place in places)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_S)
    for task in tasks:
        task.cancel()
    children = [child for place in places for child in place.children()]
    await asyncio.gather(*(child.stop(settings.drain_s) for child in children))
    well = all(child.ended_well() for child in children)
    return BAD_SETTINGS if refused else int(not well)


async def _roll(
    places: Sequence[_Place], folder: Folder, drain_s: float, asked: asyncio.Event
) -> None:
    while True:
        await asked.wait()
        asked.clear()
        log.info("replacing all processes, one by one")
        for place in places:
            if not await place.replace(folder, drain_s):
                break
        else:
            log.info("all processes are replaced")
