"""Batches: from their making to their end, each step by whoever sees first that it is due.

    validating ─▶ in_progress ─▶ finalizing ─▶ completed, or expired
         │              └─▶ cancelling ─▶ cancelled
         └─▶ failed: not one of its lines can be run

Rules:
- a step is taken only from the state before it, so that of several gateways one takes it;
- what takes time (looking at its lines, ending those that are left) is done by one `owner`, and
  begun again by another if that one dies;
- an end is one transaction: states, counts and the two files are there together, or not yet.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.gateway.batches.database import Database
from router.gateway.batches.files import STATES, Found, find, not_found, page
from router.gateway.batches.lines import TOGETHER, Counts, count
from router.gateway.batches.results import Problem, failed_line
from router.gateway.batches.tables import OPEN, USAGE, Line, Status, batches, files, lines

# Of what is wrong with a batch's lines, so much is told by itself; the error file has all.
MOST_ERRORS = 100
EXPIRED = Problem("batch_expired", "This request could not be run before the batch's window ended.")


class Batches:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        tenant: str,
        key: str,
        endpoint: str,
        file: str,
        window: tuple[str, float],
        metadata: dict[str, str] | None,
    ) -> Found:
        """A new one; `window` is how long it may take, as it was said and in seconds.

        Raises:
            RequestError: 404 if its tenant has no such file.
        """
        async with self._database.write() as connection:
            await find(connection, files, file, tenant, lock=True)
            now = await self._database.now(connection)
            row: dict[str, Any] = {
                "id": f"batch_{secrets.token_hex(12)}",
                "tenant": tenant,
                "key": key,
                "endpoint": endpoint,
                "input_file": file,
                "window": window[0],
                "metadata": None if metadata is None else json.dumps(metadata),
                "status": Status.VALIDATING,
                "created_at": now,
                "expires_at": now + window[1],
                "total": 0,
                "completed": 0,
                "failed": 0,
                **dict.fromkeys(USAGE, 0),
            }
            made: Found = (await connection.execute(insert(batches).returning(batches), row)).one()
            return made

    async def get(self, name: str, tenant: str) -> tuple[Found, Counts]:
        """A tenant's, and how its lines are.

        Raises:
            RequestError: 404 if it has none of that name.
        """
        asked = select(batches).where(batches.c.id == name, batches.c.tenant == tenant)
        async with self._database.read() as connection:
            found = (await connection.execute(asked)).one_or_none()
            if found is None:
                raise not_found(batches, name)
            counts = await count(connection, [name] if found.status in OPEN else [])
            return found, counts.get(name, Counts())

    async def list(
        self, tenant: str, after: str | None, limit: int
    ) -> tuple[Sequence[tuple[Found, Counts]], bool]:
        """A tenant's, the newest first; and are there more."""
        async with self._database.read() as connection:
            rows, more = await page(connection, batches, tenant, after, limit)
            counts = await count(connection, [row.id for row in rows if row.status in OPEN])
            return [(row, counts.get(row.id, Counts())) for row in rows], more

    async def cancel(self, name: str, tenant: str) -> None:
        """Begin to cancel it, if it has not ended."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            begun = (
                update(batches)
                .where(batches.c.id == name, batches.c.tenant == tenant)
                .where(batches.c.status.in_((Status.VALIDATING, Status.IN_PROGRESS)))
            )
            values = {"status": Status.CANCELLING, "cancelling_at": now}
            await connection.execute(begun.values(values))

    async def open(self, connection: AsyncConnection) -> Sequence[Found]:
        """Those in which something is still to be done, the oldest first."""
        asked = select(batches).where(batches.c.status.in_(OPEN)).order_by(batches.c.created_at)
        return (await connection.execute(asked)).all()

    async def own(self, connection: AsyncConnection, name: str, status: Status, owner: str) -> bool:
        """Whether it is this runner that does the next step of it from now on."""
        mine = (
            update(batches)
            .where(batches.c.id == name, batches.c.status == status, batches.c.owner.is_(None))
            .values(owner=owner)
        )
        return bool((await connection.execute(mine)).rowcount)

    async def restart(self, name: str, owner: str) -> bool:
        """Nobody has looked at all of its lines: what is known of some goes.

        Whether its owner is to go on.
        """
        async with self._database.write() as connection:
            still = await self._still(connection, name, Status.VALIDATING, owner)
            if still:
                await connection.execute(delete(lines).where(lines.c.batch == name))
            return still

    async def add(self, name: str, owner: str, rows: Sequence[dict[str, Any]]) -> bool:
        """More of its lines; whether its owner is to go on."""
        async with self._database.write() as connection:
            if not await self._still(connection, name, Status.VALIDATING, owner):
                return False
            for k in range(0, len(rows), TOGETHER):
                await connection.execute(insert(lines), rows[k : k + TOGETHER])
            return True

    async def checked(
        self, name: str, owner: str, total: int, model: str, errors: Sequence[dict[str, Any]]
    ) -> None:
        """All of its lines have been looked at; `errors` tell what is wrong with some."""
        async with self._database.write() as connection:
            if not await self._still(connection, name, Status.VALIDATING, owner):
                return
            now = await self._database.now(connection)
            counts = (await count(connection, [name]))[name]
            values: dict[str, Any] = {
                "total": total,
                "model": model or None,
                "errors": json.dumps(errors[:MOST_ERRORS]) if errors else None,
                "owner": None,
            }
            if counts.waiting:
                values |= {"status": Status.IN_PROGRESS, "in_progress_at": now}
                await connection.execute(update(batches).where(batches.c.id == name).values(values))
                return
            await connection.execute(update(batches).where(batches.c.id == name).values(values))
            await self._end(connection, name, Status.FAILED, "failed_at", now)

    async def fail(self, batch: Found, why: str) -> None:
        """It cannot be looked at."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            told = json.dumps([{"code": "invalid_file", "message": why, "line": None}])
            values = {"status": Status.FAILED, "failed_at": now, "errors": told, "owner": None}
            step = update(batches).where(batches.c.id == batch.id, batches.c.status == batch.status)
            await connection.execute(step.values(values))

    async def finalize(
        self, connection: AsyncConnection, batch: Found, now: float, *, expired: bool
    ) -> None:
        """Its lines have ended, or its time is over before they have."""
        values = {"status": Status.FINALIZING, "finalizing_at": now}
        if expired:
            values["expired_at"] = now
        step = update(batches).where(batches.c.id == batch.id, batches.c.status == batch.status)
        await connection.execute(step.values(values))

    async def expire(self, batch: Found) -> int:
        """Give some of those left of an expired one their error; how many: `TOGETHER`, or all."""
        left = lines.c.state < Line.DONE
        asked = (
            select(lines.c.number, lines.c.custom_id)
            .where(lines.c.batch == batch.id, left)
            .limit(TOGETHER)
        )
        one = update(lines).where(lines.c.batch == batch.id, lines.c.number == bindparam("at"))
        # Some may have ended since they were looked at: their results stay.
        over = one.where(left).values(state=Line.EXPIRED, owner=None, result=bindparam("told"))
        async with self._database.write() as connection:
            rows = [
                {"at": n, "told": failed_line(batch.id, n, custom_id, EXPIRED)}
                for n, custom_id in await connection.execute(asked)
            ]
            if rows:
                await connection.execute(over, rows)
        return len(rows)

    async def end(self, connection: AsyncConnection, batch: Found, now: float) -> None:
        """Nothing is left to do of it; whoever comes first ends it."""
        if not await self._still(connection, batch.id, Status(batch.status)):
            return
        if batch.status == Status.CANCELLING:
            await self._end(connection, batch.id, Status.CANCELLED, "cancelled_at", now)
        elif batch.expired_at is not None:
            await self._end(connection, batch.id, Status.EXPIRED, "expired_at", now)
        else:
            await self._end(connection, batch.id, Status.COMPLETED, "completed_at", now)

    @staticmethod
    async def _still(
        connection: AsyncConnection, name: str, status: Status, owner: str | None = None
    ) -> bool:
        """Whether it is so, for as long as this transaction lasts."""
        asked = select(batches.c.id).where(batches.c.id == name, batches.c.status == status)
        if owner is not None:
            asked = asked.where(batches.c.owner == owner)
        return (await connection.execute(asked.with_for_update())).scalar() is not None

    async def _end(
        self, connection: AsyncConnection, name: str, status: Status, time: str, now: float
    ) -> None:
        counts = (await count(connection, [name]))[name]
        values: dict[str, Any] = {
            "status": status,
            time: now,
            "owner": None,
            "completed": counts.done,
            "failed": counts.failed + counts.expired,
        }
        sums = select(*(func.coalesce(func.sum(lines.c[one]), 0) for one in USAGE))
        used = (await connection.execute(sums.where(lines.c.batch == name))).one()
        values |= {one: int(n) for one, n in zip(USAGE, used, strict=True)}
        for kind, column in (("output", "output_file"), ("errors", "error_file")):
            values[column] = await self._file(connection, name, kind, now)
        step = update(batches).where(batches.c.id == name, batches.c.status.in_(OPEN))
        await connection.execute(step.values(values))

    @staticmethod
    async def _file(connection: AsyncConnection, name: str, kind: str, now: float) -> str | None:
        """One with results, by its name; none where there are none."""
        asked = select(func.count(), func.sum(func.length(lines.c.result))).where(
            lines.c.batch == name, lines.c.state.in_(STATES[kind])
        )
        n, size = (await connection.execute(asked)).one()
        if not n:
            return None
        tenant = select(batches.c.tenant).where(batches.c.id == name)
        row = {
            "id": f"file-{secrets.token_hex(12)}",
            "tenant": (await connection.execute(tenant)).scalar_one(),
            "purpose": "batch_output",
            "filename": f"{name}_{kind}.jsonl",
            "bytes": int(size or 0),
            "created_at": now,
            "ready": 1,
            "batch": name,
            "kind": kind,
        }
        await connection.execute(insert(files), row)
        return str(row["id"])
