"""What is removed with time: batches that have ended, files, and what broken uploads leave.

Rules:
- a batch goes so long after its end, with its lines, its answers and the two files of them;
- a file that a client has sent goes when that client said, or as long after it came as batches stay
  after their end; but none that a batch still has as its input (of one whose client said when: an
  open batch);
- whoever looks first removes it, a part at a time, so that no transaction lasts; where several
  look, one does a batch and others leave it alone. One that dies amid that leaves what is removed
  by the next: the files with the answers go first, so that nobody reads half of them, and the batch
  itself goes last.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, delete, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router.gateway.batches.database import Database
from router.gateway.batches.tables import OPEN, batches, files, lines

# After so long an upload that has not ended never will: no client takes that long for 200 MB.
UPLOAD_S = 86_400.0
# Lines removed in one transaction: some ten milliseconds.
AT_ONCE = 2000
_ENDED = func.coalesce(
    batches.c.completed_at, batches.c.failed_at, batches.c.expired_at, batches.c.cancelled_at
)


class Removal:
    """See the module.

    Attributes:
        kept_s: how long batches stay after their end; 0: for good.
    """

    def __init__(self, database: Database, kept_s: float) -> None:
        self._database, self.kept_s = database, kept_s

    async def run(self) -> None:
        """Remove all whose time is over now.

        Raises:
            StoreLost: if the database is lost meanwhile.
        """
        while self.kept_s and await self._part_of_a_batch():
            pass
        while await self._a_file():
            pass

    async def _part_of_a_batch(self) -> bool:
        """Whether there was one."""
        async with self._database.write() as connection:
            over = await self._database.now(connection) - self.kept_s
            old = select(batches.c.id).where(batches.c.status.not_in(OPEN), over > _ENDED)
            name = await _first(connection, old)
            if name is None:
                return False
            await connection.execute(delete(files).where(files.c.batch == name))
            some = select(lines.c.number).where(lines.c.batch == name).limit(AT_ONCE)
            gone = delete(lines).where(lines.c.batch == name, lines.c.number.in_(some))
            if (await connection.execute(gone)).rowcount < AT_ONCE:
                await connection.execute(delete(batches).where(batches.c.id == name))
            return True

    async def _a_file(self) -> bool:
        """Whether there was one."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            mine = batches.c.input_file == files.c.id
            said = and_(
                files.c.ready == 1,
                files.c.expires_at < now,
                ~exists().where(mine, batches.c.status.in_(OPEN)),
            )
            broken = and_(files.c.ready == 0, files.c.created_at < now - UPLOAD_S)
            over = [said, broken]
            if self.kept_s:
                over.append(
                    and_(
                        files.c.ready == 1,
                        files.c.batch.is_(None),
                        files.c.expires_at.is_(None),
                        files.c.created_at < now - self.kept_s,
                        ~exists().where(mine),
                    )
                )
            name = await _first(connection, select(files.c.id).where(or_(*over)))
            if name is None:
                return False
            await connection.execute(delete(files).where(files.c.id == name))
            return True


async def _first(connection: AsyncConnection, asked: Select[Any]) -> Any:  # noqa: ANN401
    """One of them that nobody else is removing; SQLite has one who writes at a time."""
    rows = await connection.execute(asked.limit(1).with_for_update(skip_locked=True))
    return rows.scalar()
