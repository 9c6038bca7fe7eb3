"""Measures an OpenAI-compatible server from outside, from the times at which its tokens come.

Rules:
- a prefill is the time to the first token of a request that is alone; it contains the way to the
  server and back, and on a server whose prefill makes no token, one decode round;
- a decode round is the time between tokens while a given number of streams is being served: from
  when the last of them has begun until one has ended. Tokens come late, and then several at once;
  so that time is divided into few stretches, each of `STRETCH` rounds and `LEAST_S` or more, or not
  at all, and of each the whole time counts;
- mixed iterations cannot be told from outside;
- prompts are words, and only the server knows how many tokens these are: what it has said of those
  before gives the number of words of the next.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import orjson

from router.lab.calibration.shapes import STRETCH, Shapes
from router.settings.base import BadSettings
from router.settings.secrets import bearer
from solver.cost.calibration import Sample
from solver.cost.model import Action

LEAST_S = 0.1  # a token is read up to some milliseconds late
WORDS = "time world year people way day man thing woman life child work week case point".split()  # noqa: SIM905


@dataclass(slots=True)
class Stream:
    """One answer as it came: when, and how many tokens it had then."""

    sent_s: float
    prompt_tokens: int = 0
    came: list[tuple[float, int]] = field(default_factory=list)


class HttpProbe:
    """Sends requests with prompts that no cache knows, and takes down when tokens come."""

    def __init__(
        self, url: str, model: str, shapes: Shapes, seed: int, key: str | None = None
    ) -> None:
        self._url, self._model, self._shapes, self._key = url, model, shapes, bearer(key)
        self._rng = random.Random(seed)
        self._words = self._tokens = 0  # of all prompts that the server has counted

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
            async with aiohttp.ClientSession(timeout=timeout, headers=self._key) as session:
                await self._stream(session, min(self._shapes.prompts), 2)  # it warms up
                for tokens in self._shapes.prompts:
                    words = self._words_of(tokens)
                    for _ in range(self._shapes.rounds):
                        alone = await self._stream(session, words, 1)
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
        words, tokens = self._words_of(context), self._shapes.streamed_tokens
        streams = await asyncio.gather(
            *(self._stream(session, words, tokens) for _ in range(batch))
        )
        return stretches(streams, self._shapes.rounds)

    def _words_of(self, tokens: int) -> int:
        return max(1, tokens * self._words // self._tokens) if self._tokens else tokens

    async def _stream(self, session: aiohttp.ClientSession, words: int, tokens: int) -> Stream:
        body = {
            "model": self._model,
            "prompt": " ".join(self._rng.choices(WORDS, k=words)),
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        found = Stream(time.monotonic())
        async with session.post(f"{self._url}/v1/completions", json=body) as response:
            if response.status != 200:
                text = (await response.text())[:200]
                raise BadSettings(f"upstream: {self._url}: status {response.status}: {text}")
            rest = b""
            async for chunk in response.content.iter_any():
                now = time.monotonic()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                        _take(found, line[5:], now)
        if not found.came:
            raise BadSettings(f"upstream: {self._url}: a stream ended without a token")
        if found.prompt_tokens:
            self._words, self._tokens = self._words + words, self._tokens + found.prompt_tokens
        found.prompt_tokens = found.prompt_tokens or words
        return found


def _take(stream: Stream, data: bytes, now: float) -> None:
    event: dict[str, Any] = orjson.loads(data)
    if "error" in event:
        raise BadSettings(f"upstream: {event['error']}")
    usage = event.get("usage") or {}
    stream.prompt_tokens = usage.get("prompt_tokens", stream.prompt_tokens)
    for choice in event.get("choices") or ():
        before = stream.came[-1][1] if stream.came else 0
        only_ends = choice.get("finish_reason") is not None and not choice.get("text")
        made = usage.get("completion_tokens", before + (not only_ends))
        stream.came.append((now, made))


def stretches(streams: list[Stream], most: int) -> list[Sample]:
    """Decode rounds of streams that were served at once: up to `most` samples, one a stretch."""
    start = max(stream.came[0][0] for stream in streams)
    end = min(stream.came[-1][0] for stream in streams)
    marks = list({at: (at, made) for at, made in streams[0].came if start < at <= end}.values())
    if len(marks) < 2:
        return []
    (begun_s, least), (ended_s, last) = marks[0], marks[-1]
    parts = max(1, min(most, (last - least) // STRETCH, int((ended_s - begun_s) / LEAST_S)))
    counts = [made for _, made in marks]
    edges = [marks[bisect_left(counts, least + (last - least) * k / parts)] for k in range(parts)]
    prompts = sum(stream.prompt_tokens for stream in streams)
    found: list[Sample] = []
    for (begun_s, before), (ended_s, after) in pairwise([*edges, marks[-1]]):
        if after > before:
            made = sum(_at(stream, begun_s) for stream in streams)
            held = prompts + made + len(streams) * (after - before - 1) // 2
            each_s = (ended_s - begun_s) / (after - before)
            found.append(Sample(Action.DECODE, 0, len(streams), held, each_s))
    return found


def _at(stream: Stream, now: float) -> int:
    """Tokens that had come by then."""
    return max((tokens for at, tokens in stream.came if at <= now), default=0)
