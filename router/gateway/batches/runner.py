"""Runs the lines that wait, of all batches, as many at once as workers can hold.

Rules:
- a line is claimed before it is run, and what has come of it is written down with the next claims,
  in one transaction: of results that end meanwhile, the next one takes all together;
- no more lines are under way than `room` says, and of all others only their places are in memory;
- if the database is lost, or takes nothing, nothing new is begun; what runs ends, and is written
  down once it goes on: that is one line of the log, and batches tell it (`paused`);
- whoever stops gives back what it has; whoever dies is not heard of, and others take it over;
- a defect in one batch stops no other, and no gateway.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from router.gateway.batches import lines
from router.gateway.batches.batches import Batches
from router.gateway.batches.database import Database, StoreLost
from router.gateway.batches.files import Files, Found
from router.gateway.batches.inside import Endpoint
from router.gateway.batches.jobs import Jobs
from router.gateway.batches.lines import BEAT_S, Counts
from router.gateway.batches.planned import Planned
from router.gateway.batches.tables import Line, Status
from router.gateway.batches.under_way import UnderWay, end
from router.http.drain import Drain
from router.http.errors import RequestError
from router.observe.metrics import GatewayMetrics
from router.settings.base import BadSettings

log = logging.getLogger(__name__)

# How often it looks at what other processes have done: made, cancelled, ended.
LOOK_S = 0.5
# Before the next try with a database that is lost, seconds: twice as long each time.
PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
# Pages of lines that wait, read in one look: it is not to last.
PAGES = 10
# Lines claimed in one transaction: a database takes only so many parameters.
AT_ONCE = 2000


class Runner:
    """See the module.

    Attributes:
        paused: why it does nothing now, in words for clients; None: it does.
        open, counts: batches in which something is to be done, and how their lines are, as of the
            last look.
    """

    def __init__(
        self,
        database: Database,
        files: Files,
        batches: Batches,
        order: Planned[Any],
        endpoint: Callable[[str], Endpoint],
        rights: Callable[[str, str], dict[str, Any]],
        room: Callable[[], int],
        drain: Drain,
        metrics: GatewayMetrics,
    ) -> None:
        self._database, self._files, self._batches = database, files, batches
        self._order, self._room = order, room
        self._drain, self._metrics = drain, metrics
        self._work = Jobs(database, files, batches, metrics)
        self._id = ""
        self._beat_s = self._looked_s = 0.0
        self._stopping = self._over = False
        self._unsure = False  # whether what it has claimed last is its own: the answer was lost
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._under_way = UnderWay(files, order, endpoint, rights, self._wake.set, self._pause)
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._read_to: dict[str, int] = {}  # of lines that wait, up to which number they are known
        self.open: dict[str, Found] = {}
        self.counts: dict[str, Counts] = {}
        self.paused: str | None = None

    def idle(self) -> str | None:
        """Why nothing of any batch is begun now, in words for clients; None: something is."""
        return self.paused or (None if self._room() else "No worker is up.")

    def late(self) -> int:
        """Batches that are planned to end after their time."""
        return sum("late_s" in self._order.outlook(batch) for batch in self.open)

    def wake(self) -> None:
        """Something may be to do: look at once."""
        self._looked_s = 0.0
        self._wake.set()

    async def start(self) -> None:
        """Begin; a database that cannot be reached is waited for beside all else."""
        try:
            await self._database.open()
        except StoreLost as error:
            self._pause(error)
        self._task = asyncio.create_task(self._forever())

    async def _forever(self) -> None:
        pause_s = PAUSE_S
        while not self._over:
            try:
                await self._turn()
            except Exception as error:
                self._pause(error)
                await asyncio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                continue
            pause_s = PAUSE_S
            if self.paused is not None:
                self.paused = None
                self._metrics.batch_paused.set(0)
                log.info("batches go on")
            left_s = self._looked_s + LOOK_S - time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._wake.wait()

    def _pause(self, error: Exception) -> None:
        if self.paused is None:
            if isinstance(error, StoreLost | BadSettings):
                why = error.why if isinstance(error, StoreLost) else str(error)
                log.warning("batches pause", extra={"why": why})
            else:
                log.error("batches pause, by a defect", exc_info=error)
            self._metrics.batch_paused.set(1)
        known = isinstance(error, StoreLost)
        self.paused = str(error) if known else "This gateway cannot run them; its log says why."

    async def _turn(self) -> None:
        self._wake.clear()
        if not self._database.opened:
            await self._database.open()
        if time.monotonic() - self._looked_s >= LOOK_S:
            self._looked_s = time.monotonic()
            await self._look()
        await self._pump()

    async def _look(self) -> None:
        """What is to be done of which batch."""
        async with self._database.read() as connection:
            now = await self._database.now(connection)
            rows = await self._batches.open(connection)
            self.counts = await lines.count(connection, [row.id for row in rows])
        self.open = {row.id: row for row in rows}
        for batch in {place[0] for place in self._under_way.running} | set(self._read_to):
            if batch not in self.open or self.open[batch].status != Status.IN_PROGRESS:
                self._drop(batch)
        if not rows:
            return
        await self._beat()
        for row in rows:
            await self._step(row, self.counts[row.id], now)

    async def _beat(self) -> None:
        """Say that this runner lives, and look for others' lines that do not."""
        if time.monotonic() - self._beat_s < BEAT_S and not self._unsure:
            return
        name = self._id
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            known = await lines.beat(connection, name, now)
            if not known:
                name = f"runner-{secrets.token_hex(8)}"
                await lines.join(connection, name, now)
            elif self._unsure:
                left = await lines.held(connection, name) - self._under_way.places()
                await lines.give_back(connection, name, left)
            lost = await lines.take_over(connection, now)
        if self._id and not known:  # it was late, and others may have what it had
            for batch in {place[0] for place in self._under_way.running}:
                self._drop(batch)
            self._under_way.results.clear()
        if lost:
            log.info("lines of a gateway that is gone wait again", extra={"lines": lost})
        self._id, self._beat_s, self._unsure = name, time.monotonic(), False

    async def _step(self, batch: Found, counts: Counts, now: float) -> None:
        if batch.id in self._jobs:
            return
        if batch.status == Status.IN_PROGRESS and counts.left and now < batch.expires_at:
            await self._read(batch, counts)
        elif batch.status == Status.IN_PROGRESS:
            async with self._database.write() as connection:
                expired = counts.left > 0
                await self._batches.finalize(connection, batch, now, expired=expired)
            self.wake()
        elif batch.status == Status.CANCELLING:
            await self._cancel(batch, counts, now)
        elif await self._owns(batch):
            what = self._work.check if batch.status == Status.VALIDATING else self._work.finish
            job = asyncio.create_task(self._job(partial(what, batch), batch))
            self._jobs[batch.id] = job

    async def _owns(self, batch: Found) -> bool:
        if batch.owner is not None:
            return bool(batch.owner == self._id)
        async with self._database.write() as connection:
            status = Status(batch.status)
            return await self._batches.own(connection, batch.id, status, self._id)

    async def _job(self, what: Callable[..., Any], batch: Found) -> None:
        try:
            try:
                await (what(self._id) if batch.status == Status.VALIDATING else what())
            except RequestError as error:  # its file is gone
                await self._batches.fail(batch, str(error))
        except StoreLost as error:
            self._pause(error)  # it is begun again, by whoever owns it then
        except Exception:
            log.exception("a batch cannot go on", extra={"batch": batch.id})
            await asyncio.sleep(LONGEST_PAUSE_S)
        finally:
            del self._jobs[batch.id]
            self.wake()

    async def _cancel(self, batch: Found, counts: Counts, now: float) -> None:
        """What runs here has been told to end; once nothing runs anywhere, it is over."""
        async with self._database.write() as connection:
            if counts.running:
                held = await lines.held(connection, self._id) - self._under_way.places()
                left = [place for place in held if place[0] == batch.id]
                await lines.give_back(connection, self._id, left)
            else:
                await self._batches.end(connection, batch, now)

    async def _read(self, batch: Found, counts: Counts) -> None:
        """Let the order know of lines that wait."""
        at = self._read_to.get(batch.id)
        if at is None or (at < 0 and counts.waiting and not self._order.waiting(batch.id)):
            at = 0
        for _ in range(PAGES):
            if at < 0:
                break
            async with self._database.read() as connection:
                found = await lines.waiting(
                    connection, batch.id, batch.expires_at, at, batch.model or "", batch.tenant
                )
            self._order.add(found)
            at = found[-1].number if len(found) == lines.TOGETHER else -1
        self._read_to[batch.id] = at
        if at >= 0:
            self.wake()

    def _drop(self, batch: str) -> None:
        """None of its lines is to be run here any more."""
        self._order.drop(batch)
        self._read_to.pop(batch, None)
        self._under_way.drop(batch)

    async def _pump(self) -> None:
        """Write down what has ended, and begin what there is room for."""
        closed = self._drain.begun or self._stopping or not self._id
        room = 0 if closed else min(AT_ONCE, self._room() - len(self._under_way.running))
        wanted = self._order.take(room) if room > 0 else []
        results = list(self._under_way.results)
        if not wanted and not results:
            return
        try:
            async with self._database.write() as connection:
                await lines.record(connection, self._id, results)
                got = await lines.claim(connection, self._id, wanted)
        except BaseException:
            self._order.add(wanted)
            self._unsure = True
            raise
        del self._under_way.results[: len(results)]
        for result in results:
            self._metrics.batch_lines.labels(_STATES[result.state]).inc()
        for line in wanted:
            place = line.batch, line.number
            if place in got:
                self._metrics.batch_lines.labels("running").inc()
                self._under_way.begin(line, got[place], self.open[line.batch])
            else:
                self._order.lost(line)

    async def stop(self, within_s: float) -> None:
        """Let what runs end within this time, and give back the rest."""
        self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._under_way.running:
                    await asyncio.wait(self._under_way.running.values())
        tasks = [*self._under_way.running.values(), *self._jobs.values()]
        for task in tasks:
            end(task)
        self._over = True  # the loop ends by itself: not in the midst of a transaction
        self._wake.set()
        await asyncio.gather(*tasks, *filter(None, [self._task]), return_exceptions=True)
        with suppress(StoreLost):
            if self._id:
                async with self._database.write() as connection:
                    await lines.record(connection, self._id, self._under_way.results)
                    await lines.leave(connection, self._id)
        await self._database.close()


_STATES = {Line.DONE: "completed", Line.FAILED: "failed"}
