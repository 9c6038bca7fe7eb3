"""Processes that a supervisor starts on sockets that it has opened, and the flags they are told by.

Knows nothing of what they serve, so that a supervisor need not load any of that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from router.http.drain import stop_signals
from router.http.sockets import url_of
from router.settings.base import PREFIX, Settings

log = logging.getLogger(__name__)

BAD_SETTINGS = 2  # exit status of a command that was refused
KILL_AFTER_S = 5.0  # beyond the drain time, before a child is killed


class Child:
    """One process and the socket that it listens on."""

    def __init__(self, name: str, sock: socket.socket, arguments: Sequence[str]) -> None:
        self.name, self.sock, self._arguments = name, sock, arguments
        self.process: subprocess.Popen[bytes] | None = None
        self._told = 0  # status of one that the signal ends which it was sent

    @property
    def url(self) -> str:
        """Where it answers."""
        return url_of(self.sock)

    def start(self) -> None:
        """Start the process."""
        self.process = start(self._arguments, self.sock.fileno())

    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def ended_well(self) -> bool:
        """Whether it has ended, and without a complaint: one that was still starting has none."""
        return self.process is not None and self.process.poll() in (0, self._told)

    def refused(self) -> bool:
        """Whether it ended at once, because of its settings."""
        return self.process is not None and self.process.poll() == BAD_SETTINGS

    def send(self, sig: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        self._told = -sig
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(sig)

    async def stop(self, drain_s: float, sig: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, wait for its drain time, and then insist."""
        if self.process is None:
            return
        self.send(sig)
        deadline = time.monotonic() + drain_s + KILL_AFTER_S
        while self.running():
            if time.monotonic() > deadline:
                log.warning("killed, as it did not end in time", extra={"child": self.name})
                self.process.kill()
                deadline = float("inf")
            await asyncio.sleep(0.02)


def start(arguments: Sequence[str], fd: int) -> subprocess.Popen[bytes]:
    """`makespan` on a socket, in a session of its own: Ctrl-C is the supervisor's to hand on."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    return subprocess.Popen(
        [sys.executable, "-m", "router.cli", *arguments, "--fd", str(fd)],
        pass_fds=[fd],
        env=environment,
        start_new_session=True,
    )


def flags(settings: Settings, names: Collection[str]) -> list[str]:
    """The flags by which a child is told these settings, and not by the file that they are of."""
    told = set(names) - {"config"}
    values = settings.model_dump(mode="json", include=told, exclude_none=True)
    return [part for name, value in sorted(values.items()) for part in _flag(name, value)]


def _flag(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{name.replace('_', '-')}"]
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return [f"--{name.replace('_', '-')}", str(value)]


def stop_event() -> asyncio.Event:
    """Set at the first signal to stop; to be called inside the running loop."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in stop_signals():
        loop.add_signal_handler(sig, event.set)
    return event
