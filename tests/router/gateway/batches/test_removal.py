"""What is old goes, whole and alone; and nobody stores more than its tenant may. In both stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, update

from router.gateway.batches import removal
from router.gateway.batches.batches import Batches
from router.gateway.batches.database import Database
from router.gateway.batches.files import Files
from router.gateway.batches.removal import UPLOAD_S, Removal
from router.gateway.batches.tables import Line, Status, batches, chunks, files, lines
from router.http.errors import RequestError
from tests.postgres import Postgres, postgres
from tests.router.gateway.batches.stores import NOTHING, opened

pytestmark = pytest.mark.anyio  # here already, as the fixtures are in several forms
DAY_S = 86_400.0
COUNT = 7


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    name: str = request.getfixturevalue("server").database()
    return name


@pytest.fixture
async def database(url: str | None, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(None if url else tmp_path, url) as found:
        yield found


async def sent(database: Database, age_s: float, lasts_s: float | None = None) -> str:
    """A file of two chunks, sent so long ago."""
    store = Files(database)
    name = await store.begin("t", "in.jsonl")
    for k in range(2):
        await store.append(name, k, b"x")
    await store.finish(name, "t", "batch", 2, lasts_s)
    await _age(database, name, age_s)
    return name


async def _age(database: Database, name: str, age_s: float) -> None:
    async with database.write() as connection:
        older = update(files).where(files.c.id == name)
        await connection.execute(older.values(created_at=files.c.created_at - age_s))


async def ended(database: Database, file: str, age_s: float) -> str:
    """A batch that ended so long ago, with an answer for each line."""
    store = Batches(database)
    made = await store.create("t", "", "/v1/completions", file, ("24h", DAY_S), None)
    row = {**NOTHING, "batch": made.id, "custom_id": "a", "state": Line.DONE, "result": b"{}\n"}
    async with database.write() as connection:
        await connection.execute(insert(lines), [row | {"number": k} for k in range(COUNT)])
        now = await database.now(connection)
        await connection.execute(
            update(batches).where(batches.c.id == made.id).values(status=Status.FINALIZING)
        )
    found, _ = await store.get(made.id, "t")
    async with database.write() as connection:
        await store.end(connection, found, now - age_s)
    return str(made.id)


async def left(database: Database) -> dict[str, int]:
    """Rows of each table."""
    async with database.read() as connection:
        return {
            table.name: (
                await connection.execute(select(func.count()).select_from(table))
            ).scalar_one()
            for table in (batches, lines, files, chunks)
        }


async def test_a_batch_goes_whole_when_its_time_is_over_and_one_that_ended_later_stays(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "AT_ONCE", 3)  # a part at a time
    shared, own = await sent(database, 50 * DAY_S), await sent(database, 50 * DAY_S)
    old = await ended(database, shared, 31 * DAY_S)
    await ended(database, own, 31 * DAY_S)
    young = await ended(database, shared, 29 * DAY_S)
    await Removal(database, 0.0).run()  # for good
    assert await left(database) == {"batches": 3, "lines": 3 * COUNT, "files": 5, "chunks": 4}
    await Removal(database, 30 * DAY_S).run()
    assert await left(database) == {"batches": 1, "lines": COUNT, "files": 2, "chunks": 2}
    found, _ = await Batches(database).get(young, "t")
    answers = await Files(database).get(found.output_file, "t")
    content = b"".join([piece async for piece in Files(database).content(answers)])
    assert content == b"{}\n" * COUNT
    assert (await Files(database).get(shared, "t")).bytes == 2  # it has it as its input still
    with pytest.raises(RequestError, match="no batch"):
        await Batches(database).get(old, "t")


async def test_an_open_batch_keeps_its_file_however_old(database: Database) -> None:
    name = await sent(database, 90 * DAY_S)
    said = await sent(database, 0.0, lasts_s=-1.0)  # its client's time for it is over
    for file in (name, said):
        await Batches(database).create("t", "", "/v1/completions", file, ("24h", DAY_S), None)
    await Removal(database, 30 * DAY_S).run()
    assert await left(database) == {"batches": 2, "lines": 0, "files": 2, "chunks": 4}


async def test_files_that_no_batch_has_go_when_their_clients_said_or_as_batches_do(
    database: Database,
) -> None:
    kept = {await sent(database, 29 * DAY_S), await sent(database, 31 * DAY_S, lasts_s=DAY_S)}
    for age_s, lasts_s in ((31 * DAY_S, None), (0.0, -1.0)):
        await sent(database, age_s, lasts_s)
    broken = await Files(database).begin("t", "a")
    await Files(database).append(broken, 0, b"x")
    await _age(database, broken, UPLOAD_S + 1)
    kept.add(await Files(database).begin("t", "still being sent"))
    await Removal(database, 30 * DAY_S).run()
    async with database.read() as connection:
        found = set((await connection.execute(select(files.c.id))).scalars())
    assert found == kept


async def test_gateways_that_remove_at_once_remove_all_of_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "AT_ONCE", 2)
    for _ in range(4):
        await ended(database, await sent(database, 50 * DAY_S), 31 * DAY_S)
    for _ in range(2):  # what one is busy with the others leave, and do not wait for
        await asyncio.gather(*(Removal(database, DAY_S).run() for _ in range(3)))
    assert set((await left(database)).values()) == {0}


async def test_a_tenant_stores_no_more_than_it_may(database: Database) -> None:
    store = Files(database, most_bytes=10)
    await ended(database, await sent(database, 0.0), 0.0)  # 2 bytes, and answers
    answers = 3 * COUNT
    with pytest.raises(RequestError, match=f"{2 + answers} of 10 bytes") as refused:
        await store.check_quota("t", 1)
    assert (refused.value.status, refused.value.code) == (413, "storage_quota_exceeded")
    await store.check_quota("other", 10)
    name = await store.begin("other", "in.jsonl")
    await store.append(name, 0, b"x" * 11)
    with pytest.raises(RequestError):
        await store.finish(name, "other", "batch", 11, None)
    await store.finish(name, "other", "batch", 10, None)
    with pytest.raises(RequestError):
        await store.check_quota("other", 1)
    await store.delete(name, "other")
    await store.check_quota("other", 10)
    await Files(database).check_quota("t", 1 << 40)  # no limit
