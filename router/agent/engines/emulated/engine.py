"""An engine without a model that takes a real one's time.

Rules:
- a stage lasts exactly what the cost model says, on a timeline of the engine's own: the next stage
  starts when the last one ended, not when this process happened to wake up;
- if this process cannot keep up by more than `MOST_LAG_S`, the engine is honestly slower;
- an answer's length and words depend on the seed and the prompt alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from router.agent.engines.base import Answer, Body, Iteration, Limit, Token
from router.agent.engines.emulated.text import (
    LONGEST_WORD,
    Words,
    count_tokens,
    digest,
)
from router.http.errors import RequestError
from router.http.outline import apart
from router.http.prompts import chat_prompts
from router.http.schemas import CompletionRequest, Prompt
from solver.batching.sequence import Stage
from solver.cost.model import CostModel
from solver.routing.prefixes import TEXT_BYTES, id_blocks, text_blocks
from solver.sim.workload import gsm8k_output

log = logging.getLogger(__name__)

# A late timer or a garbage collection is made up for; a busy machine is not.
MOST_LAG_S = 0.1
COMPLAIN_EVERY_S = 10.0
MOST_STOPS = 16


@dataclass(slots=True, kw_only=True)
class EmulatedAnswer(Answer):
    """What the engine will say to one prompt, token by token.

    Attributes:
        tokens: length of the answer, unknown to everybody else until it ends.
        finish_reason: ``stop``, or ``length`` if the request's limit cut it.
        made: how many of these have been said.
    """

    tokens: int
    finish_reason: str
    words: Words
    made: int = field(default=0, init=False)

    def next(self) -> Token:
        """The next token."""
        self.made += 1
        last = self.made >= self.tokens
        return Token(self.words.next(), self.finish_reason if last else None)


class EmulatedEngine:
    """Runs stages by the clock; see the module's rules."""

    name = "emulated"

    def __init__(self, cost: CostModel, lengths: Mapping[str, int], seed: int) -> None:
        self.cost = cost
        self._lengths, self._seed = lengths, seed
        self._answers: dict[str, EmulatedAnswer] = {}
        self._free_s = 0.0
        self._complained_s = float("-inf")

    def answers(self, request: CompletionRequest, body: Body, limit: Limit) -> list[Answer]:
        """See `Engine`."""
        found: list[Answer] = []
        for prompt in request.prompts:
            tokens = count_tokens(prompt.text) if prompt.token_ids is None else prompt.token_ids
            most, blocks = limit(tokens), _blocks(prompt, body)
            found += (
                self._answer(request, prompt, k, tokens, most, blocks) for k in range(request.n)
            )
        return found

    def _answer(
        self,
        request: CompletionRequest,
        prompt: Prompt,
        choice: int,
        tokens: int,
        limit: int,
        blocks: tuple[int, ...],
    ) -> EmulatedAnswer:
        key = digest(prompt.text)
        rng = random.Random(f"{self._seed}/{key}/{prompt.token_ids}/{choice}")
        length = self._lengths.get(key) or gsm8k_output(rng)
        if request.ignore_eos:
            length = limit
        if len(request.stop) > MOST_STOPS:
            message = f"'stop' has {len(request.stop)} strings; this engine takes {MOST_STOPS}."
            raise RequestError(message, param="stop", code="invalid_value")
        if request.stop:
            length = self._stopped(request.stop, rng, min(length, limit))
        reason = "stop" if length < limit else "length"
        return EmulatedAnswer(
            prompt_tokens=tokens,
            limit=limit,
            blocks=blocks,
            tokens=min(length, limit),
            finish_reason=reason,
            words=Words(rng),
        )

    def begin(self, sequence_id: str, answer: Answer) -> None:
        """See `Engine`."""
        assert isinstance(answer, EmulatedAnswer)
        self._answers[sequence_id] = answer

    def drop(self, sequence_id: str) -> None:
        """See `Engine`."""
        self._answers.pop(sequence_id, None)

    def _stopped(self, stop: tuple[str, ...], rng: random.Random, most: int) -> int:
        """Tokens before a stop string would appear; the words are drawn ahead, then once more."""
        state = rng.getstate()
        words, text_so_far = Words(rng), ""
        window = LONGEST_WORD + max(len(text) for text in stop)
        for made in range(1, most + 1):
            text_so_far = text_so_far[-window:] + words.next()
            if any(text in text_so_far for text in stop):
                most = max(1, made - 1)
                break
        rng.setstate(state)
        return most

    async def run(self, stage: Stage, *, resumed: bool) -> Iteration:
        """Take the stage's time, and say a word for each who decodes."""
        now = time.monotonic()
        start = now if resumed or now - self._free_s > MOST_LAG_S else self._free_s
        if not resumed and start == now:
            self._complain(now)
        end = start + stage.duration_s(self.cost)
        self._free_s = end
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        return Iteration(start, end, self.next_tokens(stage))

    def next_tokens(self, stage: Stage) -> dict[str, Token]:
        """The tokens of a stage."""
        tokens: dict[str, Token] = {}
        for sequence in stage.decode:
            answer = self._answers.get(sequence.id)
            if answer is None:
                continue  # dropped during this stage
            tokens[sequence.id] = token = answer.next()
            if token.finish_reason is not None:
                del self._answers[sequence.id]
        return tokens

    def _complain(self, now: float) -> None:
        if now - self._complained_s > COMPLAIN_EVERY_S:
            self._complained_s = now
            log.warning("this machine is too slow for the emulated engine's speed: it runs slower")


def _blocks(prompt: Prompt, body: Body) -> tuple[int, ...]:
    """Hashes of a prompt's blocks: with its salts, and its images where they stand."""
    if prompt.token_ids is not None:
        return id_blocks(prompt.ids, apart(body))
    named = prompt.text
    if "messages" in body:
        named = chat_prompts({"messages": body["messages"]}, 0)[0].named or named
    return text_blocks(named, apart(body))[: prompt.text_bytes // TEXT_BYTES]
