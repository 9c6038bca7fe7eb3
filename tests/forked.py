"""`makespan` as a process that begins with all of its modules loaded.

Loading them takes a second of CPU, and tests start hundreds: each is forked off a server that has
loaded them once (`multiprocessing`'s, one for each process of pytest), and what a supervisor starts
is forked off the supervisor. Then each does what the command does. That the command itself starts
is shown by the pages' commands and the image's tests.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path

from router import children as supervised
from router.settings.base import PREFIX

_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "router.commands",
        "router.up",
        "router.gateway.app",
        "router.agent.app",
        "router.http.serving",
    ]
)


class Forked:
    """One such process; what `subprocess.Popen` has under the same names."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, below zero if a signal ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send it a signal, if it runs."""
        if self.returncode is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Its exit status.

        Raises:
            subprocess.TimeoutExpired: if it does not end in so many seconds.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode


class Command(Forked):
    """`makespan` with these arguments and this environment.

    Attributes:
        stdout: what it prints, errors too.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        with ExitStack() as stack:
            ours, its = os.pipe()
            stack.callback(os.close, its)
            self.stdout = os.fdopen(ours, encoding="utf-8")
            told = list(arguments), dict(environment), DupFd(its)
            super().__init__(_SERVER.Process(target=_begin, args=told))


def children(pid: int) -> dict[int, str]:
    """All processes below `pid`: agents by their names, a gateway as `gateway`."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found[child] = Path(f"/proc/{child}/comm").read_text().strip()
            found |= children(child)
    return found


def child(pid: int, name: str) -> int:
    """The process of that name below `pid`.

    Raises:
        StopIteration: if there is none.
    """
    return next(child for child, called in children(pid).items() if called == name)


def _begin(arguments: list[str], environment: dict[str, str], output: object) -> None:
    assert hasattr(output, "detach")
    fd = output.detach()
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    os.environ.clear()
    os.environ.update(environment)
    supervised.start = _start  # type: ignore[assignment]
    _run(arguments)


def _start(arguments: Sequence[str], fd: int) -> Forked:
    """What `router.children.start` does, without loading anything."""
    return Forked(get_context("fork").Process(target=_follow, args=(list(arguments), fd)))


def _follow(arguments: list[str], fd: int) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)  # it is the supervisor's
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    told = arguments[arguments.index("--name") + 1] if "--name" in arguments else arguments[0]
    Path("/proc/self/comm").write_text(told)
    _run([*arguments, "--fd", str(fd)])


def _run(arguments: list[str]) -> None:
    from router.cli import main
    from router.gateway.planning import ticket

    ticket._PROCESS = secrets.token_hex(4)  # as if the module had been loaded here
    sys.argv = ["makespan", *arguments]
    main()
