"""A database of batches for a test, and what a row of `lines` must have beside what is tested."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from router.gateway.batches.database import Database

NOTHING: Mapping[str, int] = dict.fromkeys(
    (
        *("offset", "length", "prefix", "tokens"),
        *("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"),
    ),
    0,
)


@asynccontextmanager
async def opened(folder: Path | None, url: str | None = None) -> AsyncIterator[Database]:
    """SQLite in a folder, or PostgreSQL by its URL, for as long as the test takes."""
    database = Database(folder, url)
    await database.open()
    yield database
    await database.close()
