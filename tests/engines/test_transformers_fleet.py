"""A gateway before two agents that run a real model, as processes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from tests import http
from tests.forked import child
from tests.helpers import Fleet, Process, scrape
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="needs `make transformers`"
)
MODEL = "tiny-llama"
ENGINE = ("--engine", "transformers", "--slots", "16", "--kv-tokens", "8192", "--threads", "1")


@pytest.fixture(scope="module")
def fleet(model: Path) -> Iterator[Fleet]:
    with Fleet(*ENGINE, "--model", str(model)) as running:
        yield running


def bodies(count: int) -> list[dict[str, object]]:
    rng = random.Random(5)
    return [
        {
            "model": MODEL,
            "prompt": [rng.randrange(2, 4000) for _ in range(rng.randint(4, 200))],
            "max_tokens": rng.randint(2, 40),
            "temperature": 0,
        }
        for _ in range(count)
    ]


async def stream(client: AsyncOpenAI, body: dict[str, object]) -> tuple[str, int]:
    """The text, and the tokens that the usage tells of."""
    text, tokens = "", 0
    options = {"include_usage": True}
    answer = await client.completions.create(**body, stream=True, stream_options=options)  # type: ignore[call-overload]
    async for chunk in answer:
        text += "".join(choice.text for choice in chunk.choices)
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return text, tokens


async def streams(url: str, wanted: list[dict[str, object]]) -> list[tuple[str, int]]:
    async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        return await asyncio.gather(*(stream(client, body) for body in wanted))


def completed(agent: str) -> float:
    """Requests that ended there; one that is recalled ends elsewhere, and counts here, too."""
    values = scrape(agent).values
    return sum(n for name, n in values.items() if 'outcome="completed"' in name)


def test_64_streams_say_what_one_at_a_time_says(fleet: Fleet) -> None:
    wanted = bodies(64)
    told = asyncio.run(streams(fleet.url, wanted))
    served = [completed(agent) for agent in fleet.agents]
    assert min(served) > 0
    assert sum(served) == 64
    for body, (text, tokens) in list(zip(wanted, told, strict=True))[::8]:
        alone = http.post(fleet.agents[0] + "/v1/completions", json=body).json()
        assert alone["choices"][0]["text"] == text
        assert alone["usage"]["completion_tokens"] == tokens


def test_it_says_that_it_is_real(fleet: Fleet) -> None:
    (entry,) = fleet.get("/v1/models").json()["data"]
    assert (entry["id"], entry["emulated"]) == (MODEL, False)
    assert entry["owned_by"] == "makespan-transformers"
    assert entry["max_model_len"] == 2048


def test_work_is_stopped_when_its_client_leaves(fleet: Fleet) -> None:
    body = {**bodies(1)[0], "max_tokens": 1800, "ignore_eos": True, "stream": True}
    with http.stream("POST", fleet.url + "/v1/completions", json=body) as answer:
        next(answer.iter_bytes())
    eventually(lambda: all(_running(agent) == 0 for agent in fleet.agents))


def _running(agent: str) -> float:
    return scrape(agent).values["makespan_kv_tokens{}"]


def test_a_fleet_whose_model_is_missing_does_not_start() -> None:
    with Process("up", "--port", "0", "--engine", "transformers", "--model", "/no/model") as up:
        up.wait_for(r"(no folder '/no/model')")
        up.wait_for(r"(agent-\d did not start)")
        assert up.process.wait(PATIENCE_S) == 1


def test_a_killed_engines_unsent_requests_are_served_elsewhere(fleet: Fleet) -> None:
    """The last of this file's, as its fleet is not whole after it."""
    wanted = [{**body, "max_tokens": 60, "ignore_eos": True} for body in bodies(48)]

    async def play() -> list[httpx.Response]:
        async with http.AsyncClient() as client:
            url = fleet.url + "/v1/completions"
            asked = [asyncio.create_task(client.post(url, json=body)) for body in wanted]
            await asyncio.sleep(0.5)
            os.kill(child(fleet.process.pid, "agent-0"), signal.SIGKILL)
            return await asyncio.gather(*asked)

    answers = asyncio.run(play())
    assert [answer.status_code for answer in answers] == [200] * 48
    assert all(answer.json()["usage"]["completion_tokens"] == 60 for answer in answers)
