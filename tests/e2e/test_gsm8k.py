"""The whole thing: every GSM8K question through real processes with the official client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.helpers import Fleet, Sample, gsm8k, scrape, utilization, write_lengths

SLOTS, AGENTS, CONCURRENCY = 12, 4, 64


@dataclass(frozen=True)
class Run:
    """One pass over all questions."""

    tokens: list[int]
    usage: list[int]
    before: list[Sample]
    after: list[Sample]
    gateway: Sample

    @property
    def utilization(self) -> float:
        return utilization(self.before, self.after)


@pytest.fixture(scope="module")
def questions() -> list[tuple[str, int]]:
    return gsm8k()


@pytest.fixture(scope="module")
def lengths(questions: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lengths(tmp_path_factory.mktemp("gsm8k") / "lengths.jsonl", questions)


@pytest.fixture(scope="module")
def lagrangian(lengths: Path) -> Iterator[Fleet]:
    with _fleet("lagrangian", lengths) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def whole(lagrangian: Fleet, questions: list[tuple[str, int]]) -> Run:
    return asyncio.run(_ask_all(lagrangian, questions, stream=False))


@pytest.fixture(scope="module")
def streamed(lagrangian: Fleet, questions: list[tuple[str, int]], whole: Run) -> Run:
    assert whole.tokens  # after it, on the same fleet
    return asyncio.run(_ask_all(lagrangian, questions, stream=True))


def _fleet(policy: str, lengths: Path) -> Fleet:
    options = {
        "agents": AGENTS,
        "slots": SLOTS,
        "speed": 10,
        "policy": policy,
        "lengths": lengths,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return Fleet(*flags)


async def _ask_all(fleet: Fleet, questions: list[tuple[str, int]], *, stream: bool) -> Run:
    before = [scrape(agent) for agent in fleet.agents]
    gate = asyncio.Semaphore(CONCURRENCY)
    async with AsyncOpenAI(base_url=fleet.url + "/v1", api_key="-", max_retries=0) as client:

        async def ask(question: str, length: int) -> tuple[int, int]:
            hint = {"x-makespan-expected-tokens": str(length)}
            async with gate:
                return await (_stream if stream else _whole)(client, question, hint)

        answers = await asyncio.gather(*(ask(*row) for row in questions))
    after = [scrape(agent) for agent in fleet.agents]
    tokens, usage = (list(column) for column in zip(*answers, strict=True))
    return Run(tokens, usage, before, after, scrape(fleet.url))


async def _whole(client: AsyncOpenAI, question: str, hint: dict[str, str]) -> tuple[int, int]:
    answer = await client.chat.completions.create(
        model="llama-65b",
        messages=[{"role": "user", "content": question}],
        max_tokens=512,
        extra_headers=hint,
    )
    assert answer.usage is not None
    text = answer.choices[0].message.content or ""
    return len(text.split()), answer.usage.completion_tokens


async def _stream(client: AsyncOpenAI, question: str, hint: dict[str, str]) -> tuple[int, int]:
    stream = await client.chat.completions.create(
        model="llama-65b",
        messages=[{"role": "user", "content": question}],
        max_tokens=512,
        extra_headers=hint,
        stream=True,
        stream_options={"include_usage": True},
    )
    tokens = usage = 0
    async for chunk in stream:
        tokens += sum(bool(choice.delta.content) for choice in chunk.choices)
        if chunk.usage is not None:
            usage = chunk.usage.completion_tokens
    return tokens, usage


@pytest.mark.parametrize("mode", ["whole", "streamed"])
def test_every_answer_has_its_tokens(
    mode: str, questions: list[tuple[str, int]], request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(mode)
    expected = [length for _, length in questions]
    assert run.tokens == expected
    assert run.usage == expected


def test_every_request_ends_completed(whole: Run, streamed: Run) -> None:
    ended = 'makespan_requests_total{model="llama-65b",outcome="completed"}'
    for count, run in ((1, whole), (2, streamed)):
        assert run.gateway.values[ended] == count * len(run.tokens)
        assert run.gateway.total("makespan_requests_total") == count * len(run.tokens)


@pytest.mark.parametrize("mode", ["whole", "streamed"])
def test_slot_time_adds_up(mode: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(mode)
    pairs = list(zip(run.before, run.after, strict=True))
    name = "makespan_slot_seconds_total"
    booked = sum(after.total(name) - before.total(name) for before, after in pairs)
    passed = sum(after.time_s - before.time_s for before, after in pairs)
    assert booked == pytest.approx(SLOTS * passed, rel=0.01)


def test_lagrangian_uses_slots_better_than_prefill_first(
    whole: Run, questions: list[tuple[str, int]], lengths: Path
) -> None:
    with _fleet("prefill-first", lengths) as fleet:
        baseline = asyncio.run(_ask_all(fleet, questions, stream=False))
    assert baseline.tokens == whole.tokens
    print(f"utilization: {whole.utilization:.4f} against {baseline.utilization:.4f}")
    assert whole.utilization > baseline.utilization
