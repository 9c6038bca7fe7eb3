"""Measures an engine in process: it builds the stages itself and takes the engine's word on times.

Rules:
- one stage at a time, each of them one iteration, and each one sample;
- prompts are random token ids, so that no cache knows them;
- the sequences of a batch have unequal contexts, as real ones do: some engines pad;
- a sequence ends neither by itself nor by its limit while it is measured.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from itertools import count

from router.agent.engines.base import Answer, Engine, Iteration
from router.http.schemas import read
from router.lab.calibration.shapes import Shapes, unequal
from solver.batching.sequence import Chunk, Reason, Sequence, Stage
from solver.cost.calibration import Sample
from solver.cost.model import Action

# Ids that every tokenizer has, and that are not its special ones.
LEAST_ID, MOST_ID = 200, 1000


class EngineProbe:
    """Takes sequences on, runs stages of them, and drops them again."""

    def __init__(self, engine: Engine, model: str, shapes: Shapes, seed: int) -> None:
        self._engine, self._model, self._shapes = engine, model, shapes
        self._rng, self._serial = random.Random(seed), count()
        self._made: dict[str, int] = {}

    @property
    def samples(self) -> int:
        """How many `measure` yields."""
        rounds, shapes = self._shapes.rounds, self._shapes
        mixed = len(shapes.mixed_prompts) * shapes.mixed_repeats
        return len(shapes.prompts) * rounds + len(shapes.decodes) * (rounds + mixed)

    async def measure(self) -> AsyncIterator[Sample]:
        """Prefill stages, decode rounds and mixed iterations, one sample each.

        Raises:
            RequestError: if the engine refuses a prompt.
        """
        await self._warm_up()
        for tokens in self._shapes.prompts:
            for _ in range(self._shapes.rounds):
                sequence = self._begin(tokens)
                yield await self._prefill(sequence)
                self._drop(sequence)
        for batch, context in self._shapes.decodes:
            running = [self._begin(tokens) for tokens in unequal(context, batch)]
            for sequence in running:
                await self._prefill(sequence)
            for k in range(self._shapes.rounds):
                yield await self._run(Action.DECODE, [], running, resumed=not k)
            for tokens in self._shapes.mixed_prompts:
                for _ in range(self._shapes.mixed_repeats):
                    joining = self._begin(tokens)
                    yield await self._run(Action.MIXED, [Chunk(joining, tokens, True)], running)
                    self._drop(joining)
            for sequence in running:
                self._drop(sequence)

    async def _warm_up(self) -> None:
        """The first iterations of an engine, and its first large batch, take longer."""
        batch, context = self._shapes.decodes[-1]
        running = [self._begin(tokens) for tokens in unequal(context, batch)]
        for sequence in running:
            await self._prefill(sequence)
        for k in range(2):
            await self._run(Action.DECODE, [], running, resumed=not k)
        for sequence in running:
            self._drop(sequence)

    def _begin(self, tokens: int) -> Sequence:
        limit = self._shapes.most_tokens
        ids = self._rng.choices(range(LEAST_ID, MOST_ID), k=tokens)
        body = {
            "model": self._model,
            "prompt": ids,
            "max_tokens": limit,
            "ignore_eos": True,
            "temperature": 0,
        }
        answer: Answer = self._engine.answers(read(body, chat=False), body, lambda _: limit)[0]
        key = f"probe-{next(self._serial)}"
        self._engine.begin(key, answer)
        self._made[key] = 0
        return Sequence(key, answer.prompt_tokens, limit, limit, 0.0)

    def _drop(self, sequence: Sequence) -> None:
        self._engine.drop(sequence.id)
        del self._made[sequence.id]

    async def _prefill(self, sequence: Sequence) -> Sample:
        chunk = Chunk(sequence, sequence.prompt_tokens, True)
        return await self._run(Action.PREFILL, [chunk], [])

    async def _run(
        self,
        action: Action,
        prefill: list[Chunk],
        decode: list[Sequence],
        *,
        resumed: bool = True,
    ) -> Sample:
        held = sum(sequence.prompt_tokens + self._made[sequence.id] for sequence in decode)
        stage = Stage(action, Reason.ENGINE_IDLE, tuple(prefill), tuple(decode), held)
        for chunk in prefill:
            chunk.sequence.slot = len(decode)
        iteration: Iteration = await self._engine.run(stage, resumed=resumed)
        for chunk in prefill:
            chunk.sequence.prefilled += chunk.tokens
        for key in iteration.tokens:
            self._made[key] += 1
        seconds = iteration.end_s - iteration.start_s
        return Sample(action, stage.prompt_tokens, len(decode), held, seconds)
