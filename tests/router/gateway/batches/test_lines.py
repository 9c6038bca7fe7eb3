"""Lines and who has them: each is one runner's, and has one result."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, insert, select

from router.gateway.batches import lines
from router.gateway.batches.batches import Batches
from router.gateway.batches.database import FILE, Database, StoreLost
from router.gateway.batches.files import Files
from router.gateway.batches.lines import LEASE_S, Result, Waiting
from router.gateway.batches.tables import Line, Status, metadata
from router.gateway.batches.tables import lines as table
from router.settings.base import BadSettings
from tests.router.gateway.batches.stores import NOTHING, opened

COUNT = 20


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(tmp_path) as found:
        yield found


async def batch(database: Database) -> str:
    """One whose lines wait."""
    store, files = Batches(database), Files(database)
    file = await files.begin("", "in.jsonl")
    await files.finish(file, "", "batch", 0, None)
    name: str = (await store.create("", "", "/v1/completions", file, ("24h", 86_400.0), None)).id
    rows = [
        {"batch": name, "number": k + 1, "custom_id": f"id-{k}", "state": Line.WAITING, **NOTHING}
        for k in range(COUNT)
    ]
    async with database.write() as connection:
        assert await store.own(connection, name, Status.VALIDATING, "one")
        await connection.execute(insert(table), rows)
    await store.checked(name, "one", COUNT, "m", [])
    return name


async def waiting(database: Database, name: str) -> list[Waiting]:
    async with database.read() as connection:
        return await lines.waiting(connection, name, 0.0, 0)


def result(name: str, number: int, text: bytes) -> Result:
    return Result(name, number, Line.DONE, text)


async def test_a_line_is_claimed_once_and_only_its_owner_records_it(database: Database) -> None:
    name = await batch(database)
    all_of_it = await waiting(database, name)
    async with database.write() as connection:
        assert len(await lines.claim(connection, "one", all_of_it[:12])) == 12
        got = await lines.claim(connection, "two", all_of_it[8:])
    assert got == {(name, k): f"id-{k - 1}" for k in range(13, COUNT + 1)}
    for owner in ("two", "one", "one"):  # not his; his; and then no more
        async with database.write() as connection:
            await lines.record(connection, owner, [result(name, 1, owner.encode())])
    async with database.read() as connection:
        asked = select(table.c.result, table.c.state, table.c.owner).where(table.c.number == 1)
        assert (await connection.execute(asked)).one() == (b"one", Line.DONE, None)
        counts = (await lines.count(connection, [name]))[name]
    assert (counts.waiting, counts.running, counts.done) == (0, COUNT - 1, 1)


async def test_who_is_not_heard_of_loses_its_lines_and_its_late_results(
    database: Database,
) -> None:
    name = await batch(database)
    all_of_it = await waiting(database, name)
    async with database.write() as connection:
        await lines.join(connection, "dead", 0.0)
        await lines.join(connection, "living", LEASE_S)
        await lines.claim(connection, "dead", all_of_it[:5])
        await lines.claim(connection, "living", all_of_it[5:8])
        assert await lines.take_over(connection, LEASE_S - 1) == 0
        assert await lines.take_over(connection, LEASE_S) == 5
        assert not await lines.beat(connection, "dead", LEASE_S)
        assert await lines.beat(connection, "living", LEASE_S + 1)
        assert len(await lines.claim(connection, "living", all_of_it[:5])) == 5
        await lines.record(connection, "dead", [result(name, 1, b"late")])
        await lines.record(connection, "living", [result(name, 1, b"in time")])
        assert len(await lines.held(connection, "living")) == 7
        asked = select(table.c.result).where(table.c.number == 1)
        assert (await connection.execute(asked)).scalar() == b"in time"


async def test_a_clock_that_is_set_back_keeps_nothing_for_the_dead(database: Database) -> None:
    name, back_s = await batch(database), 86_400.0
    all_of_it = await waiting(database, name)
    async with database.write() as connection:
        for owner, some in (("dead", all_of_it[:5]), ("living", all_of_it[5:8])):
            await lines.join(connection, owner, back_s)
            await lines.claim(connection, owner, some)
        assert await lines.take_over(connection, back_s - LEASE_S / 2) == 0  # it is no news
        assert await lines.beat(connection, "living", 0.0)
        assert await lines.take_over(connection, 0.0) == 5
        assert len(await lines.held(connection, "living")) == 3


async def test_nobody_seen_late_keeps_what_it_has(database: Database) -> None:
    async with database.write() as connection:
        await lines.join(connection, "one", 0.0)
        assert await lines.beat(connection, "one", 100 * LEASE_S)


async def test_who_leaves_gives_back_all_and_part_can_be_given_back(database: Database) -> None:
    name = await batch(database)
    all_of_it = await waiting(database, name)
    async with database.write() as connection:
        await lines.claim(connection, "one", all_of_it)
        await lines.give_back(connection, "one", [(name, 1), (name, 2)])
        await lines.give_back(connection, "two", [(name, 3)])  # it is not his
    assert [one.number for one in await waiting(database, name)] == [1, 2]
    async with database.write() as connection:
        await lines.leave(connection, "one")
    assert await waiting(database, name) == all_of_it


async def test_of_a_batch_that_is_cancelled_nothing_is_claimed(database: Database) -> None:
    name = await batch(database)
    await Batches(database).cancel(name, "")
    async with database.write() as connection:
        assert await lines.claim(connection, "one", await waiting(database, name)) == {}


async def test_the_migrations_lead_to_the_tables(database: Database, tmp_path: Path) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
    again = Database(tmp_path, None)  # another process of the gateway
    await again.open()
    await again.close()


async def test_a_database_of_a_later_version_is_refused(database: Database, tmp_path: Path) -> None:
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    again = Database(tmp_path, None)
    with pytest.raises(BadSettings, match="of a later version"):
        await again.open()
    await again.close()


async def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for url in ("sqlite:///a", "mysql://a", "::"):
        with pytest.raises(BadSettings, match="database: "):
            Database(None, url)
    (tmp_path / "file").touch()
    with pytest.raises(BadSettings, match=r"data: .*file"):
        Database(tmp_path / "file", None)
    database = Database(tmp_path, None)
    with pytest.raises(StoreLost):
        async with database.read():
            pass
    (tmp_path / FILE).write_bytes(b"no database " * 1000)
    with pytest.raises(StoreLost) as told:
        await database.open()
    await database.close()
    assert "not a database" in told.value.why


async def test_counts_are_those_of_the_table(database: Database) -> None:
    name = await batch(database)
    async with database.read() as connection:
        total = (await connection.execute(select(func.count()).select_from(table))).scalar()
        counts = await lines.count(connection, [name, "batch_none"])
    assert counts[name].left == total == COUNT
    assert counts["batch_none"].left == 0
