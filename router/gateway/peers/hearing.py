"""Listens to others: to gateways that are named, and to the other processes of this one.

Rules:
- who is named is listened to for as long as it is, over one stream; one that breaks off is opened
  again after growing pauses;
- a name that leads to this gateway itself, or to one that is heard already, is left alone, and
  tried again now and then: another may come there;
- before a plan is made, what all have told until then is taken (`catch_up`): the loop comes to it
  when it has done what came before, or whatever else came with it;
- who tells nothing for `STATE_TIMEOUT_S`, or what is no line, is let go, and all that it has told
  is void: what is known of its sends is what it was before there were peers;
- all of them have no more than `SHARE` of this process's time, and `BURST_S` beside that, however
  much they tell: of the time that it works, not of that in which others have its core.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from router.gateway.fleet.discovery.source import Endpoint
from router.gateway.fleet.discovery.sources import Discovery, sources
from router.gateway.fleet.reports import complaint
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.peers.ears import Ear, Lines, UnheardError, open_stream
from router.gateway.peers.heard import Foreign, Heard
from router.gateway.peers.lines import Gateway, decode
from router.gateway.peers.peers import Peers
from router.gateway.peers.sends import Sends
from router.gateway.siblings.folder import Folder
from router.http.connections import Connections
from router.observe.metrics import GatewayMetrics
from router.observe.repeats import Repeats
from router.settings.gateway import GatewaySettings
from router.wire import WireError

log = logging.getLogger(__name__)

PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# After which one is tried again that was this gateway itself, or is heard by another name.
AGAIN_S = 10.0
LOOK_S = 1.0  # between looks for processes that have come
SHARE, BURST_S = 0.25, 0.05


class _Books:
    """This process's own, of prompts; what `relays` says is told on to other gateways."""

    def __init__(self, workers: Workers, relays: Sends | None) -> None:
        self._prefixes, self._relays = workers.prefixes, relays
        self.find = workers.find

    def sent(self, prompt: Foreign, worker: Worker) -> None:
        """Part of `Books`."""
        self._prefixes.book(prompt, worker)
        if self._relays is not None:
            self._relays.sent(prompt, worker.place, marks=bool(prompt.marks), own=False)

    def begun(self, prompt: Foreign) -> None:
        """Part of `Books`."""
        self._prefixes.begun(prompt)

    def left(self, prompt: Foreign, made: int) -> None:
        """Part of `Books`."""
        self._prefixes.left(prompt, made)


@dataclass(eq=False, slots=True)
class _Stream:
    """What comes from one, and what it has told; None before it has said who it is."""

    ear: Ear
    lines: Lines
    heard: Heard | None = None


class Hearing:
    """See the module.

    With `peers`, gateways are named; with a `folder`, there are other processes of this one.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        connections: Connections,
        workers: Workers,
        sends: Sends,
        peers: Peers | None,
        metrics: GatewayMetrics,
        folder: Folder | None,
    ) -> None:
        self._discovery = Discovery(sources(settings.peers), {})
        self._connections, self._connect_s = connections, settings.connect_timeout_s
        self._peers, self._metrics, self._folder = peers, metrics, folder
        self._own = _Books(workers, None)
        self._siblings = _Books(workers, sends)
        self._ears: dict[str, Ear] = {}
        self._streams = list[_Stream]()
        self._ready = selectors.DefaultSelector()  # whose next bytes have come
        self._tasks = set[asyncio.Task[None]]()
        self._said = Repeats(log)
        self._spent_s, self._spent_at_s = 0.0, 0.0  # beyond their share, and as of when

    def told(self) -> list[dict[str, Any]]:
        """All gateways that are listened to, for who looks at them; not this one."""
        own = self._connections.gateway
        return [ear.told() for ear in self._ears.values() if not ear.sibling and ear.gateway != own]

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """The gateways are to be these; who is not among them is heard until it ends."""
        found = {one.url: one for one in endpoints}
        for url, one in found.items():
            self._connections.expect(url, one.tls_name)
        self._want(found, sibling=False)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._discovery.run(self.update))
                group.create_task(self._look())
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._ready.close()

    async def _look(self) -> None:
        """Who of this gateway's processes has come, and who is heard."""
        while True:
            if self._folder is not None:
                paths = [str(self._folder.socket_of(pid)) for pid in self._folder.others()]
                self._want(paths, sibling=True)
            up = sum(ear.up for ear in self._ears.values() if not ear.sibling)
            self._metrics.peers.labels("up").set(up)
            self._metrics.peers.labels("down").set(len(self.told()) - up)
            await asyncio.sleep(LOOK_S)

    def _want(self, where: Collection[str], *, sibling: bool) -> None:
        for ear in self._ears.values():
            if ear.sibling == sibling:
                ear.wanted = ear.where in where
        for one in where:
            if one not in self._ears:
                ear = self._ears[one] = Ear(one, sibling)
                task = asyncio.create_task(self._follow(ear))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _follow(self, ear: Ear) -> None:
        failures = 0
        while ear.wanted:
            began_s, again_s = time.monotonic(), 0.0
            try:
                async with open_stream(ear, self._connections, self._connect_s) as response:
                    await self._listen(ear, response)
                ear.why = "it ended its stream"
            except UnheardError as error:
                ear.why, again_s = str(error), error.again_s
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                ear.why = complaint(error)
            except WireError as error:
                ear.why = str(error)
                self._metrics.peer_lines.labels("garbage").inc()
            except Exception:  # whatever one tells, the others are heard on
                ear.why = "a defect, see the log"
                log.exception("what a peer tells cannot be booked", extra={"peer": ear.where})
            if not ear.sibling and ear.gateway != self._connections.gateway:
                extra = {"peer": ear.where, "why": ear.why}
                self._said.say(logging.WARNING, "a peer is not heard", ear.where, extra)
            failures = 0 if time.monotonic() - began_s > AGAIN_S else failures + 1
            await asyncio.sleep(again_s or PAUSES_S[min(failures, len(PAUSES_S) - 1)])
        del self._ears[ear.where]

    async def _listen(self, ear: Ear, response: aiohttp.ClientResponse) -> None:
        """Until it ends, or tells what is no line."""
        stream = _Stream(ear, Lines(response))
        self._streams.append(stream)
        if stream.lines.socket is not None:
            self._ready.register(stream.lines.socket, selectors.EVENT_READ, stream)
        try:
            async for part in response.content.iter_any():
                stream.lines.put(part)
                for rest_s in self._turns(stream):
                    await asyncio.sleep(rest_s)
                stream.lines.check()
        finally:
            self._streams.remove(stream)
            if stream.lines.socket is not None:
                self._ready.unregister(stream.lines.socket)
            stream.lines.close()
            ear.up, heard = False, stream.heard
            if heard is not None and (ear.sibling or self._peers is None):
                heard.forget()
            elif heard is not None and self._peers is not None:
                self._peers.leave(ear.gateway)

    def catch_up(self) -> bool:
        """Take what all have told until now, as far as their time goes: somebody is to decide.

        Whether they had told anything more.
        """
        more = False
        ready = {key.data for key, _ in self._ready.select(0)} if self._ready.get_map() else ()
        for stream in self._streams:
            if stream.heard is None or not (stream in ready or stream.lines.waits):
                continue
            if self._resting_s(time.perf_counter()) > 0:
                break
            try:
                if stream in ready:
                    stream.lines.read()
                stream.lines.fetch()
                for rest_s in self._turns(stream):
                    more = True
                    if rest_s > 0:
                        break
            except Exception:  # its own task comes upon it as well, and lets it go
                log.debug("a peer is not caught up with", exc_info=True)
        return more

    def _turns(self, stream: _Stream) -> Iterator[float]:
        """Take its lines, some at a time: seconds until it is to go on."""
        while stream.lines:
            began_s, worked_s = time.perf_counter(), time.thread_time()
            if stream.heard is None:
                stream.heard = self._begin(stream.ear, stream.lines)
            self._take(stream.ear, stream.heard, stream.lines)
            worked_s = time.thread_time() - worked_s
            self._spent_s, self._spent_at_s = self._still_spent_s(began_s) + worked_s, began_s
            yield self._resting_s(time.perf_counter())

    def _still_spent_s(self, now: float) -> float:
        """What they have had beyond their share."""
        return max(0.0, self._spent_s - SHARE * max(0.0, now - self._spent_at_s))

    def _resting_s(self, now: float) -> float:
        """How long nobody is to be listened to."""
        return max(0.0, self._still_spent_s(now) - BURST_S) / SHARE

    def _begin(self, ear: Ear, lines: Lines) -> Heard:
        first = decode(next(iter(lines)))
        if not isinstance(first, Gateway):
            raise WireError("it does not begin with who tells")
        ear.gateway = first.name
        if ear.sibling or self._peers is None:
            heard: Heard | None = Heard(self._siblings, _nobody)
        elif first.name == self._connections.gateway:
            raise UnheardError("it is this gateway", AGAIN_S)
        else:
            heard = self._peers.join(first.name, self._own)
        if heard is None:
            raise UnheardError("that gateway is heard already, by another name", AGAIN_S)
        ear.up = True
        if not ear.sibling:
            log.info("a peer is heard", extra={"peer": ear.where})
        return heard

    def _take(self, ear: Ear, heard: Heard, texts: Iterable[bytes]) -> None:
        now, lines, lost = time.monotonic(), heard.lines, heard.lost
        try:
            for text in texts:
                heard.take(decode(text), now)
        finally:
            lines, lost = heard.lines - lines, heard.lost - lost
            ear.lines, ear.lost = ear.lines + lines, ear.lost + lost
            self._metrics.peer_lines.labels("heard").inc(lines)
            self._metrics.peer_lines.labels("lost").inc(lost)
            if self._peers is not None:
                self._peers.look()


def _nobody(_: str) -> None:
    """What siblings have at workers is on their board."""
