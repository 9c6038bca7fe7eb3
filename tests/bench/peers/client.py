"""An open-loop client: requests are sent when they are due, whatever has come of those before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import orjson

from tests.bench.peers.traffic import MOST_OUTPUT, Ask

# No run lasts so long; a request that gets no answer by then has failed.
GIVE_UP_S = 900.0
# Time for the first request to be made ready.
LEAD_S = 0.2
TOKEN, USAGE, ERROR = b'"content":"', b'"usage":{', b'data: {"error"'


@dataclass(slots=True)
class Answer:
    """What came of a request; times are seconds from the beginning of the run.

    Attributes:
        due_s, sent_s: when it should have been sent, and was.
        first_s, last_s: its first and its last token, if there was one.
        tokens: that came, by events.
        stall_s: longest time between two of them.
        output_tokens, cached_tokens, prompt_tokens: as the engine told at the end.
        worker: the engine's name for itself.
        error: why it failed; empty if it did not.
    """

    due_s: float
    sent_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0
    stall_s: float = 0.0
    output_tokens: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    worker: str = ""
    error: str = ""

    @property
    def ttft_s(self) -> float:
        """From when it was due to its first token."""
        return self.first_s - self.due_s

    @property
    def e2e_s(self) -> float:
        """From when it was due to its last token."""
        return self.last_s - self.due_s

    @property
    def tpot_s(self) -> float:
        """A token after the first; 0 if there is none."""
        return (self.last_s - self.first_s) / max(1, self.tokens - 1)

    def take(self, event: bytes, now: float) -> None:
        """An event of the stream that came at `now`."""
        if TOKEN in event:
            if self.tokens:
                self.stall_s = max(self.stall_s, now - self.last_s)
            else:
                self.first_s = now
            self.last_s, self.tokens = now, self.tokens + 1
        elif USAGE in event:
            self._account(orjson.loads(event.removeprefix(b"data: "))["usage"])
        elif event.startswith(ERROR):
            self.error = event.decode(errors="replace")[:300]

    def _account(self, usage: dict[str, object]) -> None:
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        self.output_tokens = int(str(usage["completion_tokens"]))
        self.prompt_tokens = int(str(usage["prompt_tokens"]))
        self.cached_tokens = int(cached or 0)


def body(ask: Ask, model: str) -> bytes:
    """As clients write it who do not know how long the answer will be."""
    roles = ("user", "assistant")
    messages = [{"role": roles[k % 2], "content": text} for k, text in enumerate(ask.messages)]
    return orjson.dumps(
        {
            "model": model,
            "messages": messages,
            "max_tokens": MOST_OUTPUT,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


async def replay(url: str, model: str, asks: Sequence[Ask]) -> list[Answer]:
    """What came of each; the bodies are made before the first is due."""
    bodies = [body(ask, model) for ask in asks]
    answers = [Answer(ask.at_s) for ask in asks]
    limits, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=GIVE_UP_S)
    async with aiohttp.ClientSession(url, connector=limits, timeout=patience) as client:
        start = time.monotonic() + LEAD_S
        async with asyncio.TaskGroup() as group:
            for ask, content, answer in zip(asks, bodies, answers, strict=True):
                await asyncio.sleep(max(0.0, start + ask.at_s - time.monotonic()))
                group.create_task(_send(client, content, answer, start))
    for ask, answer in zip(asks, answers, strict=True):
        if not answer.error and not answer.tokens == answer.output_tokens == ask.output_tokens:
            answer.error = f"{answer.tokens} tokens came of {ask.output_tokens}"
    return answers


async def _send(
    client: aiohttp.ClientSession, content: bytes, answer: Answer, start: float
) -> None:
    answer.sent_s = time.monotonic() - start
    headers = {"content-type": "application/json"}
    try:
        async with client.post("/v1/chat/completions", data=content, headers=headers) as response:
            answer.worker = response.headers.get("x-makespan-worker", "")
            if response.status != 200:
                answer.error = f"{response.status}: {await response.text()}"[:300]
                return
            rest = b""
            async for data in response.content.iter_any():
                now = time.monotonic() - start
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    answer.take(event, now)
    except (aiohttp.ClientError, TimeoutError) as error:
        answer.error = repr(error)
