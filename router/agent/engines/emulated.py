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
from dataclasses import dataclass

from router.agent.engines.text import LONGEST_WORD, Words, count_tokens, digest
from router.errors import RequestError
from router.schemas import CompletionRequest, Prompt
from solver.cost import CostModel
from solver.prefix import id_blocks, text_blocks
from solver.sequence import Stage
from solver.sim.workload import gsm8k_output

log = logging.getLogger(__name__)

# A late timer or a garbage collection is made up for; a busy machine is not.
MOST_LAG_S = 0.1
COMPLAIN_EVERY_S = 10.0
MOST_STOPS = 16


@dataclass(slots=True)
class Answer:
    """What the engine will say to one prompt, token by token.

    Attributes:
        prompt_tokens: length of the prompt.
        tokens: length of the answer, unknown to everybody else until it ends.
        finish_reason: ``stop``, or ``length`` if the request's limit cut it.
        blocks: hashes of the prompt's blocks, for the prefix cache.
    """

    prompt_tokens: int
    tokens: int
    finish_reason: str
    words: Words
    blocks: tuple[int, ...] = ()

    @property
    def spoken(self) -> str:
        """The next token's text."""
        return self.words.next()


class EmulatedEngine:
    """Runs stages by the clock; see the module's rules."""

    name = "emulated"

    def __init__(self, cost: CostModel, lengths: Mapping[str, int], seed: int) -> None:
        self.cost = cost
        self._lengths, self._seed = lengths, seed
        self._free_s = 0.0
        self._complained_s = float("-inf")

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Length of a prompt in this engine's tokens."""
        return count_tokens(prompt.text) if prompt.token_ids is None else prompt.token_ids

    def answer(self, request: CompletionRequest, prompt: Prompt, choice: int, limit: int) -> Answer:
        """The answer to one prompt, of at most `limit` tokens."""
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
        return Answer(
            self.prompt_tokens(prompt), min(length, limit), reason, Words(rng), _blocks(prompt)
        )

    def _stopped(self, stop: tuple[str, ...], rng: random.Random, most: int) -> int:
        """Tokens before a stop string would appear; the words are drawn ahead, then once more."""
        state = rng.getstate()
        words, said = Words(rng), ""
        window = LONGEST_WORD + max(len(text) for text in stop)
        for made in range(1, most + 1):
            said = said[-window:] + words.next()
            if any(text in said for text in stop):
                most = max(1, made - 1)
                break
        rng.setstate(state)
        return most

    async def run(self, stage: Stage, *, resumed: bool) -> tuple[float, float]:
        """Take the stage's time; `resumed`: the engine had nothing to do before.

        Returns:
            (start, end) in seconds of the monotonic clock.
        """
        now = time.monotonic()
        start = now if resumed or now - self._free_s > MOST_LAG_S else self._free_s
        if not resumed and start == now:
            self._complain(now)
        end = start + stage.duration_s(self.cost)
        self._free_s = end
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        return start, end

    def _complain(self, now: float) -> None:
        if now - self._complained_s > COMPLAIN_EVERY_S:
            self._complained_s = now
            log.warning("this machine is too slow for the emulated engine's speed: it runs slower")


def _blocks(prompt: Prompt) -> tuple[int, ...]:
    return text_blocks(prompt.text) if prompt.token_ids is None else id_blocks(prompt.ids)
