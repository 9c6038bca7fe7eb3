"""What a supervisor makes of how its processes end."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys

import pytest

from router.children import Child
from tests.waiting import PATIENCE_S

DEAF = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit({})); "
WAIT = "print(flush=True); signal.pause()"


@pytest.mark.parametrize(
    ("program", "well"),
    [
        (DEAF.format(0) + WAIT, True),
        (DEAF.format(1) + WAIT, False),
        ("import signal; " + WAIT, True),  # it was starting, and has no way of its own to end yet
    ],
)
def test_who_is_told_to_stop_ends_well_unless_it_complains(program: str, well: bool) -> None:
    with socket.socket() as sock:
        child = Child("one", sock, [])
        child.process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        with child.process as process:
            assert process.stdout is not None
            process.stdout.readline()
            asyncio.run(child.stop(PATIENCE_S))
            assert child.ended_well() == well


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_who_is_ended_by_somebody_else_has_not_ended_well(sig: signal.Signals) -> None:
    with socket.socket() as sock:
        child = Child("one", sock, [])
        child.process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        child.process.send_signal(sig)
        child.process.wait(PATIENCE_S)
        assert not child.ended_well()
