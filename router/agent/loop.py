"""The agent's loop: ask the batcher for a stage, let the engine run it, hand out its tokens."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass
from math import inf

from router.agent.engines.emulated import Answer, EmulatedEngine
from router.metrics import AgentMetrics
from solver.batching import Batcher
from solver.priority import Priority
from solver.sequence import Sequence, Stage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of one choice; `finish_reason` is set on its last."""

    choice: int
    text: str
    finish_reason: str | None


class Job:
    """One HTTP request inside the engine: a sequence a choice, and their tokens as they come.

    `prompt_tokens` counts each prompt once, however many choices (`n`) it has; `cached_tokens` are
    those of all sequences that were found in the prefix cache, once they make tokens.
    """

    def __init__(
        self,
        answers: Many[Answer],
        prompt_tokens: int,
        crash_after: int | None = None,
        n: int = 1,
    ) -> None:
        self.answers, self.prompt_tokens, self.n = answers, prompt_tokens, n
        self.cached_tokens = 0
        self._crash_after, self._taken = crash_after, 0
        self._pieces: list[Piece] = []
        self._ready = asyncio.Event()
        self._failure: Exception | None = None

    def put(self, piece: Piece) -> None:
        """A token was made."""
        self._pieces.append(piece)
        self._ready.set()

    def fail(self, error: Exception) -> None:
        """There will be no more tokens: the engine has broken down, or the job was withdrawn."""
        self._failure = error
        self._ready.set()

    async def take(self) -> list[Piece]:
        """The tokens made since the last call, at least one."""
        if self._crash_after is not None and self._taken >= self._crash_after:
            os._exit(70)  # the fault that this request asked for
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        self._ready.clear()
        pieces, self._pieces = self._pieces, []
        self._taken += len(pieces)
        return pieces


@dataclass(frozen=True, slots=True)
class Standing:
    """A job's place in the queue: how long it has waited elsewhere, and how urgent it is."""

    waited_s: float = 0.0
    priority: Priority = Priority.DEFAULT
    deadline_s: float = inf


@dataclass(slots=True)
class _Part:
    job: Job
    choice: int
    answer: Answer
    made: int = 0


STANDING = Standing()


class EngineLoop:
    """Joins a `Batcher`, which decides, and an engine, which takes time."""

    def __init__(self, batcher: Batcher, engine: EmulatedEngine, metrics: AgentMetrics) -> None:
        self.batcher, self.engine, self._metrics = batcher, engine, metrics
        self.broken = False  # the engine has broken down; only a new process helps
        self.changed = asyncio.Event()  # somebody may want to report the new state
        self._wake = asyncio.Event()
        self._parts: dict[str, _Part] = {}
        self._serial = 0

    def submit(
        self,
        job: Job,
        limits: Many[int],
        expected_tokens: float | None,
        now: float,
        standing: Standing = STANDING,
    ) -> list[str]:
        """Queue a job; `limits` are its choices' most output tokens.

        Returns:
            The sequences' ids, for `cancel` and `withdraw`.
        """
        ids: list[str] = []
        for choice, (answer, limit) in enumerate(zip(job.answers, limits, strict=True)):
            self._serial += 1
            key = str(self._serial)
            expected = float(limit) if expected_tokens is None else min(expected_tokens, limit)
            self._parts[key] = _Part(job, choice, answer)
            sequence = Sequence(
                key,
                answer.prompt_tokens,
                expected,
                limit,
                now - standing.waited_s,
                answer.blocks,
                standing.priority,
                now + standing.deadline_s,
            )
            self.batcher.add(sequence, now)
            ids.append(key)
        self._wake.set()
        self.changed.set()
        return ids

    def withdraw(self, ids: Many[str], why: Exception) -> bool:
        """Take back a job that has not begun, in one step; whether it had not."""
        parts = [self._parts.get(key) for key in ids]
        if not ids or not all(self.batcher.waits(key) for key in ids):
            return False
        self.cancel(ids)
        for part in parts:
            if part is not None:
                part.job.fail(why)
        return True

    def cancel(self, ids: Many[str]) -> None:
        """Nobody waits for these any more; those that have ended are ignored."""
        for key in ids:
            if self._parts.pop(key, None) is not None:
                self.batcher.cancel(key, time.monotonic())
                self.changed.set()

    async def run(self) -> None:
        """Until cancelled. If the engine breaks down, all its jobs are told."""
        try:
            await self._run()
        except Exception as error:
            log.exception("the engine has broken down")
            self.broken = True
            for part in self._parts.values():
                part.job.fail(error)

    async def _run(self) -> None:
        now, resumed = time.monotonic(), True
        while True:
            stage = self.batcher.next_stage(now)
            if stage is None:
                self._wake.clear()
                await self._wake.wait()
                now, resumed = time.monotonic(), True
                continue
            start, end = await self.engine.run(stage, resumed=resumed)
            resumed = False
            self._finish(stage, start, end)
            now = end

    def _finish(self, stage: Stage, start: float, end: float) -> None:
        ended = self._hand_out(stage)
        self.batcher.finish_stage(stage, ended, end)
        self._metrics.iteration_duration.labels(stage.action.value).observe(end - start)
        if stage.prefill:
            self._metrics.prefill_insertions.labels(stage.reason.value).inc()
        if ended or stage.prefill:
            self.changed.set()

    def _hand_out(self, stage: Stage) -> list[str]:
        """A token for each sequence that decodes; the ids of those that have ended."""
        ended: list[str] = []
        for sequence in stage.decode:
            part = self._parts.get(sequence.id)
            if part is None:
                continue  # cancelled during this stage
            part.made += 1
            if part.made == 1:
                part.job.cached_tokens += sequence.cached
            last = part.made >= part.answer.tokens
            if last:
                ended.append(sequence.id)
                del self._parts[sequence.id]
            reason = part.answer.finish_reason if last else None
            part.job.put(Piece(part.choice, part.answer.spoken, reason))
        return ended
