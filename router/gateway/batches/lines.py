"""Lines: who has which, and what has come of them.

Rules:
- a line is run by whoever has claimed it, and its result counts only as long as it still has it: so
  each has one result, whoever dies or is late;
- whoever runs lines is heard of every `BEAT_S`; who has not been for `LEASE_S` loses them to the
  first who looks, also when the clock has been set back meanwhile;
- of a batch that is not in progress nothing is claimed, and it stays in progress while somebody
  claims: so nothing of one that has ended is running.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router.gateway.batches.tables import USAGE, Line, Status, batches, lines, runners

BEAT_S = 2.0
# Three beats: one may be late, another one lost.
LEASE_S = 3 * BEAT_S
# Lines written, read or claimed at once: some milliseconds of a transaction.
TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Waiting:
    """A line that waits, as far as its place in the order goes.

    Attributes:
        batch, number: which; the number is that in its file, from 1.
        offset, length: where in its file it is, in bytes.
        prefix: the same for lines whose prompts begin alike; 0: like nobody else's.
        tokens: most output tokens that it asks for; 0: unlimited.
        expires_s: Unix time at which its batch ends.
        model, tenant: what it asks for, and for whom.
    """

    batch: str
    number: int
    offset: int
    length: int
    prefix: int
    tokens: int
    expires_s: float
    model: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What has come of a line: a line of the output or of the error file."""

    batch: str
    number: int
    state: Line
    text: bytes
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a batch's lines, by what has become of them."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    expired: int = 0

    @property
    def left(self) -> int:
        """Those without a result."""
        return self.waiting + self.running


async def beat(connection: AsyncConnection, owner: str, now: float) -> bool:
    """A runner lives; whether it still has what it has claimed, as nobody has seen it late."""
    known = update(runners).where(runners.c.id == owner)
    return bool((await connection.execute(known.values(until=now + LEASE_S))).rowcount)


async def join(connection: AsyncConnection, owner: str, now: float) -> None:
    """A new runner."""
    await connection.execute(insert(runners), {"id": owner, "until": now + LEASE_S})


async def take_over(connection: AsyncConnection, now: float) -> int:
    """Lines of those who have not been heard of wait again; how many."""
    # Nobody's lease is longer than one: what seems so was given before the clock was set back.
    lives = and_(runners.c.until > now, runners.c.until <= now + 2 * LEASE_S)
    living = select(runners.c.id).where(lives)
    lost = update(lines).where(lines.c.owner.is_not(None), lines.c.owner.not_in(living))
    found = (await connection.execute(lost.values(state=Line.WAITING, owner=None))).rowcount
    gone = update(batches).where(batches.c.owner.is_not(None), batches.c.owner.not_in(living))
    await connection.execute(gone.values(owner=None))
    await connection.execute(delete(runners).where(~lives))
    return found


async def leave(connection: AsyncConnection, owner: str) -> None:
    """A runner ends: all that it has waits again."""
    mine = update(lines).where(lines.c.owner == owner)
    await connection.execute(mine.values(state=Line.WAITING, owner=None))
    await connection.execute(update(batches).where(batches.c.owner == owner).values(owner=None))
    await connection.execute(delete(runners).where(runners.c.id == owner))


async def claim(
    connection: AsyncConnection, owner: str, wanted: Sequence[Waiting]
) -> dict[tuple[str, int], str]:
    """Those of these that nobody else has are the owner's from now on; their custom ids."""
    got: dict[tuple[str, int], str] = {}
    for batch in dict.fromkeys(one.batch for one in wanted):
        numbers = [one.number for one in wanted if one.batch == batch]
        runs = select(batches.c.id).where(
            batches.c.id == batch, batches.c.status == Status.IN_PROGRESS
        )
        if (await connection.execute(runs.with_for_update(read=True))).scalar() is None:
            continue
        free = (
            select(lines.c.number)
            .where(lines.c.batch == batch, lines.c.number.in_(numbers))
            .where(lines.c.state == Line.WAITING)
            .with_for_update(skip_locked=True)  # others are claiming those; SQLite has no such
        )
        mine = (await connection.execute(free)).scalars().all()
        if not mine:
            continue
        taken = (
            update(lines)
            .where(lines.c.batch == batch, lines.c.number.in_(mine))
            .values(state=Line.RUNNING, owner=owner)
            .returning(lines.c.number, lines.c.custom_id)
        )
        rows = await connection.execute(taken)
        got |= {(batch, number): custom_id for number, custom_id in rows}
    return got


async def held(connection: AsyncConnection, owner: str) -> set[tuple[str, int]]:
    """Batches and numbers of all lines that the owner has."""
    asked = select(lines.c.batch, lines.c.number).where(lines.c.owner == owner)
    return {(batch, number) for batch, number in await connection.execute(asked)}


async def give_back(
    connection: AsyncConnection, owner: str, places: Collection[tuple[str, int]]
) -> None:
    """The owner does not run these."""
    mine = (
        update(lines)
        .where(lines.c.batch == bindparam("of"), lines.c.number == bindparam("at"))
        .where(lines.c.owner == owner)
        .values(state=Line.WAITING, owner=None)
    )
    if places:
        await connection.execute(mine, [{"of": batch, "at": at} for batch, at in places])


async def record(connection: AsyncConnection, owner: str, results: Sequence[Result]) -> None:
    """What has come of lines that the owner has; of those that it has lost, nothing."""
    if not results:
        return
    values: dict[str, Any] = {
        name: bindparam(f"new_{name}") for name in ("state", "result", *USAGE)
    }
    written = (
        update(lines)
        .where(lines.c.batch == bindparam("of"), lines.c.number == bindparam("at"))
        .where(lines.c.owner == owner, lines.c.state == Line.RUNNING)
        .values(owner=None, **values)
    )
    rows = [
        {
            "of": one.batch,
            "at": one.number,
            "new_state": one.state,
            "new_result": one.text,
            **{f"new_{name}": getattr(one, name) for name in USAGE},
        }
        for one in results
    ]
    await connection.execute(written, rows)


async def waiting(
    connection: AsyncConnection,
    batch: str,
    expires_s: float,
    after: int,
    model: str = "",
    tenant: str = "",
) -> list[Waiting]:
    """The next lines of a batch that wait, by their numbers; at most `TOGETHER`.

    `model` is that of those that have none of their own.
    """
    columns = (lines.c.number, lines.c.offset, lines.c.length, lines.c.prefix, lines.c.tokens)
    asked = (
        select(*columns, lines.c.model)
        .where(lines.c.batch == batch, lines.c.state == Line.WAITING, lines.c.number > after)
        .order_by(lines.c.number)
        .limit(TOGETHER)
    )
    return [
        Waiting(batch, *row[:5], expires_s, row.model or model, tenant)
        for row in await connection.execute(asked)
    ]


async def count(connection: AsyncConnection, names: Sequence[str]) -> dict[str, Counts]:
    """Of each of these batches."""
    asked = (
        select(lines.c.batch, lines.c.state, func.count())
        .where(lines.c.batch.in_(names))
        .group_by(lines.c.batch, lines.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for batch, state, n in await connection.execute(asked):
        found.setdefault(batch, {})[Line(state).name.lower()] = n
    return {name: Counts(**found.get(name, {})) for name in names}
