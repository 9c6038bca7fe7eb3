"""A database of batches for a test, and what a row of `lines` must have beside what is tested."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from router.gateway.batches.database import Database
from router.gateway.batches.planned import Planned, Seen
from solver.cost.profiles import PROFILES
from solver.routing.kinds import Length
from solver.routing.problem import WorkerView

NOTHING: Mapping[str, int] = dict.fromkeys(
    (
        *("offset", "length", "prefix", "tokens"),
        *("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"),
    ),
    0,
)


def ordered() -> Planned[str]:
    """The order of lines of a fleet of one worker with room for all of them."""
    view = WorkerView(PROFILES["llama-65b-ascend"].cost, 64, 0, 0.0, 0.0, None)
    return Planned(lambda: Seen(["one"], [view], [{"m"}]), lambda *_: Length(10.0), lambda: 0)


@asynccontextmanager
async def opened(folder: Path | None, url: str | None = None) -> AsyncIterator[Database]:
    """SQLite in a folder, or PostgreSQL by its URL, for as long as the test takes."""
    database = Database(folder, url)
    await database.open()
    yield database
    await database.close()
