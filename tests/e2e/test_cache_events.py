"""Two gateways know what agents' caches hold, whoever sent it there, and what was evicted."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests import http
from tests.helpers import Process
from tests.waiting import eventually

AGENTS, REQUESTS, DOCUMENTS = 2, 60, 8
# Two or three of the documents at a time.
FLAGS = ("--port", "0", "--kv-tokens", "4096", "--max-model-len", "2048", "--speed", "100")


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[list[str], list[Process]]]:
    """Two gateways before agents that publish, and those agents."""
    with ExitStack() as stack:
        agents = [
            stack.enter_context(
                Process("agent", *FLAGS, "--name", f"a{k}", "--kv-events", "tcp://127.0.0.1:0")
            )
            for k in range(AGENTS)
        ]
        urls = [agent.wait_for(r"listening url=(\S+)") for agent in agents]
        gateways = [
            stack.enter_context(Process("gateway", "--port", "0", "--worker", ",".join(urls)))
            for _ in range(2)
        ]
        yield [gateway.wait_for(r"listening url=(\S+)") for gateway in gateways], agents


def caches(gateway: str) -> list[dict[str, Any]]:
    workers = http.get(gateway + "/makespan/v1/workers").json()["workers"]
    return [worker["cache"] for worker in workers]


def all_exact(gateways: list[str]) -> bool:
    return all(cache["knowledge"] == "exact" for gateway in gateways for cache in caches(gateway))


def told(gateway: str) -> list[int]:
    return [cache["blocks"]["known"] for cache in caches(gateway)]


def letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("abcdefghij klmnop", k=count))


def ask(gateway: str, name: str, prompt: str | None, **more: object) -> tuple[float, int]:
    """Prompt tokens that were taken to be cached where it went, and that were."""
    body = {"model": "llama-65b", "max_tokens": 2, "ignore_eos": True, **more}
    body |= {} if prompt is None else {"prompt": prompt}
    path = "/v1/chat/completions" if prompt is None else "/v1/completions"
    answer = http.post(gateway + path, json=body, headers={"x-request-id": name})
    cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    choice = http.get(f"{gateway}/makespan/v1/requests/{name}").json()["choice"]
    (chosen,) = (one for one in choice["candidates"] if one["chosen"])
    return chosen["cached_tokens"], cached


def test_what_is_predicted_is_what_engines_find(fleet: tuple[list[str], list[Process]]) -> None:
    gateways, _ = fleet
    eventually(lambda: all_exact(gateways))
    rng = random.Random(5)
    documents = [letters(rng, rng.randrange(1500, 4500)) for _ in range(DOCUMENTS)]
    predicted = found = 0.0
    for k in range(REQUESTS):
        eventually(lambda: told(gateways[0]) == told(gateways[1]))
        prompt = rng.choice(documents) + letters(rng, rng.randrange(50, 900))
        guess, cached = ask(gateways[k % 2], f"q{k}", prompt)
        predicted, found = predicted + guess, found + cached
    assert found > 0
    assert abs(predicted - found) <= 0.02 * found
    assert all_exact(gateways)
    text = http.get(gateways[0] + "/metrics").text
    assert 'makespan_worker_cache_knowledge{knowledge="exact",worker="a0"} 1.0' in text
    assert 'makespan_cache_events_total{what="told"}' in text


@pytest.mark.parametrize("field", ["cache_salt", "extra_key", "mm_processor_kwargs"])
def test_the_same_text_of_another_name_is_not_there(
    fleet: tuple[list[str], list[Process]], field: str
) -> None:
    """And makes no other prompt be there, either."""
    gateways, _ = fleet
    eventually(lambda: all_exact(gateways))
    rng = random.Random(field)
    prompt, others = letters(rng, 1500), [letters(rng, 1500) for _ in range(3)]
    assert ask(gateways[0], f"{field}-plain", prompt) == (0, 0)
    assert ask(gateways[0], f"{field}-own", prompt, **{field: {"x": 1}}) == (0, 0)
    for k, other in enumerate(others):
        eventually(lambda: told(gateways[0]) == told(gateways[1]))
        assert ask(gateways[k % 2], f"{field}-{k}", other) == (0, 0)


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_an_image_parts_prompts_where_it_stands(fleet: tuple[list[str], list[Process]]) -> None:
    gateways, _ = fleet
    eventually(lambda: all_exact(gateways))
    rng = random.Random(8)
    halves = [{"type": "text", "text": letters(rng, 2 * 448)} for _ in range(2)]
    found = list[tuple[float, int]]()
    for k, name in enumerate("112"):
        content = [halves[0], image(f"data:image/png;base64,{name}"), halves[1]]
        messages = [{"role": "user", "content": content}]
        found.append(ask(gateways[0], f"image-{k}", None, messages=messages))
        eventually(lambda: told(gateways[0]) == told(gateways[1]))
    assert max(found[0]) == 0
    assert all(predicted == cached for predicted, cached in found)
    assert found[1][1] > found[2][1] == 256


def test_a_prompt_of_several_answers_is_predicted_once_as_it_is_counted(
    fleet: tuple[list[str], list[Process]],
) -> None:
    gateways, _ = fleet
    eventually(lambda: all_exact(gateways))
    prompt = letters(random.Random(9), 1500)
    ask(gateways[0], "one", prompt)
    eventually(lambda: told(gateways[0]) == told(gateways[1]))
    predicted, found = ask(gateways[0], "four", prompt, n=4)
    assert predicted == found > 0


def test_an_agent_that_restarts_is_known_to_hold_nothing(
    fleet: tuple[list[str], list[Process]],
) -> None:
    gateways, agents = fleet
    eventually(lambda: all_exact(gateways))
    agents[0].stop(signal.SIGKILL)
    eventually(lambda: caches(gateways[0])[0]["knowledge"] == "estimated")
