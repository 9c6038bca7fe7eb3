"""A PostgreSQL of a test's own, on a Unix socket in its folder: no port, no password, no fsync."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

_SETTINGS = "-c listen_addresses='' -c fsync=off -c shared_buffers=16MB -c max_connections=60"


def _programs() -> Path:
    """Where Debian puts them; without them a developer's test is skipped, CI's fails."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    missing = "PostgreSQL is not installed: apt-get install postgresql"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


class Postgres:
    """One server, and a database of it for each who asks."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder, self._made = programs, folder, 0
        # It refuses to run as root.
        self._as = [] if os.getuid() else ["setpriv", "--reuid=postgres", "--regid=postgres"]
        self._as += [] if os.getuid() else ["--init-groups"]

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._programs / program), *arguments]
        done = subprocess.run(
            command, cwd=self._folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def make(self) -> None:
        """Make it, and start it."""
        if self._as:
            shutil.chown(self._folder, "postgres", "postgres")
        self._run("initdb", "-D", "data", "-A", "trust", "-U", "makespan", "-N", "--no-locale")
        self.start()

    def start(self) -> None:
        """Start it."""
        options = f"{_SETTINGS} -k {self._folder}"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        """End it at once: who is connected is cut off."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    def database(self) -> str:
        """The address of a new database."""
        self._made += 1
        name = f"test{self._made}"
        self._run("createdb", "-h", str(self._folder), "-U", "makespan", name)
        return f"postgresql+asyncpg://makespan@/{name}?host={self._folder}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server, gone at the end."""
    programs = _programs()
    folder = Path(mkdtemp(prefix="makespan-pg-", dir="/tmp"))  # a socket's path must be short
    folder.chmod(0o755)
    server = Postgres(programs, folder)
    try:
        server.make()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
