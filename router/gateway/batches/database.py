"""Where batches are kept: SQLite below a folder, or PostgreSQL; opened, and brought up to date.

Rules:
- whoever writes begins so: in SQLite one does at a time, and others wait for it;
- what a commit has written stays, also when the power fails;
- whatever goes wrong with the database, a full disk as well, is one error (`StoreLost`), and its
  reason is for the operator's log;
- times are the database's own: of several gateways no two clocks agree.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from router.http.errors import Headers, RouterError, retry_after
from router.settings.base import BadSettings

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).with_name("migrations")
FILE = "batches.sqlite"
# For another process that writes; it does for milliseconds at a time.
BUSY_S = 10.0
# Connections of a process: its writer, its looks, and clients that read files.
CONNECTIONS = 8
_PRAGMAS = (
    f"busy_timeout = {int(BUSY_S * 1000)}",
    "journal_mode = WAL",
    "journal_size_limit = 67108864",  # of what a large upload has made of it, so much is kept
    "synchronous = FULL",
    "foreign_keys = ON",
)
# When clients may find it well again, seconds.
AGAIN_S = 2.0
# By which gateways that start together bring a PostgreSQL database up to date one by one.
_LOCK = 0x6D616B65


class StoreLost(RouterError):
    """The database cannot be reached, or takes nothing; `why`, for the log."""

    status = 503

    def __init__(self, why: str) -> None:
        super().__init__(
            "Batches cannot be read or written now; please try again. The gateway's log says why.",
            code="store_unavailable",
        )
        self.why = why

    def headers(self) -> Headers:
        """With when to come back."""
        return [*super().headers(), retry_after(AGAIN_S)]


class Database:
    """See the module."""

    def __init__(self, folder: Path | None, url: str | None) -> None:
        """`url` is PostgreSQL's; without one it is SQLite in `folder`.

        Raises:
            BadSettings: if there cannot be one.
        """
        self._reads, self._writes = _postgres(url) if url else _sqlite(folder)
        self.is_sqlite = self._reads.dialect.name == "sqlite"
        self.opened = False

    async def open(self) -> None:
        """Bring it up to date, before anything else.

        Raises:
            StoreLost: if it cannot be reached.
            BadSettings: if it is of a later version.
        """
        with _told():
            async with self._writes.begin() as connection:
                if not self.is_sqlite:
                    await connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
                await connection.run_sync(_upgrade)
        self.opened = True

    async def close(self) -> None:
        """Let go of all connections."""
        await self._reads.dispose()
        await self._writes.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """As it is in one moment.

        Raises:
            StoreLost: if it cannot be reached.
        """
        self._check()
        with _told():
            async with self._reads.begin() as connection:
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """All of it, or nothing.

        Raises:
            StoreLost: if it cannot be reached, or takes nothing.
        """
        self._check()
        with _told():
            async with self._writes.begin() as connection:
                yield connection

    def _check(self) -> None:
        if not self.opened:
            raise StoreLost("it has not been reached yet")

    async def alone(self, connection: AsyncConnection, name: str) -> None:
        """Nobody else who asks for this name goes on before this transaction ends."""
        if not self.is_sqlite:  # there only one writes at a time
            key = func.hashtextextended(name, _LOCK)
            await connection.execute(select(func.pg_advisory_xact_lock(key)))

    async def now(self, connection: AsyncConnection) -> float:
        """Unix time in seconds."""
        if self.is_sqlite:
            return time.time()
        asked = select(func.extract("epoch", func.clock_timestamp()))
        return float((await connection.execute(asked)).scalar_one())


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except (DBAPIError, PoolTimeout, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreLost(str(cause) or type(cause).__name__) from cause


def _sqlite(folder: Path | None) -> tuple[AsyncEngine, AsyncEngine]:
    assert folder is not None
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / FILE).touch(mode=0o600)
    except OSError as error:
        raise BadSettings.of_file(folder, error, "data") from error
    url = f"sqlite+aiosqlite:///{folder / FILE}"
    readers = create_async_engine(url, pool_size=CONNECTIONS, max_overflow=0)
    writer = create_async_engine(url, pool_size=1, max_overflow=0)
    for engine, begin in ((readers, "BEGIN"), (writer, "BEGIN IMMEDIATE")):
        _pragmas(engine, begin)
    return readers, writer


def _pragmas(engine: AsyncEngine, begin: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connected(raw: Any, _: object) -> None:  # noqa: ANN401 - SQLAlchemy's own
        raw.isolation_level = None  # transactions begin as we say
        cursor = raw.cursor()
        try:
            for pragma in _PRAGMAS:
                cursor.execute(f"PRAGMA {pragma}")
        except BaseException:
            raw.close()  # nobody else has it yet
            raise
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _postgres(url: str) -> tuple[AsyncEngine, AsyncEngine]:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "postgresql":
            raise BadSettings("database: it must be like postgresql+asyncpg://USER@HOST/NAME")
        engine = create_async_engine(
            parsed.set(drivername="postgresql+asyncpg"),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_pre_ping=True,
            pool_timeout=BUSY_S,
            connect_args={"timeout": BUSY_S, "command_timeout": 60},
        )
    except ArgumentError as error:
        raise BadSettings(f"database: {error}") from error
    except ModuleNotFoundError as error:
        raise BadSettings("database: asyncpg is missing: pip install '.[postgres]'") from error
    return engine, engine


def _upgrade(connection: Connection) -> None:
    """Run what migrations it has not had yet.

    Raises:
        BadSettings: if it is of a later version.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its steps are no news
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise BadSettings(f"the batches' database is of a later version: {error}") from error
