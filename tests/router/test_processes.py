"""A supervisor and processes that live, but do nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from router import processes
from router.children import Child
from router.gateway.siblings.folder import Folder
from router.processes import ASK_S, MOST_MISSES, _Place, _status, _watch
from tests.waiting import PATIENCE_S, until

SERVES = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(f"{sys.argv[1]}/{os.getpid()}.sock")
server.listen()
while True:
    client, _ = server.accept()
    client.recv(65536)
    client.sendall(b"HTTP/1.1 503 Nobody is up\\r\\ncontent-length: 0\\r\\n\\r\\n")
    client.close()
"""


class Place:
    """One whose process is this program."""

    def __init__(self, sock: socket.socket, program: str, *arguments: str) -> None:
        self.child, self.successor = Child("gateway-0", sock, []), None
        self.child.process = subprocess.Popen([sys.executable, "-c", program, *arguments])

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self.child.process is not None
        return self.child.process


def test_who_stands_still_is_ended_and_who_starts_or_is_busy_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ASK_S * MOST_MISSES >= 20
    monkeypatch.setattr(processes, "ASK_S", 0.01)
    monkeypatch.setattr(processes, "ANSWER_S", 0.1)
    folder, asked = Folder(tmp_path), 0

    def status(path: Path) -> int | None:
        nonlocal asked
        asked += 1
        return _status(path)

    monkeypatch.setattr(processes, "_status", status)

    async def play(stuck: Place, starting: Place) -> None:
        both = (stuck, starting)
        path = folder.socket_of(stuck.process.pid)
        await until(lambda: path.exists() and _status(path) == 503)
        watches = [asyncio.create_task(_watch(cast(_Place, one), folder)) for one in both]
        before = asked
        await until(lambda: asked > before + 10)
        stuck.process.send_signal(signal.SIGSTOP)
        await until(lambda: stuck.process.poll() is not None)
        before = asked
        await until(lambda: asked > before + 2 * MOST_MISSES)
        for watch in watches:
            watch.cancel()

    with socket.socket() as sock:
        stuck = Place(sock, SERVES, str(tmp_path))
        starting = Place(sock, "import signal; signal.pause()")
        try:
            asyncio.run(asyncio.wait_for(play(stuck, starting), PATIENCE_S))
            assert stuck.process.poll() == -signal.SIGKILL
            assert starting.process.poll() is None
        finally:
            for one in (stuck, starting):
                one.process.kill()
                one.process.wait()
