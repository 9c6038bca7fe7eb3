"""Files: what clients send, in chunks as it comes, and what batches have answered.

Rules:
- a file is there once all of it is; what is old is removed by `router.gateway.batches.removal`;
- a tenant sees only its own, and has so many bytes stored at most: what it sends, and what its
  batches have answered. What is being answered is not counted yet;
- of a file that a batch still needs nothing is removed.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, delete, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.gateway.batches.database import Database
from router.gateway.batches.tables import OPEN, Line, batches, chunks, files, lines
from router.http.errors import RequestError

CHUNK = 256 << 10  # bytes
# Results read at once: so many bytes of them, or one; and no more than so many.
PIECE, PAGE = 1 << 20, 256
# Chunks of input files that are kept at hand: lines are sent one by one, and mostly in order.
KEPT = 32
# Of lines whose results a batch's two files have.
STATES = {"output": (Line.DONE,), "errors": (Line.FAILED, Line.EXPIRED)}
Found = Row[Any]


class Files:
    """See the module; `most_bytes` is what a tenant may have stored, 0: whatever it likes."""

    def __init__(self, database: Database, most_bytes: int = 0) -> None:
        self._database, self._most_bytes = database, most_bytes
        self._chunks: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    async def begin(self, tenant: str, filename: str) -> str:
        """The name of a new file, which nobody sees yet."""
        name = f"file-{secrets.token_hex(12)}"
        async with self._database.write() as connection:
            row = {
                "id": name,
                "tenant": tenant,
                "purpose": "",
                "filename": filename,
                "bytes": 0,
                "created_at": await self._database.now(connection),
                "ready": 0,
            }
            await connection.execute(insert(files), row)
        return name

    async def append(self, name: str, number: int, data: bytes) -> None:
        """Its next chunk; all but the last have `CHUNK` bytes."""
        async with self._database.write() as connection:
            await connection.execute(insert(chunks), {"file": name, "number": number, "data": data})

    async def check_quota(self, tenant: str, more: int) -> None:
        """Whether a tenant may store so many bytes more.

        Raises:
            RequestError: 413 if that is more than it may have.
        """
        if self._most_bytes:
            async with self._database.read() as connection:
                await self._check_quota(connection, tenant, more)

    async def _check_quota(self, connection: AsyncConnection, tenant: str, more: int) -> None:
        if not self._most_bytes:
            return
        asked = select(func.coalesce(func.sum(files.c.bytes), 0)).where(files.c.tenant == tenant)
        stored = int((await connection.execute(asked)).scalar_one())
        if stored + more > self._most_bytes:
            raise RequestError(
                f"{stored} of {self._most_bytes} bytes are stored for you, files and answers of "
                "batches; delete some of them first.",
                code="storage_quota_exceeded",
                status=413,
            )

    async def finish(
        self, name: str, tenant: str, purpose: str, size: int, lasts_s: float | None
    ) -> Found:
        """All of it is there; it is removed after `lasts_s`, if that is given.

        Raises:
            RequestError: 413 if its tenant has not so many bytes left.
        """
        async with self._database.write() as connection:
            if self._most_bytes:
                await self._database.alone(connection, tenant)
            await self._check_quota(connection, tenant, size)
            now = await self._database.now(connection)
            values = {
                "purpose": purpose,
                "bytes": size,
                "ready": 1,
                "expires_at": None if lasts_s is None else now + lasts_s,
            }
            made = update(files).where(files.c.id == name).values(values).returning(files)
            found: Found = (await connection.execute(made)).one()
            return found

    async def get(self, name: str, tenant: str) -> Found:
        """A file of this tenant's.

        Raises:
            RequestError: 404 if it has none of that name.
        """
        async with self._database.read() as connection:
            return await find(connection, files, name, tenant)

    async def list(
        self, tenant: str, after: str | None, limit: int, purpose: str | None, *, ascending: bool
    ) -> tuple[Sequence[Found], bool]:
        """At most `limit` of a tenant's, the newest first unless `ascending`; are there more."""
        also = [files.c.ready == 1]
        if purpose is not None:
            also.append(files.c.purpose == purpose)
        async with self._database.read() as connection:
            return await page(connection, files, tenant, after, limit, also, ascending=ascending)

    async def delete(self, name: str, tenant: str) -> None:
        """Remove it.

        Raises:
            RequestError: if the tenant has none of that name, or a batch needs it.
        """
        async with self._database.write() as connection:
            found = await find(connection, files, name, tenant, lock=True)
            used = select(batches.c.id).where(
                batches.c.input_file == name, batches.c.status.in_(OPEN)
            )
            if (batch := (await connection.execute(used)).scalar()) is not None:
                raise RequestError(
                    f"The file '{name}' is being worked on by {batch}; cancel that first.",
                    code="file_in_use",
                    status=409,
                )
            if found.batch is not None:
                results = _results(found)
                await connection.execute(update(lines).where(*results).values(result=None))
            await connection.execute(delete(files).where(files.c.id == name))

    async def abandon(self, name: str) -> None:
        """It is not to be: what has come of it is removed."""
        async with self._database.write() as connection:
            await connection.execute(delete(files).where(files.c.id == name, files.c.ready == 0))

    async def content(self, found: Found) -> AsyncIterator[bytes]:
        """All of it, in pieces; each is read when it is asked for, so no transaction lasts.

        Raises:
            RequestError: 404 if it is deleted meanwhile.
        """
        data, number, where = (
            (chunks.c.data, chunks.c.number, [chunks.c.file == found.id])
            if found.batch is None
            else (lines.c.result, lines.c.number, _results(found))
        )
        last, left = -1, found.bytes
        while left > 0:
            next_ones = select(number, func.length(data)).where(*where, number > last)
            async with self._database.read() as connection:
                sizes = await connection.execute(next_ones.order_by(number).limit(PAGE))
                end = _piece_end([(row[0], row[1]) for row in sizes])
                if end is None:
                    raise not_found(files, found.id)
                asked = select(data).where(*where, number > last, number <= end)
                rows = (await connection.execute(asked.order_by(number))).scalars().all()
            piece = b"".join(rows)
            last, left = end, left - len(piece)
            yield piece

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Some bytes of an input file."""
        first, last = offset // CHUNK, (offset + length - 1) // CHUNK
        whole = b"".join([await self._chunk(name, k) for k in range(first, last + 1)])
        return whole[offset - first * CHUNK :][:length]

    async def _chunk(self, name: str, number: int) -> bytes:
        data = self._chunks.get((name, number))
        if data is None:
            asked = select(chunks.c.data).where(chunks.c.file == name, chunks.c.number == number)
            async with self._database.read() as connection:
                data = bytes((await connection.execute(asked)).scalar() or b"")
            self._chunks[name, number] = data
            if len(self._chunks) > KEPT:
                self._chunks.popitem(last=False)
        else:
            self._chunks.move_to_end((name, number))
        return data


def _piece_end(sizes: Sequence[tuple[int, int]]) -> int | None:
    """Of rows' numbers and sizes, up to which number they make up a piece; None: there are none."""
    last, total = None, 0
    for number, size in sizes:
        total += size
        if last is not None and total > PIECE:
            break
        last = number
    return last


def _results(found: Found) -> list[ColumnElement[bool]]:
    return [
        lines.c.batch == found.batch,
        lines.c.state.in_(STATES[found.kind]),
        lines.c.result.is_not(None),
    ]


async def find(
    connection: AsyncConnection, table: Table, name: str, tenant: str, *, lock: bool = False
) -> Found:
    """A tenant's file or batch; `lock`: nobody removes it or adds to it before this one ends.

    Raises:
        RequestError: 404 if it has none of that name.
    """
    asked = select(table).where(table.c.id == name, table.c.tenant == tenant)
    if lock:
        asked = asked.with_for_update()
    if table is files:
        asked = asked.where(files.c.ready == 1)
    found = (await connection.execute(asked)).one_or_none()
    if found is None:
        raise not_found(table, name)
    return found


def not_found(table: Table, name: str) -> RequestError:
    """Nobody has one of that name, or somebody else."""
    what = "file" if table is files else "batch"
    return RequestError(f"There is no {what} '{name}'.", param="id", code="not_found", status=404)


async def page(
    connection: AsyncConnection,
    table: Table,
    tenant: str,
    after: str | None,
    limit: int,
    also: Sequence[ColumnElement[bool]] = (),
    *,
    ascending: bool = False,
) -> tuple[Sequence[Found], bool]:
    """Rows of a tenant's by age, from the one called `after` on; and are there more.

    Raises:
        RequestError: 404 if there is none of that name.
    """
    at = tuple_(table.c.created_at, table.c.id)
    asked = select(table).where(table.c.tenant == tenant, *also)
    if after is not None:
        found = await find(connection, table, after, tenant)
        last = tuple_(found.created_at, found.id)
        asked = asked.where(at > last if ascending else at < last)
    columns = (table.c.created_at, table.c.id)
    order = [column.asc() if ascending else column.desc() for column in columns]
    rows = (await connection.execute(asked.order_by(*order).limit(limit + 1))).all()
    return rows[:limit], len(rows) > limit
