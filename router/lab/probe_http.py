"""Measures an OpenAI-compatible server from outside, from the times at which its tokens come.

Rules:
- a prefill is the time to the first token of a request that is alone; it contains the way to the
  server and back, and on a server whose prefill makes no token, one decode round;
- a decode round is the time between tokens while a given number of streams is being served, taken
  over stretches of `STRETCH` tokens, after the last of them has begun and before one has ended;
- mixed iterations cannot be told from outside.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import orjson

from router.lab.shapes import Shapes
from router.settings import BadSettings
from solver.calibration import Sample
from solver.sequence import Action

STRETCH = 4
WORDS = "time world year people way day man thing woman life child work week case point".split()  # noqa: SIM905


@dataclass(slots=True)
class Stream:
    """One answer as it came: when, and how many tokens it had then."""

    sent_s: float
    prompt_tokens: int = 0
    came: list[tuple[float, int]] = field(default_factory=list)


class HttpProbe:
    """Sends requests with prompts that no cache knows, and takes down when tokens come."""

    def __init__(self, url: str, model: str, shapes: Shapes, seed: int) -> None:
        self._url, self._model, self._shapes = url, model, shapes
        self._rng = random.Random(seed)

    @property
    def samples(self) -> int:
        """How many `measure` yields at most."""
        rounds = self._shapes.rounds
        return (len(self._shapes.prompts) + len(self._shapes.decodes)) * rounds

    async def measure(self) -> AsyncIterator[Sample]:
        """Prefills and decode rounds.

        Raises:
            BadSettings: if the server cannot be reached, or does not answer as it should.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                await self._stream(session, min(self._shapes.prompts), 2)  # it warms up
                for tokens in self._shapes.prompts:
                    for _ in range(self._shapes.rounds):
                        alone = await self._stream(session, tokens, 1)
                        first_s = alone.came[0][0] - alone.sent_s
                        yield Sample(Action.PREFILL, alone.prompt_tokens, 0, 0, first_s)
                for batch, context in self._shapes.decodes:
                    for sample in await self._rounds(session, batch, context):
                        yield sample
        except aiohttp.ClientError as error:
            raise BadSettings(f"upstream: {self._url}: {error}") from error

    async def _rounds(
        self, session: aiohttp.ClientSession, batch: int, context: int
    ) -> list[Sample]:
        tokens = STRETCH * (self._shapes.rounds + 2)
        streams = await asyncio.gather(
            *(self._stream(session, context, tokens) for _ in range(batch))
        )
        return stretches(streams, self._shapes.rounds)

    async def _stream(self, session: aiohttp.ClientSession, prompt: int, tokens: int) -> Stream:
        body = {
            "model": self._model,
            "prompt": " ".join(self._rng.choices(WORDS, k=prompt)),
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        found = Stream(time.monotonic())
        async with session.post(f"{self._url}/v1/completions", json=body) as response:
            if response.status != 200:
                told = (await response.text())[:200]
                raise BadSettings(f"upstream: {self._url}: status {response.status}: {told}")
            async for line in response.content:
                if line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
                    _take(found, line[5:], time.monotonic())
        if not found.came:
            raise BadSettings(f"upstream: {self._url}: a stream ended without a token")
        found.prompt_tokens = found.prompt_tokens or prompt
        return found


def _take(stream: Stream, data: bytes, now: float) -> None:
    event: dict[str, Any] = orjson.loads(data)
    if "error" in event:
        raise BadSettings(f"upstream: {event['error']}")
    usage = event.get("usage") or {}
    stream.prompt_tokens = usage.get("prompt_tokens", stream.prompt_tokens)
    if event.get("choices"):
        before = stream.came[-1][1] if stream.came else 0
        stream.came.append((now, usage.get("completion_tokens", before + 1)))


def stretches(streams: list[Stream], most: int) -> list[Sample]:
    """Decode rounds of streams that were served at once: one sample a stretch of tokens."""
    start = max(stream.came[0][0] for stream in streams)
    end = min(stream.came[-1][0] for stream in streams)
    prompts = sum(stream.prompt_tokens for stream in streams)
    watched = streams[0].came
    marks = [one for one in watched if start < one[0] <= end][::STRETCH]
    found: list[Sample] = []
    for (begun_s, before), (ended_s, after) in pairwise(marks):
        made = sum(_at(stream, begun_s) for stream in streams)
        if after > before and ended_s > begun_s:
            each_s = (ended_s - begun_s) / (after - before)
            held = prompts + made + len(streams) * (after - before - 1) // 2
            found.append(Sample(Action.DECODE, 0, len(streams), held, each_s))
    return found[:most]


def _at(stream: Stream, now: float) -> int:
    """Tokens that had come by then."""
    return max((tokens for at, tokens in stream.came if at <= now), default=0)
