"""Refuses what certainly misses its targets, where the settings say so; a plan places the rest.

What is certain is `solver.routing.shed`'s; here is what it is told of the workers, and the clock. A
request is looked at when it comes, and once more when the first token's target would pass out of
reach: whoever still waits then goes, and leaves the room to those who can keep theirs. Who waits at
an agent by then is taken back first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from router.gateway.accounting.slo import Felt
from router.gateway.fleet.worker import Worker
from router.gateway.fleet.workers import Workers
from router.gateway.planning.dispatcher import Dispatcher
from router.gateway.planning.recaller import Recaller
from router.gateway.planning.ticket import Placement, Ticket
from router.http.errors import OutOfReachError
from router.http.schemas import CompletionRequest
from router.settings.gateway import GatewayTuning
from router.wire import TPOT_MS, TTFT_MS
from solver.batching.priority import Priority
from solver.batching.targets import NO_TARGETS, Targets
from solver.routing.shed import (
    NOTHING_SEEN,
    UNKNOWN,
    Floor,
    Held,
    Miss,
    Seen,
    find_miss,
    last_call_s,
)

# Between two looks at a request that waits: nothing is gained by looking more often.
LOOK_S = 0.05
# Of shorter streams the time between tokens tells more of what held up their first event.
SEEN_TOKENS = 32


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request that wants to be placed, and its targets as far as they can be missed."""

    ticket: Ticket
    targets: Targets
    prompt_tokens: int

    @classmethod
    def of(cls, ticket: Ticket, request: CompletionRequest) -> _Ask:
        """An answer of one token has no time between tokens; a text's tokens are only estimated."""
        targets = ticket.job.targets
        if request.max_tokens == 1:
            targets = Targets(targets.ttft_s)
        return cls(ticket, targets, min(prompt.token_ids or 1 for prompt in request.prompts))


class Shedding:
    """Places requests, or says that they come too late; see the module.

    Attributes:
        on: whether any are refused.
    """

    def __init__(
        self,
        tuning: GatewayTuning,
        workers: Workers,
        dispatcher: Dispatcher,
        recaller: Recaller,
    ) -> None:
        self.on = tuning.admission == "shed"
        self._workers, self._dispatcher, self._recaller = workers, dispatcher, recaller
        self._alarms: dict[Ticket, asyncio.TimerHandle] = {}
        self._seen: WeakKeyDictionary[Worker, Seen] = WeakKeyDictionary()
        # By worker, streams of one choice that surely last: when they were sent, and their tokens.
        self._lasting: WeakKeyDictionary[Worker, dict[Ticket, tuple[float, int]]] = (
            WeakKeyDictionary()
        )

    def place(self, ticket: Ticket, request: CompletionRequest) -> Coroutine[Any, Any, Placement]:
        """As the dispatcher does.

        Raises:
            OutOfReachError: as soon as the request certainly misses a target.
        """
        if not self.on:
            return self._dispatcher.place(ticket)
        return self._place(ticket, request)

    async def _place(self, ticket: Ticket, request: CompletionRequest) -> Placement:
        ask = _Ask.of(ticket, request)
        if ask.targets == NO_TARGETS:
            placement = await self._dispatcher.place(ticket)
        else:
            placement = await self._place_in_time(ask)
            self._look_again(ask, placement.worker, self._judge(ask)[1])
        if request.stream and request.choices == 1 and request.least_tokens > 1:
            sent = (time.monotonic(), request.least_tokens)
            self._lasting.setdefault(placement.worker, {})[ticket] = sent
        return placement

    def left(self, ticket: Ticket, worker: Worker) -> None:
        """A request has left its worker, however it ended."""
        self._lasting.get(worker, {}).pop(ticket, None)
        if (alarm := self._alarms.pop(ticket, None)) is not None:
            alarm.cancel()

    def saw(self, worker: Worker, felt: Felt) -> None:
        """A worker has answered a request: what it can do, it may do again."""
        if felt.ttft_s is None:
            return
        tpot_s = felt.tpot_s if felt.tpot_s and (felt.tokens or 0) >= SEEN_TOKENS else inf
        best = self._seen.get(worker, NOTHING_SEEN)
        self._seen[worker] = Seen(min(best.ttft_s, felt.ttft_s), min(best.tpot_s, tpot_s))

    async def _place_in_time(self, ask: _Ask) -> Placement:
        miss, next_s = self._judge(ask)
        if miss is not None:
            raise self._error(ask, miss)
        loop = asyncio.get_running_loop()
        alarm: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal miss, alarm
            miss, next_s = self._judge(ask)
            if miss is not None:
                limit.reschedule(loop.time())
            else:
                alarm = loop.call_later(next_s, look)

        try:
            async with asyncio.timeout(None) as limit:
                if next_s != inf:
                    alarm = loop.call_later(next_s, look)
                return await self._dispatcher.place(ask.ticket)
        except TimeoutError as error:
            if miss is None:
                raise
            raise self._error(ask, miss) from error
        finally:
            if alarm is not None:
                alarm.cancel()

    def _look_again(self, ask: _Ask, worker: Worker, next_s: float) -> None:
        """Whether it has begun where it was sent, when it must have."""
        if next_s != inf:
            loop = asyncio.get_running_loop()
            self._alarms[ask.ticket] = loop.call_later(next_s, self._take_back, ask, worker)

    def _take_back(self, ask: _Ask, worker: Worker) -> None:
        """An agent gives back only what has not begun; it is then refused like all that wait."""
        ticket = ask.ticket
        if worker.state is None or ticket not in worker.load.not_begun():
            return
        miss, next_s = self._judge(ask)
        if ticket.recall_pending or miss is None:
            self._look_again(ask, worker, next_s)
        else:
            self._recaller.take_back(worker, [ticket], 1)

    def _judge(self, ask: _Ask) -> tuple[Miss | None, float]:
        """What it certainly misses, if anything; else in how many seconds it might, at best."""
        able = (w for w in self._workers.available() if ask.ticket.is_eligible_for(w))
        floors = [self._floor(worker, ask.prompt_tokens) for worker in able]
        waited_s = time.monotonic() - ask.ticket.arrival_s
        next_s = max(LOOK_S, last_call_s(ask.targets, floors) - waited_s)
        return find_miss(ask.targets, waited_s, floors), next_s

    def _floor(self, worker: Worker, prompt_tokens: int) -> Floor:
        """Nothing is certain of a cost model that is assumed, or has not met its engine yet."""
        state, seen = worker.state, self._seen.get(worker)
        if state is None or (seen is None and state.engine != "emulated"):
            return UNKNOWN
        computed = 1 if worker.has_prefix_cache else prompt_tokens
        return Floor.of(
            worker.cost, worker.slots, computed, self._held(worker), seen or NOTHING_SEEN
        )

    def _held(self, worker: Worker) -> list[Held]:
        """Those of whom a token has been seen; others might still be overtaken in its queue.

        Nor is bulk work in the way: whoever has a target may have its slot.
        """
        lasting = self._lasting.get(worker, {})
        if len(lasting) < worker.slots:
            return []
        now, unbegun = time.monotonic(), set(worker.load.not_begun())
        return [
            Held(tokens, now - sent_s)
            for ticket, (sent_s, tokens) in lasting.items()
            if ticket not in unbegun and ticket.priority is not Priority.BULK
        ]

    def _error(self, ask: _Ask, miss: Miss) -> OutOfReachError:
        targets, best = ask.targets, f"{miss.best_s * 1000:.0f} ms would be the least."
        if miss.target == "tpot":
            why = f"No worker makes a token every {targets.tpot_s * 1000:g} ms; {best}"
            header = TPOT_MS
        else:
            why = f"No first token can come within {targets.ttft_s * 1000:g} ms any more; {best}"
            header = TTFT_MS
        why += f" The header '{header.decode()}' sets another target than the default."
        if miss.again_s == inf:
            return OutOfReachError(why, inf)
        return OutOfReachError(why, self._dispatcher.room.retry_after_s(ask.ticket, miss.again_s))
