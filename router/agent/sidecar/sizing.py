"""Requests as the releaser sees them, from bodies that are passed on unchanged."""

from __future__ import annotations

import itertools
from math import ceil

from router.agent.queue_position import QueuePosition
from router.http.schemas import CompletionRequest, Prompt
from router.http.usage import Usage
from solver.batching.outside.held import HeldRequest
from solver.batching.sequence import Sequence
from solver.cost.estimators import TokenEstimator

# What an answer is taken to have where nothing limits it, nor says what to expect.
ANSWER_TOKENS = 256


class RequestSizer:
    """Sizes requests in tokens, and learns how many tokens a prompt's bytes are."""

    def __init__(self) -> None:
        self._estimator = TokenEstimator()
        self._serial = itertools.count(1)

    def size(
        self,
        request: CompletionRequest | None,
        *,
        hint: float | None,
        position: QueuePosition,
        now: float,
        most: int,
    ) -> HeldRequest:
        """A request of at most `most` prompt and output tokens a choice.

        One that cannot be read is the server's to refuse: it counts as one short sequence.
        """
        number = next(self._serial)
        prompts = (Prompt(""),) if request is None else request.prompts
        n = 1 if request is None else request.n
        lengths = [self._tokens(prompt) for prompt in prompts for _ in range(n)]
        sequences = [
            self._sequence(f"{number}/{k}", tokens, request, hint, position, now, most)
            for k, tokens in enumerate(lengths)
        ]
        return HeldRequest(tuple(sequences), request is not None and request.stream)

    def learn(self, request: CompletionRequest | None, usage: Usage | None) -> None:
        """A request has ended, and the server has counted its prompt."""
        if request is not None and usage is not None and len(request.prompts) == 1:
            prompt = request.prompts[0]
            if prompt.token_ids is None:
                self._estimator.observe(prompt.text_bytes, usage.prompt_tokens)

    def _tokens(self, prompt: Prompt) -> int:
        if prompt.token_ids is not None:
            return max(1, prompt.token_ids)
        return self._estimator.estimate(prompt.text_bytes)

    def _sequence(
        self,
        key: str,
        prompt_tokens: int,
        request: CompletionRequest | None,
        hint: float | None,
        position: QueuePosition,
        now: float,
        most: int,
    ) -> Sequence:
        left = max(1, most - prompt_tokens)
        limit = 1 if request is None else max(1, min(left, request.output_limit(left)))
        limited = request is not None and request.max_tokens is not None
        guess = float(limit if limited else ANSWER_TOKENS) if hint is None else hint
        return Sequence(
            key,
            prompt_tokens,
            min(guess, limit),
            ceil(limit),
            now - position.waited_s,
            (),
            position.priority,
            now + position.deadline_s,
            None,
            position.targets,
            *position.turn(now),
        )
