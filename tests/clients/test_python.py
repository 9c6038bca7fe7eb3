"""The official SDK for Python, unchanged, against the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import AsyncOpenAI, OpenAI, Timeout

from tests.clients.conftest import all_up
from tests.e2e.test_gateway import MODEL, agents_running, in_flight
from tests.helpers import Fleet, Process, scrape
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, eventually

EXACT = {"ignore_eos": True}  # vLLM's way to say: exactly max_tokens


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Iterator[OpenAI]:
    with OpenAI(base_url=fleet.url + "/v1", api_key="-", max_retries=0) as one:
        yield one


def test_models(client: OpenAI, fleet: Fleet) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="'some/other' does not exist"):
        client.models.retrieve("some/other")
    with OpenAI(base_url=fleet.url + "/v1/", api_key="-", max_retries=0) as other:
        assert other.models.list().data[0].owned_by == "makespan-emulated"


@pytest.mark.parametrize("base", ["", "/v1/v1", "//v1"])
def test_a_wrong_base_url_is_told_the_right_path(fleet: Fleet, base: str) -> None:
    with (
        OpenAI(base_url=fleet.url + base, api_key="-", max_retries=0) as wrong,
        pytest.raises(openai.NotFoundError, match="did you mean /v1/chat/completions") as told,
    ):
        wrong.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a"}])
    assert told.value.type == "invalid_request_error"


def test_answers_in_one_piece(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Wie viele Äpfel? 苹果 🍎"}],
        n=2,
        max_tokens=5,
        extra_body={**EXACT, "guided_json": {"type": "object"}},
    )
    assert [len((choice.message.content or "").split()) for choice in chat.choices] == [5, 5]
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 10
    batch = client.completions.create(model=MODEL, prompt=["a", "b", "c"], max_tokens=3)
    assert [choice.index for choice in batch.choices] == [0, 1, 2]


def test_stop_strings(client: OpenAI) -> None:
    def text(stop: str | None) -> str:
        answer = client.completions.create(
            model=MODEL, prompt="stop", max_tokens=20, stop=stop, extra_body=EXACT
        )
        assert answer.choices[0].finish_reason == ("stop" if stop else "length")
        return answer.choices[0].text

    stop = text(None).split()[5]
    assert stop not in text(stop)


def test_streams(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            n=2,
            max_tokens=7,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=EXACT,
        )
    )
    texts = ["", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [len(text.split()) for text in texts] == [7, 7]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 14


def test_a_stream_says_what_the_answer_in_one_piece_says(client: OpenAI) -> None:
    whole = client.completions.create(
        model=MODEL, prompt="a", max_tokens=9, stream=False, extra_body=EXACT
    )
    stream = client.completions.create(
        model=MODEL, prompt="a", max_tokens=9, stream=True, extra_body=EXACT
    )
    texts = [chunk.choices[0].text for chunk in stream]
    assert len(texts) == 9
    assert "".join(texts) == whole.choices[0].text


def test_headers(client: OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt="a", max_tokens=2, extra_headers={"x-request-id": "python-1"}
    )
    assert raw.headers["x-makespan-worker"] in ("agent-0", "agent-1")
    assert raw.headers["x-request-id"] == "python-1"
    assert raw.parse()._request_id == "python-1"


def test_errors_are_the_sdks_own(client: OpenAI) -> None:
    def fail(fault: str) -> None:
        client.completions.create(
            model=MODEL, prompt="a", extra_headers={"x-makespan-fault": fault}
        )

    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=[])
    assert (bad.value.param, bad.value.code) == ("messages", "invalid_value")
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt", prompt="a")
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    for status, kind in (
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ):
        with pytest.raises(kind):
            fail(f"status={status}")
    with pytest.raises(openai.APIStatusError) as large:
        client.completions.create(model=MODEL, prompt="x" * 2_000_000)
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")


def test_a_broken_stream_raises(client: OpenAI, fleet: Fleet) -> None:
    stream = client.completions.create(
        model=MODEL,
        prompt="a",
        max_tokens=50,
        stream=True,
        extra_body=EXACT,
        extra_headers={"x-makespan-fault": "crash=5"},
    )
    chunks = (chunk.choices[0].finish_reason for chunk in stream)
    assert [next(chunks) for _ in range(5)] == [None] * 5
    with pytest.raises(openai.APIError, match="broke off") as broken:
        next(chunks)
    assert broken.value.code == "worker_failed"
    eventually(lambda: all_up(fleet))


async def test_64_streams_at_once(fleet: Fleet) -> None:
    async with AsyncOpenAI(base_url=fleet.url + "/v1", api_key="-", max_retries=0) as client:

        async def words() -> int:
            stream = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "hi"}],
                max_tokens=40,
                stream=True,
                extra_body=EXACT,
            )
            return len([chunk async for chunk in stream if chunk.choices[0].delta.content])

        assert await asyncio.gather(*(words() for _ in range(64))) == [40] * 64


def cancelled(fleet: Fleet) -> float:
    return scrape(fleet.url).total(
        f'makespan_requests_total{{model="{MODEL}",outcome="cancelled"}}'
    )


def test_a_client_that_times_out_stops_its_engine(client: OpenAI, fleet: Fleet) -> None:
    before = cancelled(fleet)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=Timeout(PATIENCE_S, read=2)).completions.create(
            model=MODEL, prompt="a", max_tokens=1900, extra_body=EXACT
        )
    eventually(lambda: cancelled(fleet) == before + 1)
    eventually(lambda: agents_running(fleet) == in_flight(fleet) == 0)


async def test_a_client_that_cancels_stops_its_engine(fleet: Fleet) -> None:
    before = cancelled(fleet)
    async with AsyncOpenAI(base_url=fleet.url + "/v1", api_key="-", max_retries=0) as client:
        stream = await client.completions.create(
            model=MODEL, prompt="a", max_tokens=1900, stream=True, extra_body=EXACT
        )
        await anext(aiter(stream))
        await stream.close()
    eventually(lambda: cancelled(fleet) == before + 1)
    eventually(lambda: agents_running(fleet) == in_flight(fleet) == 0)


def test_the_sdk_waits_as_it_is_told_and_tries_again() -> None:
    (port,) = free_ports(1)
    patience = ("--wait-for-worker-s", "0.2")
    late = f"http://127.0.0.1:{port}"
    with Process("gateway", "--port", "0", "--worker", late, *patience) as gateway:
        url = gateway.wait_for(r"listening url=(\S+)")
        with (
            OpenAI(base_url=url + "/v1", api_key="-", max_retries=20) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            answer = pool.submit(client.completions.create, model=MODEL, prompt="a", max_tokens=2)
            refused = 'makespan_requests_total{model="other",outcome="rejected_no_capacity"}'
            eventually(lambda: scrape(url).values.get(refused, 0) >= 1)
            with Process("agent", "--port", str(port), "--name", "late", "--speed", "20"):
                assert answer.result().usage is not None
        outcomes = scrape(url).values
        assert outcomes[f'makespan_requests_total{{model="{MODEL}",outcome="completed"}}'] == 1
