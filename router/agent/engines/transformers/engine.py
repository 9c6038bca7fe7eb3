"""A real model under Hugging Face's continuous batching, one iteration at a time.

Theirs is a loop in a thread of its own, with a scheduler inside; here the agent's loop asks for an
iteration, which runs in the one thread that touches the model: schedule what was told, compute,
choose tokens. Requests' states, the paged cache and the forward pass are theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from router.agent.engines.base import (
    Answer,
    Body,
    Iteration,
    Limit,
    Logprob,
    Token,
)
from router.agent.engines.transformers.chat import render
from router.agent.engines.transformers.detokenizer import Detokenizer
from router.agent.engines.transformers.output_params import OutputParams, flag, read_output_params
from router.agent.engines.transformers.sampler import Sampler, SamplerState
from router.agent.engines.transformers.sampling_params import SamplingParams, read_sampling_params
from router.agent.engines.transformers.scheduler import ExternalScheduler
from router.http.errors import RequestError
from router.http.schemas import CompletionRequest
from solver.batching.sequence import Chunk, Stage
from solver.batching.sequence import Sequence as Planned

HfObject = Any  # an object of transformers', which has no types


@dataclass(slots=True, kw_only=True)
class TransformersAnswer(Answer):
    """One choice: its prompt's tokens, and how its own are chosen."""

    ids: Sequence[int]
    choice: int
    sampling: SamplingParams
    output_params: OutputParams


@dataclass(slots=True)
class _Running:
    answer: TransformersAnswer
    state: RequestState
    sampler_state: SamplerState
    text: Detokenizer


class _NoOutputRouter:
    """Where transformers delivers outputs; they are read from the states instead."""

    def deliver_batch(self, outputs: list[Any]) -> None:
        """All that have finished."""

    def fail_and_deliver(self, state: object, error: Exception) -> None:  # noqa: ARG002
        """A request that cannot go on: nor can the engine."""
        raise error


class TransformersEngine:
    """See the module; made by `router.agent.engines.transformers.loading`."""

    name = "transformers"

    def __init__(
        self,
        model: HfObject,
        tokenizer: HfObject,
        processor: HfObject,
        sampler: Sampler,
        ends: tuple[int, ...],
    ) -> None:
        self._model, self._tokenizer, self._processor = model, tokenizer, processor
        self._scheduler: ExternalScheduler = processor.scheduler
        self._sampler, self._ends = sampler, ends
        self._running: dict[str, _Running] = {}
        self._dropped: list[str] = []
        self._thread = ThreadPoolExecutor(1, "engine")
        self._ended_s = time.monotonic()
        processor.output_router = _NoOutputRouter()

    def answers(self, request: CompletionRequest, body: Body, limit: Limit) -> list[Answer]:
        """See `Engine`; chats go through the model's own template."""
        vocabulary = self._model.config.get_text_config().vocab_size
        defaults = self._model.generation_config.to_dict()
        if not defaults.get("do_sample"):  # its temperature and the like mean nothing then
            defaults = {}
        sampling = read_sampling_params(request, body, defaults, vocabulary)
        output_params = read_output_params(request, body, self._ends, vocabulary)
        found: list[Answer] = []
        for ids in self._prompts(request, body):
            if any(token >= vocabulary for token in ids):
                message = f"'prompt' has a token above {vocabulary - 1}, the model's last."
                raise RequestError(message, param="prompt", code="invalid_value")
            most = limit(len(ids))
            found += (
                TransformersAnswer(
                    prompt_tokens=len(ids),
                    limit=most,
                    ids=ids,
                    choice=choice,
                    sampling=sampling,
                    output_params=output_params,
                )
                for choice in range(request.n)
            )
        return found

    def _prompts(self, request: CompletionRequest, body: Body) -> list[list[int]]:
        if request.chat:
            # The template has put its special tokens in already.
            special = flag(body, "add_special_tokens", default=False)
            return [self._tokens(render(self._tokenizer, body), "messages", special=special)]
        prompts = body["prompt"]
        if isinstance(prompts, str) or isinstance(prompts[0], int):
            prompts = [prompts]
        special = flag(body, "add_special_tokens", default=True)
        return [self._tokens(prompt, "prompt", special=special) for prompt in prompts]

    def _tokens(self, prompt: str | list[int], name: str, *, special: bool) -> list[int]:
        ids: list[int] = (
            self._tokenizer(prompt, add_special_tokens=special)["input_ids"]
            if isinstance(prompt, str)
            else prompt
        )
        if not ids:
            raise RequestError(f"'{name}' has no token.", param=name, code="invalid_value")
        return list(ids)

    def begin(self, sequence_id: str, answer: Answer) -> None:
        """See `Engine`."""
        assert isinstance(answer, TransformersAnswer)
        params = answer.output_params
        state = RequestState(
            request_id=sequence_id,
            initial_tokens=list(answer.ids),
            max_new_tokens=answer.limit,
            eos_token_id=list(params.ends),
        )
        ends = tuple({*self._ends, *params.ends})
        sampler_state = SamplerState.of(
            answer.sampling, answer.choice, answer.ids, ends, self._model.device
        )
        stream = DecodeStream(skip_special_tokens=params.skip_special)
        step = partial(stream.step, self._tokenizer.backend_tokenizer)
        decode = partial(self._tokenizer.decode, skip_special_tokens=params.skip_special)
        text = Detokenizer(step, decode, params.stop, include_stop=params.include_stop)
        self._sampler.answers[sequence_id] = sampler_state
        self._running[sequence_id] = _Running(answer, state, sampler_state, text)

    def drop(self, sequence_id: str) -> None:
        """See `Engine`; its memory falls free before the next iteration."""
        self._dropped.append(sequence_id)

    async def run(self, stage: Stage, *, resumed: bool) -> Iteration:
        """Compute a stage in the engine's thread."""
        start_s = time.monotonic() if resumed else self._ended_s
        compute = asyncio.get_running_loop().run_in_executor
        tokens = await compute(self._thread, self._compute, stage)
        self._ended_s = time.monotonic()
        return Iteration(start_s, self._ended_s, tokens)

    def close(self) -> None:
        """End the engine's thread."""
        self._thread.shutdown()

    def _compute(self, stage: Stage) -> dict[str, Token]:
        while self._dropped:
            self._forget(self._dropped.pop())
        for key in stage.preempted:
            self._begin_again(key)
        planned = [(sequence, 1) for sequence in stage.decode]
        planned += [(chunk.sequence, self._chunk(chunk)) for chunk in stage.prefill]
        planned = [(sequence, count) for sequence, count in planned if sequence.id in self._running]
        if not planned:
            return {}
        self._scheduler.planned = [(self._enter(sequence), count) for sequence, count in planned]
        with torch.inference_mode():
            assert self._processor.prepare_next_batch()
            self._processor._generation_step(self._model)  # noqa: SLF001 - their loop's own steps
            self._processor.update_batch()
        return {
            sequence.id: self._token(sequence.id)
            for sequence, _ in planned
            if not self._running[sequence.id].state.remaining_prefill_tokens
        }

    def _chunk(self, chunk: Chunk) -> int:
        """Tokens of a chunk; the last takes all that is left.

        A token more than the batcher counts, where one that was preempted had its first token from
        its prefill.
        """
        running = self._running.get(chunk.sequence.id)
        if running is None or not chunk.last:
            return int(chunk.tokens)
        return len(running.state.remaining_prefill_tokens)

    def _enter(self, sequence: Planned) -> RequestState:
        state = self._running[sequence.id].state
        if state.status == RequestStatus.PENDING:
            self._scheduler.waiting_requests.setdefault(sequence.id, state)
        return state

    def _begin_again(self, key: str) -> None:
        """It has lost its memory: what it has made is part of its prompt now."""
        running = self._running.get(key)
        if running is not None:
            self._scheduler.finish_request(key)
            running.state = running.state.create_equivalent_initial_request()

    def _token(self, key: str) -> Token:
        """The token that was just made; forgets those that have ended."""
        running = self._running[key]
        token = int(running.state.generated_tokens[-1])
        running.sampler_state.made.append(token)
        ended = running.state.status == RequestStatus.FINISHED
        params = running.answer.output_params
        by_itself = ended and token in params.ends
        text, stopped = "", False
        if params.include_stop or not by_itself:
            text, stopped = running.text.add(token)
        reason = None
        if stopped or ended:
            reason = "stop" if stopped or by_itself else "length"
            text += "" if stopped else running.text.rest()
            self._forget(key)
        return Token(text, reason, self._logprob(running, token))

    def _logprob(self, running: _Running, token: int) -> Logprob | None:
        likely, count = running.sampler_state.likely, running.answer.sampling.logprobs
        if likely is None or count is None:
            return None
        values, ids = likely.topk(count)
        top = zip(ids.tolist(), values.tolist(), strict=True)
        words = tuple((str(self._tokenizer.decode([one])), value) for one, value in top)
        return Logprob(str(self._tokenizer.decode([token])), float(likely[token]), words)

    def _forget(self, key: str) -> None:
        if self._running.pop(key, None) is not None:
            if key in self._scheduler.active_requests:  # else they have done so themselves
                self._scheduler.finish_request(key)
            self._scheduler.waiting_requests.pop(key, None)
            del self._sampler.answers[key]
