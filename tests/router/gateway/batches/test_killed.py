"""A gateway that is killed at each of its writes in turn, and again and again.

Each life of it is an event loop of its own, of which nothing is left but what the database has.
Whatever it was that it was writing, in the next life a file is there whole or not at all, each line
has its answer once, and none that was written down changes, or is asked for again.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from router.gateway.batches import runner as runner_module
from router.gateway.batches.batches import Batches
from router.gateway.batches.database import Database
from router.gateway.batches.files import CHUNK, Files
from router.gateway.batches.inside import Answer
from router.gateway.batches.lines import LEASE_S
from router.gateway.batches.runner import Runner
from router.gateway.batches.tables import OPEN, Line, lines
from router.gateway.batches.upload import Upload
from router.http.asgi import BODY, Receive, Scope, Send
from router.http.drain import Drain
from router.observe.metrics import GatewayMetrics
from tests.postgres import Postgres, postgres
from tests.router.gateway.batches.stores import ordered
from tests.waiting import PATIENCE_S

ENDPOINT = "/v1/completions"
COUNT, ROOM = 5, 2
WINDOW_S = 3600.0
FORM = "multipart/form-data; boundary=x"
# Writes of all that is asked here are fewer; so many, until its lines begin, are always the same.
MOST_WRITES, BEFORE = 60, 9


def line(k: int) -> bytes:
    # They begin alike, so they are run in the order of their file.
    body = {"model": "m", "prompt": "x" * (CHUNK // COUNT) + f" {k}"}
    return json.dumps(
        {"custom_id": f"{k}", "method": "POST", "url": ENDPOINT, "body": body}
    ).encode()


CONTENT = b"\n".join(map(line, range(COUNT)))  # more than a chunk


class Clock:
    """What databases take for the time: it goes on as `now_s` is set."""

    now_s = 1e9


def place(store: Path | str) -> tuple[Path | None, str | None]:
    return (store, None) if isinstance(store, Path) else (None, store)


class Mortal(Database):
    """Its process is killed at its write number `last`: before that is there, or `after` it."""

    def __init__(
        self, store: Path | str, clock: Clock, last: int = 0, *, after: bool = False
    ) -> None:
        super().__init__(*place(store))
        self._clock, self._last, self._after = clock, last, after
        self.writes, self.dead = 0, asyncio.Event()
        self.gone, self.busy = asyncio.Event(), 0

    async def open(self) -> None:
        """The story's first has brought it up to date."""
        self.opened = True

    async def now(self, connection: AsyncConnection) -> float:  # noqa: ARG002
        return self._clock.now_s

    async def _live(self) -> None:
        if self.dead.is_set():
            await self.gone.wait()
        if self.gone.is_set():
            raise asyncio.CancelledError

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        await self._live()
        self.busy += 1
        try:
            async with super().read() as connection:
                yield connection
        finally:
            self.busy -= 1

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        await self._live()
        self.busy += 1
        self.writes += 1
        dies = self.writes == self._last
        try:
            async with super().write() as connection:
                yield connection
                if dies and not self._after:
                    await connection.rollback()
                    self.dead.set()
        finally:
            self.busy -= 1
        if dies:
            self.dead.set()
        await self._live()


async def bury(*stores: Mortal) -> None:
    """What is under way ends, and nothing begins any more."""
    for store in stores:
        store.gone.set()
    while any(store.busy for store in stores):  # noqa: ASYNC110 - some milliseconds, of any task
        await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for store in stores:
        await store.close()


class Gateway:
    """A life of one: its client goes on where it finds things, and asks for `what`."""

    def __init__(
        self, store: Mortal, clock: Clock, tenant: str, what: str, known: set[int]
    ) -> None:
        self.store, self._clock, self._tenant, self._what = store, clock, tenant, what
        self._known = known  # lines that have their results already
        self._files, self._batches = Files(store), Batches(store)
        self._runner = Runner(
            store, self._files, self._batches, ordered(), lambda _: self._answer, lambda *_: {},
            lambda: ROOM, Drain(), GatewayMetrics(),
        )  # fmt: skip

    async def _answer(self, scope: Scope, _: Receive, send: Send) -> None:
        k = int(json.loads(scope[BODY])["prompt"].split()[-1])
        assert k not in self._known, "it has its answer"
        if self._what != "run" and k >= ROOM:
            assert isinstance(send, Answer)
            left = asyncio.Event()
            send.when_gone(left.set)
            await left.wait()  # it is cancelled, or its time ends, before it has one
            return
        head = {"type": "http.response.start", "status": 200, "headers": []}
        await send(head)
        await send({"type": "http.response.body", "body": b'{"answer": %d}' % k})

    async def start(self) -> None:
        """Run what there is."""
        await self._runner.start()

    async def run(self) -> bool:
        """Whether it is done before it dies."""
        await self.start()
        client, killed = (
            asyncio.create_task(one) for one in (self._client(), _none(self.store.dead.wait()))
        )
        await asyncio.wait({client, killed}, return_when=asyncio.FIRST_COMPLETED)
        return client.done() and client.result() is None

    async def _client(self) -> None:
        found, _ = await self._files.list(self._tenant, None, 9, None, ascending=True)
        if not found:
            await Upload(self._files, self._tenant, 1 << 20).run(FORM, _form())
            found, _ = await self._files.list(self._tenant, None, 9, None, ascending=True)
        assert await read(self._files, found[0]) == CONTENT
        made, _ = await self._batches.list(self._tenant, None, 9)
        if made:
            name = str(made[0][0].id)
        else:
            file, window = str(found[0].id), ("1h", WINDOW_S)
            name = (await self._batches.create(self._tenant, "", ENDPOINT, file, window, None)).id
        batch, counts = await self._batches.get(name, self._tenant)
        while batch.status in OPEN:
            if self._what != "run" and counts.done == ROOM and batch.status == "in_progress":
                if self._what == "cancel":
                    await self._batches.cancel(name, self._tenant)
                else:
                    self._clock.now_s += WINDOW_S
            self._runner.wake()
            self._clock.now_s += 0.1
            await asyncio.sleep(0.001)
            batch, counts = await self._batches.get(name, self._tenant)


async def _none(one: Coroutine[Any, Any, object]) -> None:
    await one


async def _form() -> AsyncIterator[bytes]:
    yield b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
    yield b'content-disposition: form-data; name="file"; filename="a"\r\n\r\n' + CONTENT
    yield b"\r\n--x--\r\n"


async def read(files: Files, found: Any) -> bytes:  # noqa: ANN401
    content = b"".join([piece async for piece in files.content(found)])
    assert len(content) == found.bytes
    return content


class Story:
    """Lives of gateways, one after the other, on one database."""

    def __init__(self, store: Path | str) -> None:
        self._store, self._clock = store, Clock()
        self._told = 0
        asyncio.run(self._open())

    async def _open(self) -> None:
        store = Database(*place(self._store))
        await store.open()
        await store.close()

    def tell(self, what: str, kills: list[tuple[int, bool]]) -> bool:
        """Whether all of these kills came, each in the next life; the last one ends well."""
        self._told += 1
        tenant, before, came = f"t{self._told}", dict[int, bytes](), 0
        for last, after in [*kills, (0, False)]:
            self._clock.now_s += 2 * LEASE_S
            done = asyncio.run(self._life(tenant, what, last, set(before), after=after))
            now = asyncio.run(self._results(tenant))
            assert before.items() <= now.items()
            before = now
            came += not done
            if done:
                break
        asyncio.run(self._check(tenant, what))
        return came == len(kills)

    async def _life(
        self, tenant: str, what: str, last: int, known: set[int], *, after: bool
    ) -> bool:
        store = Mortal(self._store, self._clock, last, after=after)
        async with asyncio.timeout(PATIENCE_S):
            done = await Gateway(store, self._clock, tenant, what, known).run()
            await bury(store)
            return done

    def beside(self, what: str, last: int) -> bool:
        """Whether one of two gateways was killed at that write; the other one goes on."""
        self._told += 1
        tenant = f"t{self._told}"
        killed = asyncio.run(self._both(tenant, what, last))
        asyncio.run(self._check(tenant, what))
        return killed

    async def _both(self, tenant: str, what: str, last: int) -> bool:
        mortal, store = Mortal(self._store, self._clock, last), Mortal(self._store, self._clock)
        async with asyncio.timeout(PATIENCE_S):
            await Gateway(mortal, self._clock, tenant, what, set()).start()
            assert await Gateway(store, self._clock, tenant, what, set()).run()
            await bury(mortal, store)
        return mortal.dead.is_set()

    async def _results(self, tenant: str) -> dict[int, bytes]:
        """What is written down of which line."""
        store = Mortal(self._store, self._clock)
        await store.open()
        made, _ = await Batches(store).list(tenant, None, 9)
        async with store.read() as connection:
            asked = select(lines.c.custom_id, lines.c.result).where(
                lines.c.batch.in_([one.id for one, _ in made]), lines.c.state >= Line.DONE
            )
            found = {int(name): bytes(text) for name, text in await connection.execute(asked)}
        await store.close()
        return found

    async def _check(self, tenant: str, what: str) -> None:
        store = Mortal(self._store, self._clock)
        await store.open()
        files = Files(store)
        made, _ = await Batches(store).list(tenant, None, 9)
        ((batch, _),) = made
        told: dict[str | None, list[int]] = {}
        for name in (batch.output_file, batch.error_file):
            content = b"" if name is None else await read(files, await files.get(name, tenant))
            for one in map(json.loads, content.splitlines()):
                code = one["error"] and one["error"]["code"]
                told.setdefault(code, []).append(int(one["custom_id"]))
        good = list(range(COUNT if what == "run" else ROOM))
        rest = list(range(ROOM, COUNT))
        status, expected = {
            "run": ("completed", {None: good}),
            "cancel": ("cancelled", {None: good}),
            "expire": ("expired", {None: good, "batch_expired": rest}),
        }[what]
        assert (batch.status, told) == (status, expected)
        assert (batch.total, batch.completed) == (COUNT, len(good))
        assert batch.failed == len(told.get("batch_expired", ()))
        await store.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def story(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    monkeypatch.setattr(runner_module, "LOOK_S", 0.005)
    if request.param == "sqlite":
        return Story(tmp_path)
    return Story(request.getfixturevalue("server").database())


@pytest.mark.parametrize("story", ["sqlite"], indirect=True)
@pytest.mark.parametrize("what", ["run", "cancel", "expire"])
def test_killed_at_any_write_nothing_is_lost_or_there_twice(story: Story, what: str) -> None:
    last = 1 if what == "run" else BEFORE
    while story.tell(what, [(last, False)]):
        last += 1
    assert BEFORE + 3 < last < MOST_WRITES


def test_killed_again_and_again_likewise(story: Story) -> None:
    rng = random.Random(17)
    for what in ("run", "cancel", "expire"):
        story.tell(what, [(rng.randint(1, 8), rng.random() < 0.5) for _ in range(5)])


def test_one_of_two_is_killed_at_any_write_likewise(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "BEAT_S", 0.0)  # the clock goes on so much faster
    came = [story.beside(what, last) for last in (1, 2, 4, 6) for what in ("run", "cancel")]
    assert any(came)
