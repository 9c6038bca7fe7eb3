"""The whole thing: GSM8K questions through real processes with the official client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.helpers import Fleet, Process, Sample, gsm8k, scrape, write_lengths
from tests.waiting import PATIENCE_S

SLOTS, CLIENTS = 12, 64
ASKED = slice(None, None, 12)  # more than there are clients, who are more than slots
Questions = list[tuple[str, int]]


@dataclass(frozen=True)
class Run:
    """One pass over questions."""

    tokens: list[int]
    usage: list[int]
    before: list[Sample]
    after: list[Sample]
    gateway: Sample

    def spent(self, name: str) -> float:
        """What a counter of all agents has grown by."""
        pairs = zip(self.before, self.after, strict=True)
        return sum(after.total(name) - before.total(name) for before, after in pairs)


@pytest.fixture(scope="module")
def questions() -> Questions:
    return gsm8k()


@pytest.fixture(scope="module")
def lengths(questions: Questions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lengths(tmp_path_factory.mktemp("gsm8k") / "lengths.jsonl", questions)


@pytest.fixture(scope="module")
def lagrangian(lengths: Path) -> Iterator[Fleet]:
    flags = ("--agents", "4", "--slots", str(SLOTS), "--speed", "20", "--policy", "lagrangian")
    slow = ("--client-timeout-s", "600")  # 64 clients in one busy process
    with Fleet(*flags, *slow, "--lengths", str(lengths)) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def whole(lagrangian: Fleet, questions: Questions) -> Run:
    return asyncio.run(_ask_all(lagrangian.url, lagrangian.agents, questions[ASKED], stream=False))


@pytest.fixture(scope="module")
def streamed(lagrangian: Fleet, questions: Questions, whole: Run) -> Run:
    assert whole.tokens  # after it, on the same fleet
    return asyncio.run(_ask_all(lagrangian.url, lagrangian.agents, questions[ASKED], stream=True))


async def _ask_all(url: str, agents: Sequence[str], questions: Questions, *, stream: bool) -> Run:
    """Each of the clients asks one question after the other."""
    before = [scrape(agent) for agent in agents]
    answers: dict[int, tuple[int, int]] = {}
    todo = iter(enumerate(questions))
    async with AsyncOpenAI(
        base_url=url + "/v1",
        api_key="-",
        max_retries=0,
        timeout=PATIENCE_S,
    ) as client:

        async def ask_on() -> None:
            for k, (question, length) in todo:
                hint = {"x-makespan-expected-tokens": str(length)}
                answers[k] = await (_stream if stream else _whole)(client, question, hint)

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(ask_on())
    after = [scrape(agent) for agent in agents]
    tokens, usage = (
        list(column) for column in zip(*(answers[k] for k in range(len(questions))), strict=True)
    )
    return Run(tokens, usage, before, after, scrape(url))


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
    mode: str, questions: Questions, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(mode)
    expected = [length for _, length in questions[ASKED]]
    assert run.tokens == expected
    assert run.usage == expected


def test_every_request_ends_completed(whole: Run, streamed: Run) -> None:
    ended = 'makespan_requests_total{model="llama-65b",outcome="completed"}'
    for count, run in (
        (len(whole.tokens), whole),
        (len(whole.tokens) + len(streamed.tokens), streamed),
    ):
        assert run.gateway.values[ended] == count
        assert run.gateway.total("makespan_requests_total") == count


@pytest.mark.parametrize("mode", ["whole", "streamed"])
def test_slot_time_adds_up(mode: str, request: pytest.FixtureRequest) -> None:
    """What is booked lies between the shortest and the longest time that may have passed."""
    run: Run = request.getfixturevalue(mode)
    pairs = list(zip(run.before, run.after, strict=True))
    least = sum(after.asked_s - before.told_s for before, after in pairs)
    most = sum(after.told_s - before.asked_s for before, after in pairs)
    assert SLOTS * least <= run.spent("makespan_slot_seconds_total") <= SLOTS * most


def test_lagrangian_prefills_more_together_than_prefill_first(
    questions: Questions, lengths: Path
) -> None:
    """By which its slots stand still less: how much less, test_figures.py tells in virtual time.

    The first questions, of which more than there are slots wait at one agent at any time; no faster
    than a busy machine keeps up with, as what comes late shares no stage.
    """
    stages = {}
    for policy in ("lagrangian", "prefill-first"):
        flags = ("--slots", str(SLOTS), "--speed", "8", "--policy", policy)
        with Process("agent", "--port", "0", *flags, "--lengths", str(lengths)) as agent:
            url = agent.wait_for(r"listening url=(\S+)")
            run = asyncio.run(_ask_all(url, [url], questions[:128], stream=False))
        assert run.tokens == [length for _, length in questions[:128]]
        stages[policy] = run.spent("makespan_prefill_insertions_total")
    print(f"prefill stages: {stages}")
    assert stages["lagrangian"] < 0.9 * stages["prefill-first"]
