"""Chooses tokens inside transformers' continuous batching, for each request by its own parameters.

Batched generation there ends in one argmax over all rows. A row that wants to be sampled gets
Gumbel noise on its scores first: the largest of ``score + noise`` is a sample of their softmax.
Rows whose requests want nothing but the likeliest token are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers.generation.continuous_batching import cb_logits_processors

from router.agent.engines.transformers.sampling_params import SamplingParams

State = Any  # transformers' FutureRequestState


@dataclass(slots=True)
class SamplerState:
    """One answer's parameters, its source of randomness, and what has been said so far.

    `likely` is the last row of log probabilities, where these are asked for.
    """

    sampling: SamplingParams
    generator: torch.Generator
    prompt: Sequence[int]
    ends: tuple[int, ...]
    made: list[int] = field(default_factory=list)
    likely: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        sampling: SamplingParams,
        choice: int,
        prompt: Sequence[int],
        ends: tuple[int, ...],
        device: torch.device,
    ) -> SamplerState:
        """For the n-th `choice` of a request; each has its own randomness."""
        generator = torch.Generator(device)
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed((sampling.seed + choice) % (1 << 63))
        return cls(sampling, generator, prompt, ends)


class Sampler(cb_logits_processors.ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """All answers' parameters, by request id."""

    supported_kwargs: ClassVar[dict[str, type]] = {}
    ignored_kwargs: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.answers: dict[str, SamplerState] = {}
        self._rows: list[SamplerState | None] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """There are no tensors to fill."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[State]) -> torch.Tensor:
        """Remember whose rows come next."""
        self._rows = [self.answers.get(one.state.request_id) for one in requests_with_new_token]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """(rows, vocabulary) scores, so that the largest is the token to take."""
        for row, answer in enumerate(self._rows):
            if answer is not None and not answer.sampling.plain:
                scores[row] = adjusted_scores(scores[row], answer)
        return scores


def adjusted_scores(scores: torch.Tensor, answer: SamplerState) -> torch.Tensor:
    """(vocabulary,) scores after penalties, temperature, cuts and noise."""
    params = answer.sampling
    answer.likely = None if params.logprobs is None else scores.log_softmax(-1)
    scores = _penalised(scores.clone(), answer)
    if len(answer.made) < params.min_tokens:
        scores[list(answer.ends)] = -torch.inf
    if params.temperature == 0:
        return scores
    scores = _cut(scores / params.temperature, params)
    noise = torch.empty_like(scores).exponential_(generator=answer.generator)
    return scores - noise.log()  # minus the logarithm of an exponential variate is Gumbel's


def _penalised(scores: torch.Tensor, answer: SamplerState) -> torch.Tensor:
    params = answer.sampling
    if params.repetition != 1.0:
        seen = torch.tensor([*answer.prompt, *answer.made], device=scores.device).unique()
        old = scores[seen]
        scores[seen] = torch.where(old > 0, old / params.repetition, old * params.repetition)
    if (params.presence or params.frequency) and answer.made:
        said, times = torch.tensor(answer.made, device=scores.device).unique(return_counts=True)
        scores[said] -= params.presence + params.frequency * times
    for token, bias in params.bias:
        scores[token] += bias
    return scores


def _cut(scores: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Leave out what is too unlikely; the likeliest always stays."""
    if params.top_k and params.top_k < len(scores):
        least = scores.topk(params.top_k).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if params.min_p > 0:
        likely = scores.softmax(-1)
        scores = scores.masked_fill(likely < params.min_p * likely.max(), -torch.inf)
    if params.top_p < 1.0:
        likely, order = scores.softmax(-1).sort(descending=True)
        before = likely.cumsum(-1) - likely
        drop = before >= params.top_p
        drop[0] = False
        scores = scores.masked_fill(drop.scatter(0, order, drop), -torch.inf)
    return scores
