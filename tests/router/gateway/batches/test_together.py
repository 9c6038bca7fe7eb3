"""Gateways that do things at the same moment, in PostgreSQL: one waits for the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from router.gateway.batches import lines
from router.gateway.batches.batches import Batches
from router.gateway.batches.database import Database
from router.gateway.batches.files import Files
from router.gateway.batches.lines import Result, Waiting
from router.gateway.batches.tables import Line, Status, batches, files
from router.gateway.batches.tables import lines as table
from router.http.errors import RequestError
from tests.postgres import Postgres, postgres
from tests.router.gateway.batches.stores import NOTHING, opened

pytestmark = pytest.mark.anyio  # here already, as the fixtures are in several forms


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as found:
        yield found


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with opened(None, server.database()) as found:
        yield found


async def batch(database: Database) -> str:
    """One with a line that waits."""
    sent, store = Files(database), Batches(database)
    file = await sent.begin("t", "in.jsonl")
    await sent.finish(file, "t", "batch", 0, None)
    made = await store.create("t", "", "/v1/completions", file, ("1h", 3600.0), None)
    row = {**NOTHING, "batch": made.id, "number": 1, "custom_id": "a", "state": Line.WAITING}
    async with database.write() as connection:
        await connection.execute(insert(table), row)
        await connection.execute(update(batches).values(status=Status.IN_PROGRESS))
    return str(made.id)


async def begun(doing: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Somebody's that is to wait; if it did not, it would have been done long since."""
    task = asyncio.create_task(doing)
    await asyncio.wait({task}, timeout=0.3)
    assert not task.done()
    return task


async def test_no_batch_is_cancelled_while_a_line_of_it_is_claimed(database: Database) -> None:
    name, store = await batch(database), Batches(database)
    async with database.write() as connection:
        assert await lines.claim(connection, "one", [Waiting(name, 1, 0, 0, 0, 0, 0.0)])
        task = await begun(store.cancel(name, "t"))
    await task
    found, counts = await store.get(name, "t")
    assert (found.status, counts.running) == (Status.CANCELLING, 1)  # whoever has it is waited for


async def test_a_result_that_comes_as_its_batch_expires_stays(database: Database) -> None:
    name, store = await batch(database), Batches(database)
    async with database.write() as connection:
        await lines.claim(connection, "one", [Waiting(name, 1, 0, 0, 0, 0, 0.0)])
    found, _ = await store.get(name, "t")
    async with database.write() as connection:
        await lines.record(connection, "one", [Result(name, 1, Line.DONE, b"good")])
        task = await begun(store.expire(found))
    await task
    async with database.read() as connection:
        assert (await connection.execute(select(table.c.result))).scalar() == b"good"


async def test_files_that_end_at_once_do_not_go_beyond_what_a_tenant_may_store(
    database: Database,
) -> None:
    store = Files(database, most_bytes=10)
    names = [await store.begin("t", "in.jsonl") for _ in range(6)]
    ends = (store.finish(name, "t", "batch", 6, None) for name in names)
    told = await asyncio.gather(*ends, return_exceptions=True)
    assert sum(isinstance(one, RequestError) for one in told) == len(names) - 1
    await store.finish(await store.begin("other", "in.jsonl"), "other", "batch", 6, None)


async def test_no_batch_is_made_of_a_file_that_is_just_deleted(database: Database) -> None:
    name, store = await batch(database), Batches(database)
    found, _ = await store.get(name, "t")
    mine = files.c.id == found.input_file
    async with database.write() as connection:
        await connection.execute(select(files).where(mine).with_for_update())
        asked = "t", "", "/v1/completions", found.input_file, ("1h", 3600.0), None
        task = await begun(store.create(*asked))
        await connection.execute(delete(files).where(mine))
    with pytest.raises(RequestError, match="no file"):
        await task
