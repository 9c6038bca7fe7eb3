"""Files as they are read: a piece at a time, whatever is in them, and never a part as the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from router.gateway.batches import files as module
from router.gateway.batches.batches import Batches
from router.gateway.batches.database import Database
from router.gateway.batches.files import Files, Found
from router.gateway.batches.tables import Line, Status, batches, lines
from router.http.errors import RequestError
from tests.router.gateway.batches.stores import NOTHING, opened


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(tmp_path) as found:
        yield found


async def answers(database: Database, sizes: list[int]) -> Found:
    """The output file of a batch whose answers are so long."""
    files, store = Files(database), Batches(database)
    file = await files.begin("t", "in.jsonl")
    await files.finish(file, "t", "batch", 0, None)
    name = (await store.create("t", "", "/v1/completions", file, ("1h", 3600.0), None)).id
    row = {**NOTHING, "batch": name, "state": Line.DONE}
    rows = [
        row | {"number": k, "custom_id": f"{k}", "result": b"x" * size}
        for k, size in enumerate(sizes)
    ]
    async with database.write() as connection:
        await connection.execute(insert(lines), rows)
        await connection.execute(update(batches).values(status=Status.FINALIZING))
    batch, _ = await store.get(name, "t")
    async with database.write() as connection:
        await store.end(connection, batch, 0.0)
    return await files.get((await store.get(name, "t"))[0].output_file, "t")


async def test_answers_of_any_size_are_read_a_piece_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 1000)
    sizes = [1, 999, 1, 5000, 1, 1000, *[3] * 1000]
    found = await answers(database, sizes)
    pieces = [len(piece) async for piece in Files(database).content(found)]
    assert pieces[:5] == [1000, 1, 5000, 1, 1000]
    assert max(pieces[5:]) <= 3 * module.PAGE
    assert sum(pieces) == sum(sizes) == found.bytes


async def test_what_is_deleted_while_it_is_read_is_not_told_as_if_that_were_all(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 10)
    files = Files(database)
    sent = await files.begin("t", "in.jsonl")
    for k in range(2):
        await files.append(sent, k, b"x" * 10)
    for found in (
        await answers(database, [10] * 5),
        await files.finish(sent, "t", "batch", 20, None),
    ):
        content = files.content(found)
        assert len(await anext(content)) == 10
        await files.delete(found.id, "t")
        with pytest.raises(RequestError, match="no file") as told:
            await anext(content)
        assert told.value.status == 404
