"""What takes time with a batch before its lines are run, and after: one job each, by its owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from router.gateway.batches.batches import MOST_ERRORS, Batches
from router.gateway.batches.checking import Checked, LineCheck, Raw, filled
from router.gateway.batches.database import Database
from router.gateway.batches.files import Files, Found
from router.gateway.batches.lines import TOGETHER
from router.gateway.batches.results import Problem, failed_line
from router.gateway.batches.tables import Line
from router.http.errors import RequestError
from router.http.shorten import SMALL, shorten
from router.observe.metrics import GatewayMetrics

# Of lines looked at in one go in a thread, bytes: while it is in one line, the loop waits for it.
SLICE = 128 << 10


class Jobs:
    """See the module."""

    def __init__(
        self, database: Database, files: Files, batches: Batches, metrics: GatewayMetrics
    ) -> None:
        self._database, self._files, self._batches = database, files, batches
        self._metrics = metrics

    async def check(self, batch: Found, owner: str) -> None:
        """Look at all of its lines."""
        if not await self._batches.restart(batch.id, owner):
            return
        looks, total = LineCheck(batch.id, batch.endpoint), 0
        errors: list[dict[str, Any]] = []
        async for slice_ in slices(self._lines(batch)):
            found = await look(looks, batch.id, slice_)
            if not await self._batches.add(batch.id, owner, [one.row for one in found]):
                return
            total += len(found)
            errors += [_told(one) for one in found if one.problem][: MOST_ERRORS - len(errors)]
            bad = sum(one.problem is not None for one in found)
            self._metrics.batch_lines.labels("waiting").inc(len(found) - bad)
            self._metrics.batch_lines.labels("failed").inc(bad)
        if not total:
            raise RequestError("The file has no lines: it must have a request in each.")
        model = looks.models[0] if looks.models else ""
        await self._batches.checked(batch.id, owner, total, model, errors)

    async def finish(self, batch: Found) -> None:
        """Give what is left of an expired one its error, and end it."""
        if batch.expired_at is not None:
            n = TOGETHER
            while n == TOGETHER:
                n = await self._batches.expire(batch)
                self._metrics.batch_lines.labels("expired").inc(n)
        async with self._database.write() as connection:
            await self._batches.end(connection, batch, await self._database.now(connection))

    async def _lines(self, batch: Found) -> AsyncIterator[Raw]:
        """Those of its file that are not blank."""
        found = await self._files.get(batch.input_file, batch.tenant)
        async for line in lines_of(self._files.content(found)):
            yield line


async def lines_of(content: AsyncIterator[bytes]) -> AsyncIterator[Raw]:
    """The lines of a file that are not blank, however its content comes."""
    number, offset, held = 1, 0, list[bytes]()  # of a line that has not ended
    async for data in content:
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            text = b"".join((*held, whole))
            for line in filled(text, number, offset):
                yield line
            number, offset = number + text.count(b"\n") + 1, offset + len(text) + 1
            held = []
        held.append(rest)
    for line in filled(b"".join(held), number, offset):
        yield line


async def slices(lines: AsyncIterator[Raw]) -> AsyncIterator[list[Raw]]:
    """Some together, a large one alone."""
    held: list[Raw] = []
    size = 0
    async for line in lines:
        if held and (size + len(line[2]) > SLICE or len(held) == TOGETHER):
            yield held
            held, size = [], 0
        held.append(line)
        size += len(line[2])
    if held:
        yield held


async def look(looks: LineCheck, batch: str, slice_: list[Raw]) -> list[Checked]:
    """What is found of each."""
    if len(slice_) > 1 or len(slice_[0][2]) <= SMALL:
        return await asyncio.to_thread(
            lambda: [looks.check(number, at, len(raw), raw) for number, at, raw in slice_]
        )
    number, at, raw = slice_[0]
    try:
        short = (await shorten(raw)).body
    except RequestError as error:
        problem = Problem(error.code or "request_too_large", str(error))
        row = looks.check(number, at, len(raw), b"null").row
        told = failed_line(batch, number, None, problem)
        return [Checked(row | {"state": Line.FAILED, "result": told}, problem)]
    return [looks.check(number, at, len(raw), short)]


def _told(one: Checked) -> dict[str, Any]:
    """A line's problem as its batch tells it."""
    assert one.problem is not None
    return {
        "code": one.problem.code,
        "line": one.row["number"],
        "message": one.problem.message,
        "param": one.problem.param,
    }
