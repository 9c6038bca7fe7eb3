"""The agent's loop: ask the batcher for a stage, let the engine run it, hand out its tokens."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass

from router.agent.cache_events import CacheEvents
from router.agent.engines.base import Answer, Engine, Iteration, Token
from router.agent.faults import NO_FAULTS, Faults, InjectedBreakdown
from router.agent.queue_position import DEFAULT_POSITION, QueuePosition
from router.agent.request_trace import RequestTimings
from router.agent.slot_trace import SlotTrace
from router.http.errors import EngineFailed
from router.observe.metrics import AgentMetrics
from solver.batching.batcher import Batcher
from solver.batching.sequence import Sequence, Stage
from solver.cost.online import OnlineFit

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChoiceOutput:
    """One token of one choice."""

    choice: int
    token: Token


class EngineRequest:
    """One HTTP request inside the engine: a sequence a choice, and their tokens as they come.

    `prompt_tokens` counts each prompt once, however many choices (`n`) it has; `cached_tokens` are
    those of all sequences that were found in the prefix cache, once they make tokens; `timings` is
    when what happened to it. Who is told of the cache is told of its `session`, and, if it wants a
    `full_report`, of what it has found there.
    """

    def __init__(
        self,
        answers: Many[Answer],
        prompt_tokens: int,
        faults: Faults = NO_FAULTS,
        n: int = 1,
        timings: RequestTimings | None = None,
        session: str | None = None,
        full_report: bool = False,
    ) -> None:
        self.answers, self.prompt_tokens, self.n = answers, prompt_tokens, n
        self.session, self.full_report = session, full_report
        self.timings = timings or RequestTimings()
        self.cached_tokens = 0
        self._faults, self._made, self._taken = faults, 0, 0
        self._outputs: list[ChoiceOutput] = []
        self._ready = asyncio.Event()
        self._failure: Exception | None = None

    @property
    def made(self) -> int:
        """Tokens so far."""
        return self._made

    def put(self, output: ChoiceOutput) -> None:
        """A token was made."""
        if self._faults.break_after is not None and self._made >= self._faults.break_after:
            raise InjectedBreakdown
        self._made += 1
        self._outputs.append(output)
        self._ready.set()

    def fail(self, error: Exception) -> None:
        """There will be no more tokens: the engine has broken down, or the job was withdrawn."""
        self._failure = error
        self._ready.set()

    async def take(self) -> list[ChoiceOutput]:
        """The tokens made since the last call, at least one."""
        crash_after = self._faults.crash_after
        if crash_after is not None and self._taken >= crash_after:
            os._exit(70)  # the fault that this request asked for
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        self._ready.clear()
        outputs, self._outputs = self._outputs, []
        self._taken += len(outputs)
        return outputs


@dataclass(slots=True)
class _Entry:
    engine_request: EngineRequest
    choice: int
    made: int = 0


class EngineLoop:
    """Joins a `Batcher`, which decides, and an engine, which computes.

    With a `fit`, the batcher's cost model follows the engine's iterations. `events` tell of what
    its prefix cache stores and drops.
    """

    def __init__(
        self,
        batcher: Batcher,
        engine: Engine,
        metrics: AgentMetrics,
        fit: OnlineFit | None = None,
        events: CacheEvents | None = None,
    ) -> None:
        self._events = events
        self.batcher, self.engine, self._metrics, self._fit = batcher, engine, metrics, fit
        self.broken = False  # the engine has broken down; only a new process helps
        self.changed = asyncio.Event()  # somebody may want to report the new state
        self._traces: set[SlotTrace] = set()
        self._wake = asyncio.Event()
        self._entries: dict[str, _Entry] = {}
        self._serial = 0

    @property
    def stats(self) -> Batcher:
        """Slots, memory and work, for whoever reports them."""
        return self.batcher

    @property
    def engine_name(self) -> str:
        """What runs the model."""
        return self.engine.name

    @property
    def has_prefix_cache(self) -> bool:
        """Whether the engine has a prefix cache."""
        return self.batcher.cache is not None

    @property
    def steps_back(self) -> bool:
        """Bulk work does, as the batcher has it (`solver.batching.stepping_back`)."""
        return True

    @property
    def healthy(self) -> bool:
        """Whether the engine can serve at all."""
        return not self.broken

    @contextmanager
    def record_slots(self) -> Iterator[SlotTrace]:
        """Record what each slot does, for as long as this lasts."""
        trace = SlotTrace(self.batcher.held_slots, time.monotonic())
        self._traces.add(trace)
        try:
            yield trace
        finally:
            self._traces.discard(trace)

    def submit(
        self,
        engine_request: EngineRequest,
        expected_tokens: float | None,
        now: float,
        position: QueuePosition = DEFAULT_POSITION,
    ) -> list[str]:
        """Queue a job.

        Returns:
            The sequences' ids, for `cancel` and `withdraw`.

        Raises:
            EngineFailed: if the engine has broken down; nobody would ever answer.
        """
        if self.broken:
            raise EngineFailed
        engine_request.timings.queued_s = now
        ids: list[str] = []
        for choice, answer in enumerate(engine_request.answers):
            self._serial += 1
            key, limit = str(self._serial), answer.limit
            expected = float(limit) if expected_tokens is None else min(expected_tokens, limit)
            self._entries[key] = _Entry(engine_request, choice)
            self.engine.begin(key, answer)
            if self._events is not None:
                session, full = engine_request.session, engine_request.full_report
                self._events.expect(key, session, full=full)
            sequence = Sequence(
                key,
                answer.prompt_tokens,
                expected,
                limit,
                now - position.waited_s,
                answer.blocks,
                position.priority,
                now + position.deadline_s,
                None,
                position.targets,
                *position.turn(now, choice),
            )
            self.batcher.add(sequence, now)
            ids.append(key)
        self._wake.set()
        self.changed.set()
        return ids

    def withdraw(self, ids: Many[str], why: Exception) -> bool:
        """Take back a job that has not begun, in one step; whether it had not."""
        entries = [self._entries.get(key) for key in ids]
        if not ids or not all(self.batcher.is_waiting(key) for key in ids):
            return False
        self.cancel(ids)
        for entry in entries:
            if entry is not None:
                entry.engine_request.fail(why)
        return True

    def cancel(self, ids: Many[str]) -> None:
        """Nobody waits for these any more; those that have ended are ignored."""
        for key in ids:
            if self._entries.pop(key, None) is not None:
                self.engine.drop(key)
                self.batcher.cancel(key, time.monotonic())
                self._forget([key])
                self.changed.set()

    async def run(self) -> None:
        """Until cancelled. If the engine breaks down, its requests and whoever reports are told."""
        try:
            await self._run()
        except Exception:
            log.exception("the engine has broken down")
            self.broken = True
            for entry in self._entries.values():
                entry.engine_request.fail(EngineFailed())
            self.changed.set()

    async def _run(self) -> None:
        now, resumed = time.monotonic(), True
        while True:
            stage = self.batcher.next_stage(now)
            if stage is None:
                self._wake.clear()
                await self._wake.wait()
                now, resumed = time.monotonic(), True
                continue
            for chunk in stage.prefill:
                if entry := self._entries.get(chunk.sequence.id):
                    entry.engine_request.timings.begin(now)
            iteration = await self.engine.run(stage, resumed=resumed)
            resumed = False
            self._finish(stage, iteration)
            now = iteration.end_s

    def _finish(self, stage: Stage, iteration: Iteration) -> None:
        took = iteration.end_s - iteration.start_s
        self._learn(stage, took)
        ended = self._hand_out(stage, iteration)
        self.batcher.finish_stage(stage, ended, iteration.end_s)
        self._publish()
        self._forget(ended)
        if self._traces:
            held = self.batcher.held_slots
            for trace in self._traces:
                trace.add(stage, iteration.start_s, iteration.end_s, held)
        self._metrics.iteration_duration.labels(stage.action.value).observe(took)
        if stage.prefill:
            self._metrics.prefill_insertions.labels(stage.reason.value).inc()
        if ended or stage.prefill:
            self.changed.set()

    def _publish(self) -> None:
        cache = self.batcher.cache
        if self._events is not None and cache is not None and cache.changes:
            self._events.publish(cache.changes)
            cache.changes.clear()

    def _forget(self, ids: Many[str]) -> None:
        if self._events is not None:
            for key in ids:
                self._events.forget(key)

    def _learn(self, stage: Stage, took_s: float) -> None:
        """The cost model follows; of several rounds in a stage, their middle one counts."""
        if self._fit is None:
            return
        batch, rounds = len(stage.decode), stage.rounds
        cached = stage.kv_tokens + batch * (rounds - 1) // 2
        if self._fit.observe(stage.action, stage.prompt_tokens, batch, cached, took_s / rounds):
            self.batcher.cost = self._fit.cost

    def _hand_out(self, stage: Stage, iteration: Iteration) -> list[str]:
        """Tokens to those who wait for them; the ids of the sequences that have ended."""
        ended: list[str] = []
        for chunk in stage.prefill:
            if chunk.last and (entry := self._entries.get(chunk.sequence.id)):
                entry.engine_request.timings.prefilled(iteration.end_s)
        for sequence in stage.sequences:
            token = iteration.tokens.get(sequence.id)
            entry = self._entries.get(sequence.id)
            if token is None or entry is None:
                continue  # in the middle of its prefill, or cancelled during this stage
            entry.made += 1
            if entry.made == 1:
                entry.engine_request.cached_tokens += sequence.cached
                entry.engine_request.timings.token(iteration.end_s)
            if token.finish_reason is not None:
                entry.engine_request.timings.end(iteration.end_s, entry.choice, token.finish_reason)
                ended.append(sequence.id)
                del self._entries[sequence.id]
            entry.engine_request.put(ChoiceOutput(entry.choice, token))
        return ended
