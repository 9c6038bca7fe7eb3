"""LangChain, by OpenAI's API and Anthropic's, unchanged, against the gateway."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import all_up
from tests.e2e.test_other_apis import Gateway
from tests.engine_server import EngineServer
from tests.helpers import Fleet
from tests.waiting import eventually

STEPS = Path(__file__).with_name("langchain_steps.py")
WORDS = 7  # asked for, as a token each
CALLED = [["weather", {"city": "Rome"}]]


@pytest.fixture(scope="module")
def results(fleet: Fleet, clients: Path) -> dict[str, Any]:
    """What came of each step of the script, by its name."""
    with EngineServer("m") as engine, Gateway(engine) as gateway:
        done = subprocess.run(
            [clients / "python", STEPS, fleet.url, gateway.url],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    eventually(lambda: all_up(fleet))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(answer: dict[str, Any], why: str | None, chunks: int | None = None) -> None:
    """All words, counted, a chunk each if they came in chunks; and why they ended."""
    assert (answer["words"], answer["tokens"], answer["why"]) == (WORDS, WORDS, why)
    assert answer["prompt"] > 0
    assert answer.get("chunks") == chunks


@pytest.mark.parametrize(
    ("step", "why"), [("chat", "length"), ("responses", None), ("messages", "max_tokens")]
)
def test_answers_and_streams_of_every_api(
    results: dict[str, Any], step: str, why: str | None
) -> None:
    check(results[step]["value"], why)
    check(results[f"{step}_stream"]["value"], why, chunks=WORDS)


def test_completions_and_several_answers(results: dict[str, Any]) -> None:
    assert results["completion"] == results["completion_stream"] == {"value": WORDS}
    assert results["two"] == {"value": [WORDS, WORDS]}


@pytest.mark.parametrize(("step", "chunks"), [("answers_at_once", None), ("streams_at_once", 7)])
def test_both_apis_at_once(results: dict[str, Any], step: str, chunks: int | None) -> None:
    answers = results[step]["value"]
    assert len(answers) == 16
    for k, answer in enumerate(answers):
        check(answer, ("length", "max_tokens")[k % 2], chunks)


def test_a_conversation_goes_on_from_the_response_before(results: dict[str, Any]) -> None:
    first, more = results["conversation"]["value"]
    check(more, None)
    assert more["prompt"] > first["prompt"]


@pytest.mark.parametrize("step", ["tools", "responses_tools", "messages_tools"])
def test_tools_of_engines_are_called(results: dict[str, Any], step: str) -> None:
    whole, stream = results[step]["value"]
    assert whole["tools"] == stream["tools"] == CALLED


def test_structured_answers_and_embeddings_of_engines(results: dict[str, Any]) -> None:
    assert results["structured"] == {"value": {"city": "Rome"}}
    assert results["embeddings"] == {"value": [[0.5, 1.5], [0.5, 1.5]]}


@pytest.mark.parametrize(
    ("step", "status", "says"),
    [
        ("no_model", 404, "'gpt' does not exist"),
        ("no_model_for_messages", 404, "'gpt' does not exist"),
        ("no_embeddings", 404, "POST /v1/embeddings: Not Found"),
        ("rate_limit", 429, "Injected fault"),
        ("broken_stream", None, "broke off"),
    ],
)
def test_errors_are_told(results: dict[str, Any], step: str, status: int | None, says: str) -> None:
    kind, code, message = results[step]["error"]
    assert code == status, kind
    assert says in message
