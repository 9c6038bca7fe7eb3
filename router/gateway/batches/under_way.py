"""Lines that are being run by this process, and the results that are not written down yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from router.gateway.batches.checking import body_of, refused
from router.gateway.batches.database import StoreLost
from router.gateway.batches.files import Files, Found
from router.gateway.batches.inside import Asked, Endpoint, ask
from router.gateway.batches.lines import Result, Waiting
from router.gateway.batches.planned import Planned
from router.gateway.batches.results import answered
from router.gateway.planning.ticket import NEAR
from router.http.errors import RequestError

log = logging.getLogger(__name__)

# Before a line is read again from a database that is lost, seconds.
PAUSE_S = 0.5
Place = tuple[str, int]


def end(task: asyncio.Task[None]) -> None:
    """Cancel it once: whoever is told again does not end what it has begun in good order."""
    if not task.cancelling():
        task.cancel()


class UnderWay:
    """See the module; `ended` hears of each end, `lost` of a database that is lost meanwhile.

    Attributes:
        running: by batch and number.
        results: what has come of those that have ended; whoever writes them down takes them away.
    """

    def __init__(
        self,
        files: Files,
        order: Planned[Any],
        endpoint: Callable[[str], Endpoint],
        rights: Callable[[str, str], dict[str, Any]],
        ended: Callable[[], None],
        lost: Callable[[Exception], None],
    ) -> None:
        self._files, self._order = files, order
        self._endpoint, self._rights = endpoint, rights
        self._ended, self._lost = ended, lost
        self.running: dict[Place, asyncio.Task[None]] = {}
        self.results: list[Result] = []

    def begin(self, line: Waiting, custom_id: str, batch: Found) -> None:
        """Run one."""
        place = line.batch, line.number
        task = self.running[place] = asyncio.create_task(self._run(line, custom_id, batch))
        task.add_done_callback(partial(self._end, line))

    def places(self) -> set[Place]:
        """Of all that are its own: those that run, and those that have ended."""
        return {*self.running, *((one.batch, one.number) for one in self.results)}

    def drop(self, batch: str) -> None:
        """End those of a batch, without a result."""
        for place, task in self.running.items():
            if place[0] == batch:
                end(task)

    def _end(self, line: Waiting, task: asyncio.Task[None]) -> None:
        self._order.lost(line)  # if it was cancelled: it has not ended
        place = line.batch, line.number
        if self.running.get(place) is task:
            del self.running[place]
        self._ended()

    async def _run(self, line: Waiting, custom_id: str, batch: Found) -> None:
        """One line, to its result."""
        try:
            result = await self._result(line, custom_id, batch)
        except Exception:
            log.exception("a line cannot be run", extra={"batch": batch.id, "line": line.number})
            error = RequestError("Internal error; see the gateway's log.", code="internal_error")
            result = refused(line.batch, line.number, custom_id, error)
        self._order.ended(line, result.input_tokens, result.output_tokens)
        self.results.append(result)

    async def _result(self, line: Waiting, custom_id: str, batch: Found) -> Result:
        name, tenant = f"{line.batch}.{line.number}", batch.tenant
        try:
            body = body_of(await self._raw(line, batch))
            scope = self._rights(batch.key, tenant) | {NEAR: self._order.worker(line)}
            asked = Asked(name, batch.endpoint, body, tenant, scope)
            answer = await ask(self._endpoint(batch.endpoint), asked)
        except RequestError as error:
            return refused(line.batch, line.number, custom_id, error)
        body = bytes(answer.body)
        return answered(line.batch, line.number, custom_id, answer.status, name, body, answer.told)

    async def _raw(self, line: Waiting, batch: Found) -> bytes:
        while True:
            try:
                return await self._files.read(batch.input_file, line.offset, line.length)
            except StoreLost as error:
                self._lost(error)
                await asyncio.sleep(PAUSE_S)
