"""What a worker's publishers come to, and whose publishers are followed."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import inf
from typing import Protocol

import zmq.asyncio

from router.gateway.fleet.kv.sources import Source, find_sources
from router.gateway.fleet.kv.stream import MOST_HELD_BYTES, Knowledge, Stream
from router.gateway.fleet.kv.subscriber import Subscriber, hear_loads
from router.gateway.fleet.kv.turns import Turns
from router.http.connections import Connections
from router.kv_wire import Load
from router.observe.repeats import Repeats
from solver.routing.foreseen import Coming
from solver.routing.marks import Beginnings, Partings

log = logging.getLogger(__name__)

# Blocks of one publisher that are kept, some 100 bytes each: 16 million tokens in blocks of 16.
MOST_BLOCKS = 1 << 20
AGAIN_S = 5.0  # after which one that broke down is followed anew
# How often pages are looked at again that have not answered, that tell of publishers, and that tell
# of none: another server may have come there between two looks.
UNANSWERED_S, ANSWERED_S, NONE_S = 2.0, 10.0, 60.0
_WORST = (Knowledge.ESTIMATED, Knowledge.DEGRADED, Knowledge.EXACT)


class WorkerCache:
    """What a worker tells of its cache; of the caches of all ranks, where it is planned as one.

    Attributes:
        reports: it tells of blocks that a request has found, if that asks for it.
    """

    def __init__(self, streams: Sequence[Stream], *, reports: bool = False) -> None:
        self.streams, self.reports = streams, reports
        self._counted: dict[str, int] = {}

    @property
    def knowledge(self) -> Knowledge:
        """As of the rank of which least is known."""
        return min((one.knowledge for one in self.streams), key=_WORST.index)

    @property
    def why(self) -> str:
        """Why it is no better; empty if it is exact."""
        return min(self.streams, key=lambda one: _WORST.index(one.knowledge)).why

    @property
    def told(self) -> bool:
        """Whether what it tells is worth more than what was sent to it."""
        return self.knowledge is not Knowledge.ESTIMATED

    def held_tokens(
        self, marks: bytes, tail: int | None, block_tokens: float, room: float
    ) -> float:
        """Tokens of a prompt that need no prefill; of several ranks nobody knows which it gets.

        See `CachedBlocks.held_tokens`; what several ranks will push out is not foreseen.
        """
        room = room if len(self.streams) == 1 else inf
        found = [one.cache.held_tokens(marks, tail, block_tokens, room) for one in self.streams]
        return sum(found) / len(found)

    def expect(self, prompt: Beginnings, tokens: int, room: float) -> list[Coming]:
        """A prompt of so many tokens is sent there: it is foreseen from now on."""
        alone = len(self.streams) == 1
        room, sure = room if alone else inf, self.reports and alone
        return [one.cache.expect(prompt, tokens, room, sure=sure) for one in self.streams]

    def begun(self, coming: Sequence[Coming]) -> None:
        """The first token of one that was expected has come."""
        for one, its in zip(self.streams, coming, strict=True):
            one.cache.foreseen.begun(its)

    def left(self, coming: Sequence[Coming], made: int) -> None:
        """It has left; perhaps it had not begun. Tokens `made` of it, or 0: see `CachedBlocks`."""
        for one, its in zip(self.streams, coming, strict=True):
            one.cache.left(its, made)

    def count(self) -> dict[str, int]:
        """Of all its ranks: blocks known, blocks told of, and what went wrong."""
        return {
            "known": sum(len(one.cache) for one in self.streams),
            "told": sum(one.blocks for one in self.streams),
            "unknown": sum(one.cache.unknown for one in self.streams),
            "gaps": sum(one.gaps for one in self.streams),
            "restarts": sum(one.restarts for one in self.streams),
            "garbage": sum(one.garbage for one in self.streams),
        }

    def counted_since(self) -> list[tuple[str, int]]:
        """What was counted since the last time, but for what is known now."""
        now = {what: count for what, count in self.count().items() if what != "known"}
        before, self._counted = self._counted, now
        return [(what, max(0, count - before.get(what, 0))) for what, count in now.items()]


class Publishing(Hashable, Protocol):
    """A server, as far as it publishes."""

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    def hear_caches(self, streams: Mapping[int, Stream], *, reports: bool) -> None:
        """Its ranks publish these."""
        ...

    def push_load(self, rank: int, load: Load, now: float) -> None:
        """One of its ranks pushes its load."""
        ...


class Caches:
    """Follows the publishers of servers, while the gateway runs."""

    def __init__(self, connections: Connections, changed: Callable[[], None]) -> None:
        self._connections, self._changed = connections, changed
        self._context: zmq.asyncio.Context | None = None
        self._turns, self._said = Turns(), Repeats(log)
        self._partings = Partings()
        self._tasks: dict[Publishing, asyncio.Task[None]] = {}
        self._at: defaultdict[str, list[Stream]] = defaultdict(list)  # whose it is, by endpoint

    def follow(self, address: Publishing, *, agent: bool) -> None:
        """The server at this address has come up; it gets what it publishes, if it does."""
        task = self._tasks.get(address)
        if task is None or task.done():
            self._tasks[address] = asyncio.create_task(self._follow(address, agent=agent))

    def forget(self, address: Publishing) -> None:
        """It has left, or what it publishes may have changed."""
        if (task := self._tasks.pop(address, None)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Follow nobody any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._context is not None:
            self._context.destroy(linger=0)

    async def _follow(self, address: Publishing, *, agent: bool) -> None:
        """Until cancelled: its publishers may be others after a while."""
        followed, task = list[Source](), None
        try:
            while True:
                found = await find_sources(self._connections, address.url, agent=agent)
                if found is None and task is None:
                    self._unanswered(address.url)
                elif found is not None and (found != followed or not found):
                    if task is not None:
                        await _cancel(task)
                    followed = found
                    task = self._begin(address, found)
                if task is not None:
                    await asyncio.sleep(ANSWERED_S)
                else:
                    await asyncio.sleep(UNANSWERED_S if found is None else NONE_S)
        finally:
            if task is not None:
                await _cancel(task)

    def _begin(self, address: Publishing, sources: Sequence[Source]) -> asyncio.Task[None] | None:
        if not sources:
            address.hear_caches({}, reports=False)
            return None
        log.info(
            "its engine tells of its cache", extra={"worker": address.url, "ranks": len(sources)}
        )
        held_bytes = MOST_HELD_BYTES // len(sources)
        streams = [
            Stream(
                MOST_BLOCKS,
                self._partings,
                replays=one.replay is not None,
                keeps=one.keeps,
                held=held_bytes,
            )
            for one in sources
        ]
        by_rank = {one.rank: stream for one, stream in zip(sources, streams, strict=True)}
        address.hear_caches(by_rank, reports=all(one.reports for one in sources))
        return asyncio.create_task(self._hear_all(address, sources, streams))

    async def _hear_all(
        self, address: Publishing, sources: Sequence[Source], streams: Sequence[Stream]
    ) -> None:
        if self._context is None:
            self._context = zmq.asyncio.Context()
        turns = self._turns.of_worker()
        pairs = list(zip(sources, streams, strict=True))
        for one, stream in pairs:
            self._share(one.endpoint, [*self._at[one.endpoint], stream])
        try:
            async with asyncio.TaskGroup() as group:
                for one, stream in pairs:
                    group.create_task(self._keep(one, stream, turns))
                    if one.load is not None:
                        group.create_task(self._hear(one, address))
        finally:
            for one, stream in pairs:
                left = [other for other in self._at[one.endpoint] if other is not stream]
                self._share(one.endpoint, left)

    def _share(self, endpoint: str, streams: list[Stream]) -> None:
        """These follow one publisher: nobody knows whose it is, if they are several."""
        self._at[endpoint] = streams
        if not streams:
            del self._at[endpoint]
        shared = len(streams) > 1
        for stream in streams:
            stream.shared = shared
        if shared:
            extra: dict[str, object] = {"publisher": endpoint, "workers": len(streams)}
            self._said.say(
                logging.WARNING, "several workers tell of one publisher", endpoint, extra
            )

    def _unanswered(self, url: str) -> None:
        what = "it does not answer whether its engine tells of its cache"
        self._said.say(logging.WARNING, what, url, {"worker": url})

    async def _keep(self, source: Source, stream: Stream, turns: Turns) -> None:
        assert self._context is not None
        while True:
            try:
                await Subscriber(
                    self._context, turns, source, stream, self._changed, self._said
                ).run()
            except Exception:  # of one publisher; the others are followed on
                self._fails("its events cannot be followed", source.endpoint)
                stream.lost()
                stream.forget()
            await asyncio.sleep(AGAIN_S)

    async def _hear(self, source: Source, address: Publishing) -> None:
        assert self._context is not None
        while True:
            try:
                await hear_loads(self._context, source, address.push_load, self._said)
            except Exception:
                self._fails("its load cannot be followed", source.load or "")
            await asyncio.sleep(AGAIN_S)

    def _fails(self, what: str, publisher: str) -> None:
        self._said.say(logging.ERROR, what, publisher, {"publisher": publisher}, trace=True)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
