"""``/makespan/v1/events``: what the dashboard shows, as server-sent events.

Rules:
- nothing is computed, and no agent is asked, while nobody reads;
- what goes to all subscribers is encoded once, however many there are;
- a slow subscriber loses old frames, and one that takes nothing at all is let go: neither slows the
  gateway, nor its shutdown.

``fleet`` comes a few times a second, ``lists`` once a second, ``slots`` for the workers named in
the query (``?slots=NAME``, repeated).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from fastapi import HTTPException
from starlette.requests import Request

from router.gateway.dashboard.frames import Frame, Frames
from router.gateway.dashboard.merged import merged_fleet, merged_lists
from router.gateway.dashboard.watch import Watches
from router.gateway.siblings.ask import FRAMES, Siblings
from router.http.asgi import ClientDisconnected, DisconnectWatch, Receive, Scope, Send
from router.http.drain import Drain

log = logging.getLogger(__name__)

EVERY_S, LISTS_EVERY_S = 0.25, 1.0
LARGE, LARGE_EVERY_S = 16, 0.5  # a fleet of more workers is told of less often
HEARTBEAT_S = 5.0
STUCK_S = 10.0  # a subscriber who has taken nothing for so long is gone
MOST_SUBSCRIBERS = 32
MOST_WAITING = 8  # frames that wait for a subscriber
MOST_SLOTS = 8  # workers whose single slots one subscriber may see
HEARTBEAT = b": still here\n\n"
HEAD = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


@dataclass(eq=False, slots=True)
class Subscriber:
    """One open dashboard: the workers whose slots it shows, and the frames that wait for it."""

    workers: frozenset[str]
    waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, text: bytes) -> None:
        """More to send; the oldest goes if there is too much."""
        self.waiting.append(text)
        self.ready.set()

    async def take(self) -> bytes:
        """All that waits, or a heartbeat if nothing comes."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self.ready.wait()
        except TimeoutError:
            return HEARTBEAT
        self.ready.clear()
        text = b"".join(self.waiting)
        self.waiting.clear()
        return text


class Events:
    """The endpoint, as raw ASGI, and the task that feeds its subscribers while there are any."""

    def __init__(
        self, frames: Frames, watches: Watches, drain: Drain, siblings: Siblings | None = None
    ) -> None:
        self._frames, self._watches, self._drain = frames, watches, drain
        self._siblings = siblings
        self._subscribers: set[Subscriber] = set()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one subscriber until it leaves, or the gateway stops."""
        if self._drain.begun or len(self._subscribers) >= MOST_SUBSCRIBERS:
            why = "is shutting down" if self._drain.begun else "has too many dashboards open"
            raise HTTPException(503, f"the gateway {why}")
        names = Request(scope).query_params.getlist("slots")
        subscriber = Subscriber(frozenset(names[:MOST_SLOTS]))
        self._join(subscriber)
        try:
            with DisconnectWatch(receive, send):
                await self._feed(subscriber, send)
        except (ClientDisconnected, TimeoutError):
            pass
        finally:
            self._leave(subscriber)

    async def _feed(self, subscriber: Subscriber, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEAD})
        while not self._drain.begun:
            body = await subscriber.take()
            async with asyncio.timeout(STUCK_S):
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _join(self, subscriber: Subscriber) -> None:
        self._subscribers.add(subscriber)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def _leave(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._subscribers:
            self.stop()

    def stop(self) -> None:
        """Compute nothing any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._watches.stop()

    async def _run(self) -> None:
        since_lists_s = LISTS_EVERY_S
        while True:
            every_s = EVERY_S
            try:
                fleet = self._frames.fleet()
                every_s = LARGE_EVERY_S if len(fleet["workers"]) > LARGE else EVERY_S
                self._watches.follow(every_s)
                self._frames.keep_plan()
                with_lists = since_lists_s >= LISTS_EVERY_S
                lists = self._frames.lists() if with_lists else None
                told: list[Frame] = []
                if self._siblings is not None:
                    answers = await self._siblings.ask(FRAMES)
                    told = [orjson.loads(one) for one in answers.values()]
                    fleet = merged_fleet(fleet, [one["fleet"] for one in told])
                lists = lists and merged_lists(lists, [one["lists"] for one in told])
                self._broadcast(fleet, lists)
                since_lists_s = every_s if with_lists else since_lists_s + every_s
            except Exception:  # a defect in a picture is not to end it for good
                log.exception("the dashboard could not be told")
            await asyncio.sleep(every_s)

    def _broadcast(self, fleet: Frame, lists: Frame | None) -> None:
        common = _event("fleet", fleet) + (b"" if lists is None else _event("lists", lists))
        slots: Mapping[str, Sequence[Frame]] = self._frames.slots()
        named = frozenset[str]().union(*(subscriber.workers for subscriber in self._subscribers))
        texts = {name: _events(slots.get(name, ())) for name in named}
        for subscriber in self._subscribers:
            subscriber.put(common + b"".join(texts[name] for name in subscriber.workers))


def _event(kind: str, data: Frame) -> bytes:
    """Non-finite numbers are null in JSON; there is no newline in it."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data))


def _events(frames: Sequence[Frame]) -> bytes:
    return b"".join(_event("slots", frame) for frame in frames)
