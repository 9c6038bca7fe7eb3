"""Work that is relayed: which worker takes it, whose is next where it waits, and what it costs.

Rules:
- it goes to the least loaded of those in the best health that serve it; of equals, each in turn;
- as long as there is one tenant, it goes at once, as servers have queues of their own. Of several
  no worker is sent more of it than it has slots, and a lead, as nobody could pass who queues there:
  the rest waits here, and that of the tenant goes next which comes back or has had the least engine
  time for its weight (`solver.routing.fair`, the same shares as of all that is planned), of its own
  the first;
- it is charged for the tokens that its body may be as it goes, and for those that its answer tells
  as it ends; where none are told, for the seconds that it was there, as for one slot. An answer
  that a worker has failed to give costs nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import NamedTuple
from weakref import WeakKeyDictionary

from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.ticket import Ticket
from router.http.usage import Usage
from solver.routing.charges import Size
from solver.routing.fair import FairShares
from solver.routing.rolling import lead

# Workers may have come or gone while nothing has ended.
LOOK_S = 0.5


class _Line(NamedTuple):
    """Those that wait alike; `tenant`: its name among shares."""

    tenant: str
    model: str
    only: Worker | None


class Work:
    """One request: whose it is, what it asks for, and the prompt tokens that it may have.

    `only`: the one worker that may take it.
    """

    def __init__(self, tenant: str, model: str, only: Worker | None, tokens: float) -> None:
        self.tenant, self.model, self.only, self.tokens = tenant, model, only, tokens
        self.worker: Worker | None = None  # that it is charged at
        self.sent_s = 0.0
        self.turn: asyncio.Future[Worker | None] | None = None
        self.line: _Line | None = None  # in which it waits

    @property
    def size(self) -> Size | None:
        """As expected; None: it has not been sent."""
        worker = self.worker
        return None if worker is None else Size(worker.cost, worker.slots, self.tokens, 0.0)


class RelayedWork:
    """See the module."""

    def __init__(
        self,
        workers: Workers,
        shares: FairShares[Ticket],
        served: Callable[[str, float], None],
    ) -> None:
        """`served` hears of slot-seconds that a tenant has had."""
        self._workers, self._shares, self._served = workers, shares, served
        self._at: Counter[Worker] = Counter()  # under way, by worker
        self._turns: WeakKeyDictionary[Worker, int] = WeakKeyDictionary()  # when it was last asked
        self._turn = itertools.count(1)
        self._lines: dict[_Line, deque[Work]] = {}
        self._alarm: asyncio.TimerHandle | None = None

    async def place(self, work: Work, *, waits: bool) -> Worker | None:
        """The worker that takes it, once its turn has come; None: nobody serves it.

        It counts there until `left`. What is only asked for, and not made, never `waits`.
        """
        worker = work.only or self._choose(work.model)
        if worker is None:
            return None
        self._shares.see(work.tenant)
        if not waits:
            self.begin(worker)
            return worker
        if not self._shares.several:
            self._send(work, worker)
            return worker
        work.turn = asyncio.get_running_loop().create_future()
        self._shares.join(work, work.tenant)
        name = self._shares.name(work)  # of which there are not many, whatever clients say
        work.line = _Line(name, work.model, work.only)
        self._lines.setdefault(work.line, deque()).append(work)
        self._go_on()
        try:
            return await work.turn
        except asyncio.CancelledError:
            self._withdraw(work)
            raise

    def another(self, work: Work, tried: Collection[Worker]) -> Worker | None:
        """Who else may take it."""
        return None if work.only else self._choose(work.model, tried)

    def begin(self, worker: Worker) -> None:
        """One more is there."""
        self._at[worker] += 1
        self._turns[worker] = next(self._turn)

    def left(self, worker: Worker) -> None:
        """One less is."""
        self._at[worker] -= 1
        if not self._at[worker]:
            del self._at[worker]
        self._go_on()

    def end(self, work: Work, usage: Usage | None, *, served: bool) -> None:
        """It has ended; its answer has told of `usage`; `served`: a worker has worked for it."""
        size = work.size
        if size is None:
            return
        now = time.monotonic()
        done = size.become(0.0, 0.0)
        if usage is not None:
            uncached = max(0, usage.prompt_tokens - usage.cached_tokens)
            done = size.become(float(uncached), float(usage.completion_tokens))
        self._shares.settle(work, done.prompt, done.output, now)
        if not (served or usage is not None):
            return
        slot_s = now - work.sent_s if usage is None else done.slot_s
        if usage is None:
            self._shares.spend(work.tenant, slot_s, now)
        if work.tenant:
            self._served(work.tenant, slot_s)

    def _choose(
        self, model: str, tried: Collection[Worker] = (), *, room: bool = False
    ) -> Worker | None:
        """The least loaded of those that serve it; `room`: of those that take more at once."""
        able = [
            worker
            for worker in self._workers.available()
            if worker not in tried
            and (not model or model in worker.models)
            and not (room and self._is_full(worker))
        ]
        return min(able, key=self._rank, default=None)

    def _rank(self, worker: Worker) -> tuple[int, float, int]:
        load = (self._at[worker] + worker.load.sequences) / worker.slots
        return worker.health.rank, load, self._turns.get(worker, 0)

    def _is_full(self, worker: Worker) -> bool:
        return self._at[worker] >= worker.slots + lead(worker.slots, 1)

    def _send(self, work: Work, worker: Worker) -> None:
        work.worker, work.sent_s = worker, time.monotonic()
        self.begin(worker)
        size = work.size
        if size is not None and self._shares.several:
            self._shares.charge(work, work.tenant, size, work.sent_s, made=lambda: None)

    def _go_on(self) -> None:
        """Send those whose turn it is, as long as somebody has room for them."""
        while self._lines and self._send_next():
            pass
        if self._lines and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _send_next(self) -> bool:
        shares = self._shares
        levels = shares.levels(time.monotonic())

        def turn(line: _Line) -> tuple[bool, float]:
            return not shares.is_back(self._lines[line][0]), levels.get(line.tenant, 0.0)

        for line in sorted(self._lines, key=turn):
            worker = line.only or self._choose(line.model, room=True)
            if worker is not None and not self._is_full(worker):
                work = self._lines[line][0]
                self._drop(work)
                assert work.turn is not None
                if not work.turn.cancelled():  # else its client has left a moment ago
                    self._send(work, worker)
                    work.turn.set_result(worker)
                return True
        return False

    def _look(self) -> None:
        """Whom nobody serves any more does not wait; others may have room by now."""
        self._alarm = None
        for line in [one for one in self._lines if not (one.only or self._choose(one.model))]:
            for work in list(self._lines[line]):
                self._drop(work)
                assert work.turn is not None
                if not work.turn.cancelled():
                    work.turn.set_result(None)
        self._go_on()

    def _withdraw(self, work: Work) -> None:
        """Its client has left."""
        assert work.turn is not None
        if work.line is not None:
            self._drop(work)
        elif not work.turn.cancelled() and (worker := work.turn.result()) is not None:
            self.left(worker)

    def _drop(self, work: Work) -> None:
        self._shares.leave(work)
        assert work.line is not None
        mine = self._lines[work.line]
        mine.remove(work)
        if not mine:
            del self._lines[work.line]
        work.line = None
